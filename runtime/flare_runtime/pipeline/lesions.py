"""The connected components of a mask: how many lesions, how large, where."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from flare_runtime.compute.arrays import MaskArray, Vector3
from flare_runtime.imaging.geometry import Geometry
from flare_runtime.pipeline.crop import mask_box

IntArray: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Lesion:
    """One 26-connected component.

    Attributes:
        label: its value in the mask.
        voxels: how many it has.
        volume_ml: in millilitres.
        centre: its mean voxel index, (z, y, x).
        extent_mm: the sides of the smallest box along the voxel axes that holds it, (z, y, x).
        name: what its label is called; of labels that overlap, the smallest.
        centre_mm: the place of `centre`, (x, y, z), towards the patient's right, front and head (RAS+, as in NIfTI);
            None where the image's place is unknown.
    """

    label: int
    voxels: int
    volume_ml: float
    centre: Vector3
    extent_mm: Vector3
    name: str | None = None
    centre_mm: Vector3 | None = None

    def described(self, names: Mapping[int, str], geometry: Geometry) -> "Lesion":
        """Return the lesion with its label's name, and with its place in an image of this geometry."""
        name = names.get(self.label)
        if geometry.affine is None:
            return replace(self, name=name)
        x, y, z = (round(float(side), 1) for side in (geometry.affine @ (*self.centre[::-1], 1))[:3])
        return replace(self, name=name, centre_mm=(x, y, z))


@dataclass(frozen=True)
class _Runs:
    """Maximal rows of voxels of one label: plane, row, first column, column after the last; in the volume's order."""

    z: IntArray
    y: IntArray
    start: IntArray
    stop: IntArray


def find_lesions(mask: MaskArray, spacing_mm: Vector3, most: int | None = None) -> list[Lesion]:
    """Return the components of every label of `mask` (z, y, x), the largest first, and not more than `most`.

    Runs of voxels along x are connected in place of voxels: a label image would take four bytes a voxel of the scan.
    """
    box = mask_box(mask)
    if box is None:
        return []
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    lesions = []
    for value in range(1, int(mask[box].max()) + 1):
        runs = _find_runs(mask[box] == value)
        voxels, centres, sides = _components(runs, most)
        for count, *vectors in zip(voxels.tolist(), centres + box.start, sides * spacing_mm, strict=True):
            centre, extent = ((round(z, 1), round(y, 1), round(x, 1)) for z, y, x in (v.tolist() for v in vectors))
            lesions.append(Lesion(value, count, round(count * voxel_ml, 3), centre, extent))
    return sorted(lesions, key=lambda lesion: -lesion.voxels)[:most]


def _find_runs(foreground: npt.NDArray[np.bool_]) -> _Runs:
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
    return _Runs(*(np.concatenate(column) if column else np.empty(0, np.int64) for column in columns))


def _components(runs: _Runs, most: int | None) -> tuple[IntArray, npt.NDArray[np.float64], IntArray]:
    """Return voxels (n), mean index (n, 3) and sides in voxels (n, 3) of the `most` largest, the largest first."""
    roots = _connect(len(runs.z), np.concatenate(list(_touching(runs)), axis=1))
    _, ids = np.unique(roots, return_inverse=True)
    voxels = np.bincount(ids, runs.stop - runs.start).astype(np.int64)
    largest = np.argsort(-voxels, kind="stable")[:most]
    places = np.full(len(voxels), -1)
    places[largest] = np.arange(len(largest))
    places = places[ids]
    kept, voxels = places >= 0, voxels[largest]
    places, z, y, start, stop = (column[kept] for column in (places, runs.z, runs.y, runs.start, runs.stop))
    lengths = stop - start
    centres = [np.bincount(places, lengths * middle) / voxels for middle in (z, y, (start + stop - 1) / 2)]
    sides = [
        _largest_by(places, last) + _largest_by(places, -first) + 1
        for first, last in ((z, z), (y, y), (start, stop - 1))
    ]
    return voxels, np.stack(centres, axis=1), np.stack(sides, axis=1)


def _largest_by(places: IntArray, values: IntArray) -> IntArray:
    """Return the largest of the values at every place; there is one at each from 0 to the highest."""
    largest = np.full(int(places.max(initial=-1)) + 1, np.iinfo(np.int64).min)
    np.maximum.at(largest, places, values)
    return largest


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


def _touching(runs: _Runs) -> Iterator[npt.NDArray[np.intp]]:
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
