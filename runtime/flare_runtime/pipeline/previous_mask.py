"""The mask of a cascade's previous stage on the network's grid, as nnU-Net 2.8 resamples segmentations.

Every label is interpolated linearly as 0 and 1, and the largest share wins. nnU-Net counts what lies outside of the
body as a label of its own, -1. Among equal shares the label of the nearest voxel wins, else the lowest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from flare_runtime.compute.arrays import MaskArray, Shape3, Vector3
from flare_runtime.compute.box import Box
from flare_runtime.imaging.volume import slabs
from flare_runtime.model.manifest import Resampling
from flare_runtime.pipeline.interpolation import BoolArray, FloatArray64
from flare_runtime.pipeline.resampling import separate_axis

_OUTSIDE = -1
# So many voxels of the new grid are computed at a time, (z, y, x); most such blocks hold nothing.
_BLOCK = (16, 64, 64)

LabelArray: TypeAlias = npt.NDArray[np.int16]


@dataclass(frozen=True)
class _Axis:
    """Which voxels each new one lies between, the share of the second, and which of the two is the nearest."""

    first: npt.NDArray[np.intp]
    second: npt.NDArray[np.intp]
    share: FloatArray64
    nearest: npt.NDArray[np.intp]

    @classmethod
    def between(cls, old: int, new: int, order: int) -> "_Axis":
        centres = old / new * (np.arange(new) + 0.5) - 0.5
        below = np.floor(centres).astype(np.intp)
        nearest = np.floor(centres + 0.5).astype(np.intp).clip(0, old - 1)
        if order == 0:
            return cls(nearest, nearest, np.zeros(new), nearest)
        return cls(below.clip(0, old - 1), (below + 1).clip(0, old - 1), centres - below, nearest)

    def part(self, side: slice) -> "tuple[slice, _Axis]":
        """Return the old voxels that the new ones of `side` need, and where among these they lie."""
        start, stop = int(self.first[side.start]), int(self.second[side.stop - 1]) + 1
        first, second, nearest = (index[side] - start for index in (self.first, self.second, self.nearest))
        return slice(start, stop), _Axis(first, second, self.share[side], nearest)


def resized_labels(
    labels: MaskArray,
    inside: BoolArray | None,
    new_shape: Shape3,
    spacing: Vector3,
    new_spacing: Vector3,
    rule: Resampling,
) -> MaskArray:
    """Resample a mask to the network's grid.

    Args:
        labels: (z, y, x).
        inside: True where the image is not outside of the body; everywhere where None.
        new_shape: (z, y, x).
        spacing: of the mask, (z, y, x).
        new_spacing: of the grid; both decide whether an axis is resampled by itself.
        rule: of order 0 or 1, and 0 along a separate axis.
    """
    separate = separate_axis(spacing, new_spacing, rule.force_separate_z)
    axes = [
        _Axis.between(old, new, rule.order_z if axis == separate else rule.order)
        for axis, (old, new) in enumerate(zip(labels.shape, new_shape, strict=True))
    ]
    resized = np.zeros(new_shape, np.uint8)
    for box in map(Box._make, product(*(slabs(n, most) for n, most in zip(new_shape, _BLOCK, strict=True)))):
        (z, along_z), (y, along_y), (x, along_x) = (axis.part(side) for axis, side in zip(axes, box, strict=True))
        block = labels[z, y, x].astype(np.int16)
        if block.any():
            if inside is not None:
                block[(block == 0) & ~inside[z, y, x]] = _OUTSIDE
            alike = bool((block == block[0, 0, 0]).all())
            resized[box] = block[0, 0, 0] if alike else _winners(block, (along_z, along_y, along_x)).clip(0)
    return resized


def _winners(block: LabelArray, axes: tuple[_Axis, _Axis, _Axis]) -> LabelArray:
    ends = [((axis.first, 1 - axis.share), (axis.second, 1 - (1 - axis.share))) for axis in axes]
    corners = list(product(*ends))
    labels = [block[np.ix_(*(index for index, _ in corner))] for corner in corners]
    winners = labels[0]
    undecided = np.nonzero(np.any([others != winners for others in labels[1:]], axis=0))
    if len(undecided[0]):
        # In the order of `scipy.ndimage.zoom`, so that shares come out equal where they do there.
        weights = [
            in_z[undecided[0]] * in_y[undecided[1]] * in_x[undecided[2]] for (_, in_z), (_, in_y), (_, in_x) in corners
        ]
        z, y, x = (axis.nearest[at] for axis, at in zip(axes, undecided, strict=True))
        winners[undecided] = _largest_share([corner[undecided] for corner in labels], weights, block[z, y, x])
    return winners


def _largest_share(labels: Sequence[LabelArray], weights: Sequence[FloatArray64], nearest: LabelArray) -> LabelArray:
    """Return the label (n) with the largest sum of weights (n); of equal ones `nearest`, else the lowest."""
    best, nearest_share = np.zeros(len(nearest)), np.zeros(len(nearest))
    winner = np.zeros(len(nearest), np.int16)
    for label in np.unique(labels):
        share = np.zeros(len(nearest))
        for corner, weight in zip(labels, weights, strict=True):
            share += (corner == label) * weight
        better = share > best
        winner[better], best[better] = label, share[better]
        is_nearest = nearest == label
        nearest_share[is_nearest] = share[is_nearest]
    return np.where(nearest_share == best, nearest, winner)
