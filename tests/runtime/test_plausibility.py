"""Grids that scans can have, and grids that are taken for broken headers."""

import numpy as np
import pytest

from flare_runtime.errors import CaseError
from flare_runtime.imaging.geometry import Geometry
from flare_runtime.imaging.plausibility import USUAL, Plausibility

MICRO = Plausibility.around((0.05, 0.05, 0.05))
THICK = Plausibility.around((25.0, 1.0, 1.0))


def grid(spacing_mm, shape=(4, 4, 4), **more):
    return Geometry(np.diag([*spacing_mm[::-1], 1.0]), spacing_mm, shape, **more)


def sheared(degrees, shape=(11, 11, 11)):
    """Return a grid of 1 mm whose z axis leans towards x."""
    affine = np.eye(4)
    affine[:3, 2] = np.sin(np.radians(degrees)), 0, np.cos(np.radians(degrees))
    return Geometry(affine, (1.0, 1.0, 1.0), shape)


def refusal(plausible, geometry):
    try:
        plausible.check(geometry)
    except CaseError as error:
        return error.reason
    return None


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize(
    ("plausible", "side", "reason"),
    [
        (USUAL, 0.099, "bad_spacing"),
        (USUAL, 0.101, None),
        (USUAL, 19.9, None),
        (USUAL, 20.1, "bad_spacing"),
        (MICRO, 0.0126, None),
        (MICRO, 0.0124, "bad_spacing"),
        (MICRO, 19.9, None),
        (MICRO, 20.1, "bad_spacing"),
        (THICK, 99, None),
        (THICK, 101, "bad_spacing"),
        (THICK, 0.099, "bad_spacing"),
        (Plausibility(None), 1e-5, None),
        (Plausibility(None), 1e5, None),
    ],
)
def test_spacings_are_compared_with_those_of_the_model(plausible, side, reason, axis):
    spacing = [1.0, 1.0, 1.0]
    spacing[axis] = side
    assert refusal(plausible, grid(tuple(spacing))) == reason


@pytest.mark.parametrize("spacing_mm", [(2.5, 0.8, 0.8), (5.0, 0.4, 0.4), (1.0, 1.0, 1.0), (3.27, 0.98, 0.98)])
def test_models_of_usual_spacings_keep_the_usual_bounds(spacing_mm):
    assert Plausibility.around(spacing_mm) == USUAL


@pytest.mark.parametrize(
    ("plausible", "slices", "reason"),
    [(USUAL, 600, None), (USUAL, 601, "bad_spacing"), (THICK, 3000, None), (THICK, 3001, "bad_spacing")],
)
def test_so_are_extents(plausible, slices, reason):
    assert refusal(plausible, grid((5.0, 1.0, 1.0), (slices, 4, 4))) == reason


def test_lengths_may_be_compared_as_the_file_has_them():
    micrometres = grid((0.005, 0.005, 0.005), unit_mm=0.001)
    assert refusal(USUAL, micrometres) == "bad_spacing"
    assert refusal(Plausibility.around((5.0, 5.0, 5.0), in_file_units=True), micrometres) is None


def test_what_the_owner_of_an_array_says_of_it_is_not_checked():
    assert USUAL.check(Geometry(None, (1e4, 1.0, 1.0), (4, 4, 4))) == ()


@pytest.mark.parametrize(
    ("degrees", "remarks", "reason"),
    [(0, 0, None), (0.005, 0, None), (0.01, 1, None), (0.59, 1, None), (0.61, 0, "sheared"), (18.5, 0, "sheared")],
)
def test_a_little_shear_is_remarked_upon_and_more_is_refused(degrees, remarks, reason):
    assert refusal(USUAL, sheared(degrees)) == reason
    if reason is None:
        assert [remark.code for remark in USUAL.check(sheared(degrees))] == ["sheared"] * remarks


def test_how_much_is_a_persons_choice():
    assert refusal(Plausibility(shear_degrees=20), sheared(18.5)) is None
    assert refusal(Plausibility(shear_degrees=0), sheared(0.01)) == "sheared"


def test_the_remark_says_how_far_the_farthest_corner_is_moved():
    (remark,) = Plausibility(shear_degrees=1).check(sheared(1.0, (101, 101, 101)))
    # Both axes turn by half a degree, so a corner 50 mm along each moves by 50 mm times that angle, along each.
    assert remark.text == (
        "the axes are 1 degrees off right angles; the nearest at right angles were used, "
        f"which moves no voxel by more than {50 * np.radians(0.5) * 2**0.5:.2g} mm"
    )
