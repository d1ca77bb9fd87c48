"""The slices of a series in the order that they lie in, and the one grid that they make; what makes none is refused."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from flare_runtime.errors import CaseError
from flare_runtime.imaging.dicom.headers import Slice
from flare_runtime.imaging.geometry import Geometry

Floats: TypeAlias = npt.NDArray[np.float64]

# How far a slice may lie from its place on a regular grid, as a share of the step. Headers hold rounded positions,
# which counts where slices are thin.
_MAX_UNEVENNESS, _ROUNDING_MM, _MAX_ROUNDED_UNEVENNESS = 0.1, 0.1, 0.25
# Slices that are closer than this share of the step lie in one place.
_SAME_PLACE = 0.05
# The largest sine between the stack and the normal of its slices: 0.6 degrees, as the axes of any image.
_MAX_TILT = 0.01
# The largest difference of the components of two directions that are the same.
SAME_DIRECTION = 1e-3
_SAME_SPACING = 1e-3


def stack(slices: Sequence[Slice]) -> tuple[list[Slice], Geometry]:
    """Return slices in the order of their places along their normal, and their grid.

    The first axis of the grid is the normal, rows x columns as SimpleITK takes it; the places are those of the headers.

    Raises:
        CaseError: `no_position`, `mixed_slices`, `duplicate_slices`, `missing_slices`, `uneven_slices`, `gantry_tilt`,
            `bad_orientation` or `bad_spacing`.
    """
    ordered, axes, places = _ordered(slices)
    step = _step(ordered, places, axes[2])
    return ordered, _geometry(ordered, axes, step, places[0], ordered[0].shape)


def stack_tilted(slices: Sequence[Slice]) -> tuple[list[Slice], Geometry, Floats]:
    """Return the slices of a tilted gantry in their order, a grid at right angles that holds them, and where they lie.

    Where a slice's first pixel lies is the row and the column of the grid (slices, 2), in general between its voxels.

    Raises:
        CaseError: as `stack` does, but for the tilt.
    """
    ordered, axes, places = _ordered(slices)
    rows, columns, normal = axes
    step = _step(ordered, places, normal, may_be_tilted=True)
    down_and_right = np.stack([columns, rows])
    sides = np.array(ordered[0].spacing_mm)
    starts = (places - places[0]) @ down_and_right.T / sides
    first = starts.min(axis=0)
    height, width = (np.array(ordered[0].shape) + np.ceil(np.ptp(starts, axis=0))).astype(int).tolist()
    origin = places[0] + (first * sides) @ down_and_right
    return ordered, _geometry(ordered, axes, step @ normal * normal, origin, (height, width)), starts - first


def _ordered(slices: Sequence[Slice]) -> tuple[list[Slice], Floats, Floats]:
    """Return slices in their order, the directions of their rows, columns and normal, and their places in mm."""
    first = slices[0]
    for one in slices:
        _check_like(one, first)
    rows, columns = np.reshape(np.array(first.orientation), (2, 3))
    normal = _normal(rows, columns)
    places = np.array([one.position_mm for one in slices])
    order = np.argsort(places @ normal, kind="stable")
    axes = np.stack([rows / np.linalg.norm(rows), columns / np.linalg.norm(columns), normal])
    return [slices[index] for index in order], axes, places[order]


def _geometry(slices: Sequence[Slice], axes: Floats, step: Floats, origin: Floats, shape: tuple[int, int]) -> Geometry:
    between_rows, between_columns = np.array(slices[0].spacing_mm)
    affine = np.eye(4)
    affine[:3, 0] = axes[0] * between_columns
    affine[:3, 1] = axes[1] * between_rows
    affine[:3, 2] = step
    affine[:3, 3] = origin
    affine[:2] *= -1  # DICOM's axes grow to the left and back
    return Geometry.of_affine(affine, (len(slices), *shape))


def _check_like(one: Slice, first: Slice) -> None:
    """Refuse a slice that says too little of its place, or is not of one kind with the first."""
    places = {
        "ImagePositionPatient": one.position_mm,
        "ImageOrientationPatient": one.orientation,
        "PixelSpacing": one.spacing_mm,
    }
    if absent := [keyword for keyword, value in places.items() if value is None]:
        text = f"{one.file.name} does not say where its pixels lie in the patient (no {', no '.join(absent)})"
        raise CaseError("no_position", f"{text}; export the series anew, and keep these when it is anonymised")
    own, usual = np.array(one.spacing_mm), np.array(first.spacing_mm)
    if not np.allclose(own, usual, rtol=_SAME_SPACING, atol=0):
        theirs, ours = (f"{row:g} x {column:g} mm" for row, column in (own, usual))
        raise CaseError(
            "mixed_slices", f"the pixels of {one.file.name} measure {theirs}, those of {first.file.name} {ours}"
        )
    if one.shape != first.shape:
        theirs, ours = (f"{rows} x {columns}" for rows, columns in (one.shape, first.shape))
        raise CaseError("mixed_slices", f"{one.file.name} has {theirs} pixels, {first.file.name} {ours}")


def _normal(rows: Floats, columns: Floats) -> Floats:
    normal = np.cross(rows, columns)
    length = float(np.linalg.norm(normal))
    if not 0.9 < length < 1.1:
        raise CaseError("bad_orientation", "rows and columns are not at right angles; mend the headers")
    unit: Floats = normal / length
    return unit


def _step(slices: Sequence[Slice], places: Floats, normal: Floats, *, may_be_tilted: bool = False) -> Floats:
    """Return the way from a slice to the next in mm, after it was found to be the same everywhere."""
    if len(slices) == 1:
        thickness = slices[0].thickness_mm
        if not thickness:
            raise CaseError("bad_spacing", f"{slices[0].file.name} is one slice that does not say how thick it is")
        return normal * thickness
    heights = places @ normal
    steps = np.diff(heights)
    usual = float(np.median(steps))
    same = np.flatnonzero(steps <= _SAME_PLACE * usual)
    if len(same):
        pair = " and ".join(slices[same[0] + offset].file.name for offset in (0, 1))
        raise CaseError("duplicate_slices", f"{pair} lie in one place, as {len(same)} of {len(slices)} slices do")
    way: Floats = (places[-1] - places[0]) / (len(slices) - 1)
    sine = float(np.linalg.norm(way - (way @ normal) * normal) / np.linalg.norm(way))
    if sine > _MAX_TILT and not may_be_tilted:
        angle = float(np.degrees(np.arcsin(min(sine, 1.0))))
        text = f"the slices are {angle:.1f} degrees off a right angle to their stack, as of a tilted gantry"
        raise CaseError("gantry_tilt", f"{text}; --straighten-tilt moves them")
    _check_even(slices, heights, usual)
    return way


def _check_even(slices: Sequence[Slice], heights: Floats, usual: float) -> None:
    steps = np.diff(heights)
    widest = int(np.argmax(steps))
    names = " and ".join(slices[widest + offset].file.name for offset in (0, 1))
    text = f"between {names} there are {steps[widest]:.4g} mm, elsewhere {usual:.4g} mm"
    missing = np.round(steps / usual) - 1
    allowed = max(_MAX_UNEVENNESS * usual, min(_ROUNDING_MM, _MAX_ROUNDED_UNEVENNESS * usual))
    whole = np.abs(steps - (1 + missing) * usual) <= 2 * allowed
    if missing.max() >= 1 and np.all(whole):
        raise CaseError("missing_slices", f"{int(missing.sum())} slice(s) are missing: {text}; export the series anew")
    regular = np.linspace(heights[0], heights[-1], len(heights))
    off = float(np.abs(heights - regular).max())
    if off > allowed:
        least = f"{steps.min():.4g}"
        raise CaseError("uneven_slices", f"the slices lie unevenly, at least {least} mm apart: {text}; resample them")
