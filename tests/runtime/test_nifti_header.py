"""Headers that describe a grid, and headers that must not be believed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flare_runtime.errors import CaseError
from flare_runtime.imaging.nifti_header import forget_invalid, grid_geometry, grid_shape, grid_spacing
from tests.runtime.nifti_files import nifti_header, sform_fields

SHAPE = (30, 40, 50)
SPACING = (3.0, 2.0, 1.5)


def spacing_of(**fields):
    """Return spacing and remark codes of a header for 30 x 40 x 50 voxels of 3 x 2 x 1.5 mm, with changed fields."""
    spacing, remarks = grid_spacing(nifti_header(SHAPE, **fields))
    return spacing, [remark.code for remark in remarks]


def refusal(**fields):
    with pytest.raises(CaseError) as caught:
        spacing_of(**fields)
    assert "\n" not in str(caught.value)
    return caught.value.reason


def pixdim(x, y, z):
    return [1, x, y, z, 0, 0, 0, 0]


def rotation(degrees, axis=2):
    angle = np.deg2rad(degrees)
    matrix = np.eye(3)
    a, b = [i for i in range(3) if i != axis]
    matrix[a, a] = matrix[b, b] = np.cos(angle)
    matrix[a, b], matrix[b, a] = -np.sin(angle), np.sin(angle)
    return matrix


# --- shape


@pytest.mark.parametrize(
    ("dim", "expected"),
    [
        ([3, 5, 6, 7, 1, 1, 1, 1], (7, 6, 5)),
        ([3, 5, 6, 7, 9, 9, 9, 9], (7, 6, 5)),  # beyond the rank nothing counts
        ([4, 5, 6, 7, 1, 1, 1, 1], (7, 6, 5)),
        ([7, 5, 6, 7, 1, 1, 1, 1], (7, 6, 5)),
        ([3, 1, 1, 1, 1, 1, 1, 1], (1, 1, 1)),
    ],
)
def test_shapes_are_three_dimensional(dim, expected):
    assert grid_shape(nifti_header(SHAPE, dim=dim)) == expected


@pytest.mark.parametrize(
    "dim",
    [
        [0, 5, 6, 7, 1, 1, 1, 1],
        [1, 5, 1, 1, 1, 1, 1, 1],
        [2, 5, 6, 7, 1, 1, 1, 1],
        [4, 5, 6, 7, 2, 1, 1, 1],
        [5, 5, 6, 7, 1, 3, 1, 1],
        [4, 5, 6, 7, 0, 1, 1, 1],
        [3, 5, 0, 7, 1, 1, 1, 1],
        [3, 5, -6, 7, 1, 1, 1, 1],
        [8, 5, 6, 7, 1, 1, 1, 1],
        [-3, 5, 6, 7, 1, 1, 1, 1],
    ],
)
def test_other_dimensions_are_refused(dim):
    with pytest.raises(CaseError, match="one 3D volume is needed") as caught:
        grid_shape(nifti_header(SHAPE, dim=dim))
    assert caught.value.reason == "bad_dimensions"


# --- spacing


def test_a_sound_header_gives_its_spacing_in_array_order():
    assert spacing_of() == (SPACING, [])


@pytest.mark.parametrize(("unit", "factor"), [(0, 1), (2, 1), (2 | 8, 1), (1, 1000), (3, 0.001)])
def test_units_become_millimetres(unit, factor):
    x, y, z = (side / factor for side in (1.5, 2.0, 3.0))
    spacing, remarks = spacing_of(xyzt_units=unit, pixdim=pixdim(x, y, z), **sform_fields(np.diag([x, y, z])))
    assert spacing == pytest.approx(SPACING, rel=1e-6)
    assert remarks == []


def test_a_negative_pixdim_counts_by_its_size():
    assert spacing_of(pixdim=pixdim(-1.5, 2, 3)) == (SPACING, [])


@pytest.mark.parametrize("bad", [0, np.nan, np.inf, 1e-30, 1e30])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_spacings_that_cannot_be_are_refused(bad, axis):
    sides = [1.5, 2.0, 3.0]
    sides[axis] = bad
    assert refusal(pixdim=pixdim(*sides)) == "bad_spacing"


# --- orientation


def test_without_qform_and_sform_there_is_a_remark():
    assert spacing_of(qform_code=0, sform_code=0) == (SPACING, ["no_orientation"])


def test_the_qform_alone_is_enough():
    assert spacing_of(sform_code=0, srow_x=[np.nan] * 4) == (SPACING, [])


@pytest.mark.parametrize("bad", [{"quatern_b": np.nan}, {"quatern_b": 0.9, "quatern_c": 0.9}])
def test_an_impossible_quaternion_alone_is_refused(bad):
    assert refusal(sform_code=0, **bad) == "bad_orientation"


@pytest.mark.parametrize(
    "bad", [{"quatern_b": np.nan}, {"quatern_b": 1e30}, {"pixdim": [np.nan, 1.5, 2, 3, 0, 0, 0, 0]}]
)
def test_an_impossible_quaternion_beside_a_sound_sform_does_no_harm(bad):
    assert spacing_of(**bad) == (SPACING, ["bad_qform"])


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("axis", "xyz")
def test_an_offset_that_is_no_number_is_refused_in_any_form_that_is_set(bad, axis, version):
    row = [*nifti_header(SHAPE)[f"srow_{axis}"][:3], bad]
    assert refusal(version=version, **{f"qoffset_{axis}": bad}) == "bad_orientation"
    assert refusal(version=version, **{f"srow_{axis}": row}) == "bad_orientation"
    assert refusal(version=version, sform_code=0, **{f"qoffset_{axis}": bad}) == "bad_orientation"
    assert refusal(version=version, qform_code=0, **{f"srow_{axis}": row}) == "bad_orientation"
    # What is not set is not read.
    assert spacing_of(version=version, qform_code=0, **{f"qoffset_{axis}": bad}) == (SPACING, [])
    assert spacing_of(version=version, sform_code=0, **{f"srow_{axis}": row}) == (SPACING, [])


@pytest.mark.filterwarnings("error")
def test_numbers_too_large_to_compute_with_raise_no_warning():
    assert refusal(version=2, **sform_fields(np.diag([1e38, 2.0, 3.0]))) == "spacing_mismatch"
    assert spacing_of(version=2, **sform_fields(np.diag([1e300, 2.0, 3.0]))) == (SPACING, ["bad_sform"])


SINGULAR = {
    "zeros": np.zeros((3, 3)),
    "a zero column": np.diag([1.5, 2.0, 0.0]),
    "NaN": np.full((3, 3), np.nan),
    "infinite": np.diag([np.inf, 2.0, 3.0]),
    "NaN beside numbers": np.diag([1.5, 2.0, np.nan]),
    "parallel columns": np.array([[1.5, 2.0, 0], [0, 0, 0], [0, 0, 3.0]]),
}


@pytest.mark.parametrize("columns", SINGULAR.values(), ids=SINGULAR.keys())
def test_a_singular_sform_falls_back_on_the_qform(columns):
    assert spacing_of(**sform_fields(columns)) == (SPACING, ["bad_sform"])


@pytest.mark.parametrize("columns", SINGULAR.values(), ids=SINGULAR.keys())
@pytest.mark.parametrize("qform", [{"qform_code": 0}, {"qform_code": 1, "quatern_d": np.inf}])
def test_a_singular_sform_without_a_valid_qform_is_refused(columns, qform):
    assert refusal(**sform_fields(columns), **qform) == "bad_orientation"


@pytest.mark.parametrize("degrees", [0, 3, 16.5, 45, 90, 180])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("flip", [1, -1])
def test_oblique_and_mirrored_axes_are_fine(degrees, axis, flip):
    columns = rotation(degrees, axis) @ np.diag([flip * 1.5, 2.0, 3.0])
    assert spacing_of(**sform_fields(columns)) == (SPACING, [])


@pytest.mark.parametrize(("factor", "accepted"), [(1.005, True), (0.995, True), (1.02, False), (0.9, False)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_sform_and_pixdim_must_agree_on_the_spacing(factor, accepted, axis):
    sides = np.array([1.5, 2.0, 3.0])
    sides[axis] *= factor
    if accepted:
        assert spacing_of(**sform_fields(np.diag(sides))) == (SPACING, [])
    else:
        assert refusal(**sform_fields(np.diag(sides))) == "spacing_mismatch"


@given(
    sides=st.tuples(*[st.floats(0.11, 19)] * 3),
    degrees=st.tuples(*[st.floats(-180, 180)] * 3),
    flip=st.sampled_from([1, -1]),
)
def test_every_rotation_of_every_grid_is_accepted(sides, degrees, flip):
    turn = rotation(degrees[0], 0) @ rotation(degrees[1], 1) @ rotation(degrees[2], 2)
    columns = turn @ np.diag(np.array(sides) * [flip, 1, 1])
    spacing, remarks = spacing_of(pixdim=pixdim(*sides), **sform_fields(columns))
    assert spacing == pytest.approx(sides[::-1], rel=1e-6)
    assert remarks == []


@given(numbers=st.lists(st.floats(width=32), min_size=16, max_size=16), codes=st.tuples(*[st.integers(0, 4)] * 2))
def test_no_header_raises_anything_but_a_refusal(numbers, codes):
    header = nifti_header(SHAPE, qform_code=codes[0], sform_code=codes[1])
    header["pixdim"][1:4] = numbers[:3]
    header["srow_x"], header["srow_y"], header["srow_z"] = numbers[3:7], numbers[7:11], numbers[11:15]
    header["quatern_b"] = numbers[15]
    try:
        spacing, reason = grid_spacing(header)[0], None
    except CaseError as error:
        spacing, reason = (1.0, 1.0, 1.0), error.reason
    assert reason in {None, "bad_spacing", "bad_orientation", "spacing_mismatch"}
    assert all(1e-6 <= side <= 1e6 for side in spacing)


# --- what is not believed is not passed on


def test_an_invalid_form_is_unset_and_a_valid_one_is_left_as_it_is():
    header = nifti_header(SHAPE, **sform_fields(np.full((3, 3), np.nan)))
    before = header.copy()
    forget_invalid(header, grid_spacing(header)[1])
    assert int(header["sform_code"]) == 0
    assert all(header[f"srow_{axis}"].tolist() == [0] * 4 for axis in "xyz")
    for name in ("pixdim", "qform_code", "quatern_b", "qoffset_x", "qoffset_z"):
        assert header[name].tobytes() == before[name].tobytes(), name

    header = nifti_header(SHAPE, quatern_c=np.nan)
    forget_invalid(header, grid_spacing(header)[1])
    assert int(header["qform_code"]) == 0
    assert np.isfinite([header[f"quatern_{axis}"] for axis in "bcd"]).all()
    assert header["srow_x"].tobytes() == nifti_header(SHAPE)["srow_x"].tobytes()

    sound = nifti_header(SHAPE)
    before = sound.binaryblock
    forget_invalid(sound, grid_spacing(sound)[1])
    assert sound.binaryblock == before


# --- the grid


def geometry_of(**fields):
    header = nifti_header(SHAPE, **fields)
    return grid_geometry(header, SHAPE, grid_spacing(header)[0])


def test_the_affine_is_the_one_that_nibabel_finds():
    quaternion = {"quatern_b": 0.1, "quatern_c": -0.3, "quatern_d": 0.5}
    for fields in (
        {},
        sform_fields(rotation(30) @ np.diag([1.5, 2, 3])),
        {"sform_code": 0, **quaternion},
        {"sform_code": 0, **quaternion, "pixdim": [-1, 1.5, 2, 3, 0, 0, 0, 0]},
    ):
        expected = nifti_header(SHAPE, **fields).get_best_affine()
        np.testing.assert_allclose(geometry_of(**fields).affine, expected, atol=1e-5)


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=3).filter(lambda parts: np.dot(parts, parts) <= 1))
def test_a_quaternion_turns_as_in_nibabel(parts):
    fields = dict(zip(("quatern_b", "quatern_c", "quatern_d"), parts, strict=True))
    header = nifti_header(SHAPE, version=2, sform_code=0, **fields)
    np.testing.assert_allclose(grid_geometry(header, SHAPE, SPACING).affine, header.get_best_affine(), atol=1e-7)


@pytest.mark.parametrize(
    "fields",
    [
        {"pixdim": [1, -1.5, 2, 3, 0, 0, 0, 0]},
        {"pixdim": [0, 1.5, 2, 3, 0, 0, 0, 0]},
        {"quatern_d": np.float32(1 + 2e-5)},
        {"qform_code": -1},
        {"dim": [4, 50, 40, 30, 1, 1, 1, 1], "qform_code": 0},
    ],
)
def test_grids_that_nibabel_does_not_read_are_compared_too(fields):
    odd = geometry_of(sform_code=0, **fields)
    assert odd.difference(odd) is None
    assert "mm off" in odd.difference(geometry_of(srow_x=[1.5, 0, 0, 90]))


def test_units_do_not_make_a_difference():
    metres = np.diag([0.0015, 0.002, 0.003])
    other = geometry_of(
        xyzt_units=1, pixdim=pixdim(0.0015, 0.002, 0.003), **sform_fields(metres, (-0.005, -0.006, -0.007))
    )
    assert geometry_of().difference(other) is None


@pytest.mark.parametrize("shift", [np.nan, np.inf, 1e300])
def test_a_difference_that_is_no_number_is_a_difference(shift):
    header = nifti_header(SHAPE, version=2, srow_y=[0, 2, 0, shift])
    sound, odd = geometry_of(), grid_geometry(header, SHAPE, SPACING)
    assert "mm off" in sound.difference(odd)
    assert "mm off" in odd.difference(sound)
    if not np.isfinite(shift):
        assert "mm off" in odd.difference(odd)


@given(shift=st.floats(-3, 3))
def test_the_difference_is_the_distance_of_the_corners(shift):
    found = geometry_of().difference(geometry_of(srow_z=[0, 0, 3, -7 + shift]))
    if abs(abs(shift) - 0.075) > 1e-4:  # a twentieth of the smallest side
        assert (found is None) == (abs(shift) < 0.075)
