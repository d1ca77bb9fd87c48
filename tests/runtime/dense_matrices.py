"""A banded matrix written out."""

import numpy as np


def dense(matrix):
    """Return a (new, old) array."""
    out = np.zeros((matrix.new, matrix.old), np.float32)
    for band in matrix.bands:
        out[band.rows, band.columns] = band.weights
    return out
