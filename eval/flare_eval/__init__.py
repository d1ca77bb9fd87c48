"""How good a segmentation is, and a picture of it; no torch."""
