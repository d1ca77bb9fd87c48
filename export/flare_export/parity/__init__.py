"""Whether a bundle agrees with nnU-Net."""
