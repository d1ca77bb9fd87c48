"""Small label images for the tests of evaluation."""

import nibabel
import numpy as np

SPACING = (2.0, 1.0, 0.5)  # (z, y, x)


def ball(shape, centre, radius, spacing=(1.0, 1.0, 1.0)):
    """Return a uint8 ball; centre in voxels, radius in mm."""
    grid = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    squares = [((axis - middle) * side) ** 2 for axis, middle, side in zip(grid, centre, spacing, strict=True)]
    return (sum(squares) <= radius**2).astype(np.uint8)


def cube(shape, start, stop):
    """Return a uint8 box from `start` up to and without `stop`, (z, y, x)."""
    mask = np.zeros(shape, np.uint8)
    mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = 1
    return mask


def write(path, mask, spacing=SPACING, origin=(0.0, 0.0, 0.0)):
    """Write a (z, y, x) array as NIfTI and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([*spacing[::-1], 1.0])
    affine[:3, 3] = origin
    nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(mask.T), affine), path)
    return path
