"""The outlines of a mask's regions in one slice, as closed polygons that meet no pixel's centre."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from flare_runtime.compute.arrays import AnyArray

# (points, 2): column, row; the first point does not come again at the end.
Polygon: TypeAlias = npt.NDArray[np.float64]


def outlines(plane: AnyArray) -> list[Polygon]:
    """Return one polygon for each connected region of a mask (rows, columns), halfway between its pixels and others.

    A hole is joined to the outline around it by a line that is run through twice (a keyhole), so that the pixels of the
    mask, and no others, have their centres inside a polygon.
    """
    rows, columns = (np.flatnonzero(plane.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return []
    from contourpy import FillType, contour_generator

    first = np.array([columns[0], rows[0]])
    region = np.pad(plane[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 1)
    generator = contour_generator(z=region.astype(np.float32), name="serial", fill_type=FillType.OuterOffset)
    polygons = []
    for points, offsets in zip(*generator.filled(0.5, 1.5), strict=True):
        rings = [_corners(points[start : stop - 1]) for start, stop in pairwise(offsets)]
        polygons.append(_joined(rings[0], rings[1:]) + first - 1)
    return polygons


def _corners(ring: Polygon) -> Polygon:
    """Return a ring without the points that lie between their neighbours."""
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    turns = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    corners: Polygon = ring[turns]
    return corners


def _joined(outline: Polygon, holes: Sequence[Polygon]) -> Polygon:
    """Join holes to an outline, each by a line from its leftmost point to the nearest of what is joined already."""
    for hole in sorted(holes, key=lambda ring: float(ring[:, 0].min())):
        start = int(hole[:, 0].argmin())
        ring = np.roll(hole, -start, axis=0)
        nearest = int(((outline - ring[0]) ** 2).sum(axis=1).argmin())
        outline = np.concatenate([outline[: nearest + 1], ring, ring[:1], outline[nearest:]])
    return outline
