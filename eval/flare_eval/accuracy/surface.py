"""Surface Dice at a tolerance (NSD): DeepMind's surface elements, and the distance from each to the other surface."""

from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
import numpy.typing as npt

from flare_runtime.compute.arrays import Shape3, Vector3
from flare_runtime.pipeline.crop import mask_box

BoolArray = npt.NDArray[np.bool_]
FloatArray64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SurfaceDistances:
    """Two surfaces as elements, each with its distance to the other surface.

    Attributes:
        areas: of the reference's and of the prediction's elements, mm^2.
        distances: of the same, mm; infinite beyond `limit_mm`.
        limit_mm: how far was looked.
    """

    areas: tuple[FloatArray64, FloatArray64]
    distances: tuple[FloatArray64, FloatArray64]
    limit_mm: float

    def surface_dice(self, tolerance_mm: float) -> float:
        """Return the share of both surfaces' area that lies within the tolerance of the other.

        Raises:
            ValueError: where the tolerance is beyond `limit_mm`.
        """
        if tolerance_mm > self.limit_mm:
            raise ValueError(f"distances were measured up to {self.limit_mm} mm; {tolerance_mm} is asked for")
        near = [float(a[d <= tolerance_mm].sum()) for a, d in zip(self.areas, self.distances, strict=True)]
        total = sum(float(a.sum()) for a in self.areas)
        return sum(near) / total if total else 1.0


def surface_distances(
    reference: BoolArray, prediction: BoolArray, spacing_mm: Vector3, limit_mm: float
) -> SurfaceDistances:
    """Measure how far two masks' surfaces are apart, as DeepMind's `surface_distance` does.

    A surface element sits where the eight voxels about a corner of the grid are not all alike; its area is that of
    the marching-cubes surface through them. In place of two distance transforms of the volume, the elements that are
    not on the other surface anyway look up their nearest neighbour in a k-d tree.

    Args:
        reference: axes in the order of `spacing_mm`; the challenge's are (x, y, z).
        prediction: of the same shape.
        spacing_mm: per axis.
        limit_mm: farther neighbours need not be found.

    Raises:
        ValueError: where the shapes differ.
    """
    if reference.shape != prediction.shape:
        raise ValueError(f"the masks measure {reference.shape} and {prediction.shape}")
    box = mask_box(reference, prediction)
    codes = [_corner_codes(mask if box is None else mask[box]) for mask in (reference, prediction)]
    borders = [(code != 0) & (code != 255) for code in codes]
    table = element_areas(spacing_mm)
    areas = [table[code[border]] for code, border in zip(codes, borders, strict=True)]
    positions = [np.argwhere(border) for border in borders]
    distances = []
    for here, own, other, border in zip(positions, borders, positions[::-1], borders[::-1], strict=True):
        shared = border[own]
        to_other = np.zeros(len(here))
        to_other[~shared] = _nearest(here[~shared], other, spacing_mm, limit_mm)
        distances.append(to_other)
    return SurfaceDistances((areas[0], areas[1]), (distances[0], distances[1]), limit_mm)


@lru_cache(maxsize=64)
def element_areas(spacing_mm: Vector3) -> FloatArray64:
    """Return the area in mm^2 of the surface element of each of the 256 corner codes, from DeepMind's tables."""
    from surface_distance import lookup_tables

    return np.asarray(lookup_tables.create_table_neighbour_code_to_surface_area(spacing_mm), np.float64)


def _corner_codes(mask: BoolArray) -> npt.NDArray[np.uint8]:
    """Return for each corner of the voxel grid which of its eight voxels are set, as DeepMind numbers them."""
    shape: Shape3 = (mask.shape[0] + 1, mask.shape[1] + 1, mask.shape[2] + 1)
    codes = np.zeros(shape, np.uint8)
    voxels = mask.view(np.uint8)
    for bit, (a, b, c) in enumerate(product((0, 1), repeat=3)):
        # The corner (i, j, k) lies between the voxels i - 1 and i, ...; the lower ones carry the higher bits.
        where = tuple(slice(1 - side, n + 1 - side) for side, n in zip((a, b, c), mask.shape, strict=True))
        codes[where] |= voxels << np.uint8(7 - bit)
    return codes


def _nearest(
    points: npt.NDArray[np.intp], others: npt.NDArray[np.intp], spacing_mm: Vector3, limit_mm: float
) -> FloatArray64:
    """Return the distance in mm of each grid point to the nearest of the others, infinite beyond the limit."""
    from scipy.spatial import cKDTree

    distances = np.full(len(points), np.inf)
    if not len(points) or not len(others):
        return distances
    spacing = np.asarray(spacing_mm, np.float64)
    reach = limit_mm + float(spacing.min())  # so that rounding cannot lose a neighbour at the limit itself
    tree = cKDTree(others * spacing, balanced_tree=False, compact_nodes=False)
    _, index = tree.query(points * spacing, distance_upper_bound=reach, workers=-1)
    near = index < len(others)
    # From whole steps, as a distance transform computes it: equal distances come out equal to the last bit.
    steps = (points[near] - others[index[near]]) * spacing
    distances[near] = np.sqrt((steps**2).sum(axis=1))
    return distances
