"""The 26-connected components of a mask, found from its rows of voxels.

Runs of voxels along x are connected in place of voxels: a label image would take four bytes a voxel of the scan. Noise
has so many of them that a label image is quicker, and no larger.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from flare_runtime.pipeline.interpolation import BoolArray

IntArray: TypeAlias = npt.NDArray[np.int64]
# Up to so many runs are connected, which takes some 20 MiB, or one for so many voxels. In noise a label image takes
# less: four bytes a voxel beside the foreground.
_MANY_RUNS, _VOXELS_A_RUN = 100_000, 64


@dataclass(frozen=True)
class Runs:
    """Maximal rows of voxels: plane, row, first column, column after the last; in the volume's order."""

    z: IntArray
    y: IntArray
    start: IntArray
    stop: IntArray

    def taken(self, which: npt.NDArray[np.bool_ | np.int64] | slice) -> "Runs":
        """Return some of the runs, or all in another order."""
        return Runs(self.z[which], self.y[which], self.start[which], self.stop[which])


def find_runs(foreground: BoolArray) -> Runs:
    """Return the runs of a mask (z, y, x)."""
    width = foreground.shape[2]
    columns: list[list[IntArray]] = [[], [], [], []]  # of z, y, start and stop, plane by plane
    for z, plane in enumerate(foreground):
        voxels = np.flatnonzero(plane)
        if not len(voxels):
            continue
        # A run begins where the voxel before is not the one to the left, or is in the row above.
        begins = np.flatnonzero((np.diff(voxels, prepend=-2) != 1) | (voxels % width == 0))
        y, start = np.divmod(voxels[begins], width)
        stop = start + np.diff(begins, append=len(voxels))
        for column, part in zip(columns, (np.full(len(y), z), y, start, stop), strict=True):
            column.append(part)
    return Runs(*(np.concatenate(column) if column else np.empty(0, np.int64) for column in columns))


def are_many(runs: int, foreground: BoolArray) -> bool:
    """Whether to label the voxels of a mask takes less than to connect so many runs of it."""
    return runs > max(_MANY_RUNS, foreground.size // _VOXELS_A_RUN)


def components(runs: Runs, foreground: BoolArray) -> tuple[IntArray, IntArray]:
    """Return the component of every run of `foreground`, counted from 0, and the voxels of every component."""
    if are_many(len(runs.z), foreground):
        ids = _by_label_image(runs, foreground)
    else:
        roots = _connect(len(runs.z), np.concatenate(list(_touching(runs)), axis=1))
        _, ids = np.unique(roots, return_inverse=True)
    return ids, np.bincount(ids, runs.stop - runs.start).astype(np.int64)


def _by_label_image(runs: Runs, foreground: BoolArray) -> IntArray:
    labels, _ = label_image(foreground)
    return labels[runs.z, runs.y, runs.start].astype(np.int64) - 1


def label_image(foreground: BoolArray) -> tuple[npt.NDArray[np.int32 | np.int64], int]:
    """Return the component of every voxel, counted from 1 in the volume's order, 0 outside; and how many there are."""
    from scipy import ndimage  # takes half the time of a cold start

    labels = np.empty(foreground.shape, np.int32 if foreground.size <= np.iinfo(np.int32).max else np.int64)
    return labels, int(ndimage.label(foreground, np.ones((3, 3, 3)), labels))


def _connect(size: int, pairs: npt.NDArray[np.intp]) -> IntArray:
    """Return for each of `size` nodes the lowest node it is connected with through `pairs` (2, n)."""
    roots = np.arange(size)
    first, second = pairs
    while len(first):
        low = np.minimum(roots[first], roots[second])
        for end in (first, second):
            np.minimum.at(roots, roots[end], low)
        while (roots[roots] != roots).any():
            roots = roots[roots]
        apart = roots[first] != roots[second]
        first, second = first[apart], second[apart]
    return roots


def _touching(runs: Runs) -> Iterator[npt.NDArray[np.intp]]:
    """Yield (2, n) pairs of runs with voxels that are neighbours, each pair once."""
    width = int(runs.stop.max(initial=0)) + 2
    height = int(runs.y.max(initial=0)) + 2
    rows = runs.z * height + runs.y
    # One number line for all rows, with a gap between them that no neighbour reaches across.
    first, last = rows * width + runs.start, rows * width + runs.stop - 1
    for dz, dy in ((0, 1), (1, -1), (1, 0), (1, 1)):
        ahead = (dz * height + dy) * width
        # Of the runs of the row ahead, those that end at the column before this run or later, ...
        low = np.searchsorted(last, first + ahead - 1)
        # ... up to those that begin at the column after it.
        high = np.searchsorted(first, last + ahead + 1, side="right")
        counts = np.maximum(high - low, 0)
        here = np.repeat(np.arange(len(rows)), counts)
        there = np.arange(len(here)) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(low, counts)
        yield np.stack([here, there])
