"""The longest axial diameter of a lesion and the one across it, as radiologists measure them (RECIST).

The outline of a lesion in a plane runs half-way between the centres of its voxels and those beside it, as viewers draw
it. So its corners are the middles of the voxels' outer faces: one voxel is as wide as the voxel spacing.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from flare_runtime.compute.arrays import AnyArray
from flare_runtime.pipeline.components import Runs

# Widths in so many directions bound a diameter from above: it is at most the largest over the cosine of half a step.
_DIRECTIONS = 8
Points = npt.NDArray[np.float64]


class Diameters(NamedTuple):
    """Of one lesion.

    Attributes:
        longest_mm: the largest distance of two points of the outline in one plane.
        perpendicular_mm: the longest line across it at right angles, in the same plane, from side to side of the
            convex hull.
        plane: where both were measured, the lowest of several.
    """

    longest_mm: float
    perpendicular_mm: float
    plane: int


def axial_diameters(runs: Runs, spacing_mm: tuple[float, float]) -> Diameters:
    """Return the diameters of a lesion in planes of constant z.

    Args:
        runs: of the lesion, in the order of its planes.
        spacing_mm: (y, x).
    """
    begins = np.flatnonzero(np.diff(runs.z, prepend=-1))
    ends = np.append(begins[1:], len(runs.z))
    bounds = _bounds(runs, begins, spacing_mm)
    best: tuple[float, int, Points, tuple[int, int]] | None = None
    for plane in np.argsort(-bounds, kind="stable"):
        if best is not None and bounds[plane] < best[0]:
            break
        part = runs.taken(slice(begins[plane], ends[plane]))
        hull = _convex_hull(_outline(part, spacing_mm))
        distances = np.linalg.norm(hull[:, None] - hull[None], axis=-1)
        first, second = divmod(int(distances.argmax()), len(hull))
        found = round(float(distances[first, second]), 6), -int(part.z[0])
        if best is None or found > best[:2]:
            best = (*found, hull, (first, second))
    assert best is not None
    longest, plane, hull, ends_at = best
    return Diameters(round(longest, 2), round(_across(hull, *ends_at), 2), -plane)


def _bounds(runs: Runs, begins: npt.NDArray[np.intp], spacing_mm: tuple[float, float]) -> npt.NDArray[np.float64]:
    """Return for each plane what its diameter cannot exceed."""
    dy, dx = spacing_mm
    y, low, high = runs.y * dy, (runs.start - 0.5) * dx, (runs.stop - 0.5) * dx
    widest = np.zeros(len(begins))
    for angle in np.arange(_DIRECTIONS) * (np.pi / _DIRECTIONS):
        cosine, sine = np.cos(angle), np.sin(angle)
        sides = y * sine + low * cosine, y * sine + high * cosine
        highest = np.maximum.reduceat(np.maximum(*sides), begins)
        lowest = np.minimum.reduceat(np.minimum(*sides), begins)
        # A face above or below a run is half a voxel from it.
        np.maximum(widest, highest - lowest + dy * sine, out=widest)
    bounds: Points = widest / np.cos(np.pi / _DIRECTIONS / 2) + 1e-6
    return bounds


def _outline(plane: Runs, spacing_mm: tuple[float, float]) -> Points:
    """Return the outermost middles of faces along every row and column of a plane, (n, 2) in mm, (x, y)."""
    top, left = int(plane.y[0]), int(plane.start.min())
    height, width = int(plane.y[-1]) - top + 1, int(plane.stop.max()) - left
    edges = np.zeros((height, width + 1), np.int8)
    edges[plane.y - top, plane.start - left] = 1
    edges[plane.y - top, plane.stop - left] = -1  # runs do not touch each other
    inside = edges.cumsum(axis=1, dtype=np.int8)[:, :-1] > 0
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    low_x, high_x = _ends(inside[rows])
    low_y, high_y = _ends(inside[:, columns].T)
    x = np.concatenate([low_x - 0.5, high_x + 0.5, columns, columns])
    y = np.concatenate([rows, rows, low_y - 0.5, high_y + 0.5])
    return np.stack([x * spacing_mm[1], y * spacing_mm[0]], axis=1)


def _ends(rows: AnyArray) -> tuple[AnyArray, AnyArray]:
    """Return the first and the last column of each row that is inside."""
    return rows.argmax(axis=1), rows.shape[1] - 1 - rows[:, ::-1].argmax(axis=1)


def _convex_hull(points: Points) -> Points:
    """Return the corners of the convex hull of points (n, 2), one after the other around it."""
    ordered = points[np.lexsort((points[:, 1], points[:, 0]))].tolist()
    return np.array(_chain(ordered)[:-1] + _chain(ordered[::-1])[:-1])


def _chain(points: list[list[float]]) -> list[list[float]]:
    """Return the corners of one side of the hull, both ends included."""
    chain: list[list[float]] = []
    for x, y in points:
        while len(chain) > 1:
            (x1, y1), (x2, y2) = chain[-2:]
            if (x2 - x1) * (y - y1) - (y2 - y1) * (x - x1) > 0:
                break
            chain.pop()
        chain.append([x, y])
    return chain


def _across(hull: Points, first: int, second: int) -> float:
    """Return the longest line at right angles to that of two corners of a hull, within it."""
    along = hull[second] - hull[first]
    along = along / np.linalg.norm(along)
    places, heights = hull @ along, hull @ (-along[1], along[0])
    # The two ends are the outermost corners along their line, so both ways around lead from one to the other.
    one, other = sorted((first, second))
    ways = np.arange(one, other + 1), np.append(np.arange(other, len(hull)), np.arange(one + 1))
    sides = [np.interp(places, *_rising(places[way], heights[way])) for way in ways]
    return float(np.abs(sides[0] - sides[1]).max())


def _rising(places: Points, heights: Points) -> tuple[Points, Points]:
    return (places, heights) if places[0] < places[-1] else (places[::-1], heights[::-1])
