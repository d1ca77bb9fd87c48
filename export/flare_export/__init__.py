"""From an nnU-Net v2 checkpoint to a bundle that the lean runtime reads."""
