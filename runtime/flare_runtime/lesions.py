"""The connected components of a mask: how many lesions, how large, where."""

from dataclasses import dataclass

import numpy as np

from flare_runtime.arrays import AnyArray, MaskArray, Vector3
from flare_runtime.crop import mask_box


@dataclass(frozen=True)
class Lesion:
    """One 26-connected component.

    Attributes:
        label: its value in the mask.
        voxels: how many it has.
        volume_ml: in millilitres.
        centre: its mean voxel index, (z, y, x).
    """

    label: int
    voxels: int
    volume_ml: float
    centre: Vector3


def find_lesions(mask: MaskArray, spacing_mm: Vector3) -> list[Lesion]:
    """Return the components of every label of `mask` (z, y, x), the largest first."""
    from scipy.ndimage import label as connect

    box = mask_box(mask)
    if box is None:
        return []
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    inner = mask[box]
    lesions = []
    for value in range(1, int(inner.max()) + 1):
        components, count = connect(inner == value, structure=np.ones((3, 3, 3)))
        sizes, centres = _sizes_and_centres(components, count)
        for index, size in enumerate(sizes):
            z, y, x = (float(centres[axis][index] + box[axis].start) for axis in range(3))
            centre = (round(z, 1), round(y, 1), round(x, 1))
            lesions.append(Lesion(value, int(size), round(int(size) * voxel_ml, 3), centre))
    return sorted(lesions, key=lambda lesion: -lesion.voxels)


def _sizes_and_centres(components: AnyArray, count: int) -> tuple[AnyArray, AnyArray]:
    """Return each component's voxel count and mean index (3, count), slice by slice: no index array of the volume."""
    sums = np.zeros((4, count + 1))
    for z, plane in enumerate(components):
        y, x = np.nonzero(plane)
        ids = plane[y, x]
        here = np.bincount(ids, minlength=count + 1)
        sums[0] += here
        sums[1] += z * here
        sums[2] += np.bincount(ids, y, count + 1)
        sums[3] += np.bincount(ids, x, count + 1)
    sizes = sums[0, 1:]
    return sizes, sums[1:, 1:] / sizes
