"""Arrays turned so that their axes point elsewhere in the patient, and turned back."""

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nibabel.orientations import apply_orientation, axcodes2ornt, ornt_transform

from flare_runtime.errors import UsageError
from flare_runtime.imaging.geometry import Geometry
from flare_runtime.imaging.orientation import ORIENTATIONS, Turn, check_orientation, orientation_of

codes = st.sampled_from(sorted(ORIENTATIONS))


def test_there_are_48_ways_to_store_a_grid():
    assert len(ORIENTATIONS) == 48
    assert {"LPS", "RAS", "PSR", "ASL"} < ORIENTATIONS


@pytest.mark.parametrize("code", ["", "lps", "LRS", "LPSA", "XYZ", None, 3])
def test_what_names_no_three_axes_is_refused(code):
    with pytest.raises(UsageError, match="name an end of each of the patient's axes"):
        check_orientation("reorient", code)


def test_a_scan_from_feet_to_head_is_turned_by_hand():
    stored = np.arange(24).reshape(2, 3, 4)  # z, y, x of LPS: x grows to the left, y to the back
    turned = Turn.between("LPS", "RAS").view(stored)
    np.testing.assert_array_equal(turned, stored[:, ::-1, ::-1])
    sagittal = Turn.between("LPS", "ASL").view(stored)  # x to the front, y to the head, z to the left
    np.testing.assert_array_equal(sagittal, stored.transpose(2, 0, 1)[:, :, ::-1])


@given(stored=codes, wanted=codes)
def test_arrays_are_turned_as_nibabel_turns_them(stored, wanted):
    array = np.arange(24).reshape(4, 3, 2)  # x, y, z, as nibabel has it
    expected = apply_orientation(array, ornt_transform(axcodes2ornt(stored), axcodes2ornt(wanted)))
    np.testing.assert_array_equal(Turn.between(stored, wanted).view(array.T), expected.T)


@given(stored=codes, wanted=codes)
def test_what_is_written_into_a_turned_mask_is_turned_back(stored, wanted):
    scan = np.arange(24).reshape(1, 2, 3, 4)
    mask = np.zeros_like(scan)
    turn = Turn.between(stored, wanted)
    turn.view(mask)[...] = turn.view(scan)
    np.testing.assert_array_equal(mask, scan)


@given(stored=codes, wanted=codes)
def test_a_turned_grid_points_where_it_is_to_and_has_every_voxel_where_it_was(stored, wanted):
    lengths = dict(zip("LRPAIS", (1, 1, 2, 2, 5, 5), strict=True))
    columns = [{"L": 0, "R": 0, "P": 1, "A": 1, "I": 2, "S": 2}[letter] for letter in stored]
    affine = np.diag([0.0, 0, 0, 1])
    for axis, (row, letter) in enumerate(zip(columns, stored, strict=True)):
        affine[row, axis] = lengths[letter] * (1 if letter in "RAS" else -1)
    affine[:3, 3] = 7, -8, 9
    x, y, z = (float(lengths[letter]) for letter in stored)
    grid = Geometry(affine, (z, y, x), (4, 3, 2))
    assert grid.orientation == stored == "".join(nib.aff2axcodes(affine))
    turn = Turn.between(stored, wanted)
    turned = grid.turned(turn)
    assert turned.orientation == wanted == orientation_of(turned.affine)
    places = np.stack(np.indices(grid.shape), axis=-1)[..., ::-1] @ affine[:3, :3].T + affine[:3, 3]
    turned_places = np.stack(np.indices(turned.shape), axis=-1)[..., ::-1] @ turned.affine[:3, :3].T
    for axis in range(3):
        np.testing.assert_allclose(turned_places[..., axis] + turned.affine[axis, 3], turn.view(places[..., axis]))
    np.testing.assert_allclose(turned.spacing_mm, [lengths[letter] for letter in wanted[::-1]])


@given(
    angles=st.tuples(*[st.sampled_from([0, 30, 45, 90, 135]) | st.floats(-180, 180)] * 3),
    shear=st.floats(-0.5, 0.5),
    spacing_mm=st.tuples(*[st.floats(0.1, 10)] * 3),
)
def test_oblique_axes_point_where_nibabel_says(angles, shear, spacing_mm):
    affine = np.eye(4)
    for axis, angle in enumerate(np.radians(angles)):
        turn, (first, second) = np.eye(4), [other for other in range(3) if other != axis]
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        affine = affine @ turn
    affine[:3, 2] += shear * affine[:3, 1]
    affine[:3, :3] *= spacing_mm
    assert orientation_of(affine) == "".join(nib.aff2axcodes(affine))
