"""What a segmenter costs: time, memory, processor."""
