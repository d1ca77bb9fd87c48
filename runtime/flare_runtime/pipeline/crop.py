"""Bounding boxes of what is not zero: of images, which nnU-Net crops to them, and of masks."""

from collections.abc import Sequence

import numpy as np

from flare_runtime.compute.arrays import AnyArray
from flare_runtime.compute.box import Box
from flare_runtime.imaging.volume import Volume


def nonzero_box(volumes: Sequence[Volume]) -> Box | None:
    """Return the smallest box that holds every non-zero intensity of any channel, or None where all are zero.

    Faces are peeled off from outside, so a CT in air at -1000 HU costs six slices, not a pass over the volume.
    """
    box = Box.whole(volumes[0].shape)
    for axis in range(3):
        start, stop = box.start[axis], box.stop[axis]
        while start < stop and not _has_nonzero(volumes, box, axis, start):
            start += 1
        if start == stop:
            return None
        while not _has_nonzero(volumes, box, axis, stop - 1):
            stop -= 1
        box = box.with_side(axis, slice(start, stop))
    return box


def _has_nonzero(volumes: Sequence[Volume], box: Box, axis: int, index: int) -> bool:
    face = box.with_side(axis, slice(index, index + 1))
    return any(bool(volume.intensities(volume.voxels[face]).any()) for volume in volumes)


def mask_box(*masks: AnyArray) -> Box | None:
    """Return the smallest box that holds every non-zero voxel of masks of one shape, or None where all are empty."""
    sides = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        used = np.flatnonzero(np.any([mask.any(axis=others) for mask in masks], axis=0))
        if not len(used):
            return None
        sides.append(slice(int(used[0]), int(used[-1]) + 1))
    return Box(*sides)
