"""Benchmarks: stages beside their references, and the whole case beside nnU-Net."""
