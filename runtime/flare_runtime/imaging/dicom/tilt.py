"""The slices of a tilted gantry on a grid at right angles, and a mask of that grid on the slices again."""

from collections.abc import Iterator

import numpy as np

from flare_runtime.compute.arrays import AnyArray, MaskArray, Shape3
from flare_runtime.imaging.dicom.stack import Floats


def straightened(voxels: AnyArray, starts: Floats, shape: Shape3) -> AnyArray:
    """Return the voxels (z, y, x) of slices on a grid of a shape, in which each slice begins at its row and column.

    Between pixels values are interpolated linearly; around the slices is the smallest value of all.
    """
    result = np.full(shape, voxels.min(), voxels.dtype)
    for target, pixels, start in zip(result, voxels, starts, strict=True):
        values = pixels.astype(np.float32)
        for axis in (0, 1):
            values = _moved(values, float(start[axis] % 1), axis)
        row, column = (int(side) for side in start)
        part = target[row : row + values.shape[0], column : column + values.shape[1]]
        values = values[: part.shape[0], : part.shape[1]]
        part[...] = values if voxels.dtype.kind == "f" else np.rint(values)
    return result


def _moved(values: AnyArray, share: float, axis: int) -> AnyArray:
    """Return an image, moved on by a share of a pixel along an axis, which takes one pixel more."""
    before = np.concatenate([values.take([0], axis), values], axis)
    after = np.concatenate([values, values.take([-1], axis)], axis)
    moved: AnyArray = after * np.float32(1 - share) + before * np.float32(share)
    return moved


def on_slices(mask: MaskArray, starts: Floats, shape: tuple[int, int]) -> MaskArray:
    """Return a mask (z, y, x) of the grid on the slices of a shape: of every pixel the nearest voxel's label."""
    return np.stack(list(_cut(mask, starts, shape)))


def _cut(mask: MaskArray, starts: Floats, shape: tuple[int, int]) -> Iterator[MaskArray]:
    for plane, start in zip(mask, starts, strict=True):
        row, column = np.rint(start).astype(int).tolist()
        yield plane[row : row + shape[0], column : column + shape[1]]
