"""The lesions in a mask, which are its connected components: how many, how large, where."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from flare_runtime.compute.arrays import MaskArray, Vector3
from flare_runtime.imaging.geometry import Geometry
from flare_runtime.pipeline.components import IntArray, Runs, components, find_runs
from flare_runtime.pipeline.crop import mask_box


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


def find_lesions(mask: MaskArray, spacing_mm: Vector3, most: int | None = None) -> list[Lesion]:
    """Return the components of every label of `mask` (z, y, x), the largest first, and not more than `most`."""
    box = mask_box(mask)
    if box is None:
        return []
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    lesions = []
    for value in range(1, int(mask[box].max()) + 1):
        runs = find_runs(mask[box] == value)
        voxels, centres, sides = _components(runs, most)
        for count, *vectors in zip(voxels.tolist(), centres + box.start, sides * spacing_mm, strict=True):
            centre, extent = ((round(z, 1), round(y, 1), round(x, 1)) for z, y, x in (v.tolist() for v in vectors))
            lesions.append(Lesion(value, count, round(count * voxel_ml, 3), centre, extent))
    return sorted(lesions, key=lambda lesion: -lesion.voxels)[:most]


def _components(runs: Runs, most: int | None) -> tuple[IntArray, npt.NDArray[np.float64], IntArray]:
    """Return voxels (n), mean index (n, 3) and sides in voxels (n, 3) of the `most` largest, the largest first."""
    ids, voxels = components(runs)
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
