"""What a person may ask before segmenting: which models there are, what this machine can, what would run."""
