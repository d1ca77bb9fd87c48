"""Reading NIfTI: the same values as SimpleITK for sound files, a named refusal for the others."""

import gzip

import nibabel as nib
import numpy as np
import pytest

from flare_runtime.errors import CaseError
from flare_runtime.imaging.nifti_fields import read_fields
from flare_runtime.imaging.nifti_mask import mask_header
from flare_runtime.imaging.read import read_volume
from tests.runtime.nifti_files import CODES, blobs, nifti_bytes, noise, sform_fields, write_nifti

SPACING = (3.0, 2.0, 1.5)
VOXELS = noise((6, 7, 8))
PLAIN = nifti_bytes(VOXELS)
PACKED = gzip.compress(PLAIN, mtime=0)


def flipped(data, place, bit=1):
    changed = bytearray(data)
    changed[place] ^= bit
    return bytes(changed)


def codes(volume):
    return [remark.code for remark in volume.remarks]


def read_or_reason(path):
    """Return the volume and None, or None and why it was refused."""
    try:
        return read_volume(path), None
    except CaseError as error:
        return None, error.reason


def intensities(volume):
    return volume.intensities(volume.voxels)


@pytest.fixture
def itk():
    return pytest.importorskip("SimpleITK")


def itk_read(itk, path):
    """Read as nnU-Net's SimpleITKIO does."""
    image = itk.ReadImage(str(path))
    return itk.GetArrayFromImage(image).astype(np.float32), tuple(float(s) for s in image.GetSpacing()[::-1])


def nibabel_read(path):
    image = nib.load(path)
    return image.get_fdata().T.astype(np.float32), tuple(float(s) for s in image.header.get_zooms()[::-1])


# --- sound files


@pytest.mark.parametrize("kind", CODES)
@pytest.mark.parametrize("endianness", ["<", ">"])
@pytest.mark.parametrize("version", [1, 2])
def test_every_real_type_and_byte_order_equals_its_oracle(itk, tmp_path, kind, endianness, version):
    info = np.iinfo(kind) if kind[0] in "iu" else None
    low, high = (max(info.min, -5000), min(info.max, 5000)) if info else (-5000, 5000)
    voxels = np.random.default_rng(1).uniform(low, high, (4, 5, 6)).astype(kind)
    path = write_nifti(tmp_path / "a.nii.gz", voxels, endianness=endianness, version=version)
    volume = read_volume(path)
    # SimpleITK reads no NIfTI-2.
    expected, spacing = itk_read(itk, path) if version == 1 else nibabel_read(path)
    np.testing.assert_array_equal(volume.voxels, voxels)
    assert volume.voxels.dtype == np.dtype(kind)
    assert volume.voxels.dtype.isnative
    np.testing.assert_array_equal(intensities(volume), expected)
    assert volume.spacing_mm == spacing == SPACING
    assert volume.remarks == ()


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "A.NII.GZ"])
def test_names_do_not_change_what_is_read(tmp_path, name):
    data = PACKED if name.lower().endswith("gz") else PLAIN
    (tmp_path / name).write_bytes(data)
    volume = read_volume(tmp_path / name)
    np.testing.assert_array_equal(volume.voxels, VOXELS)
    assert codes(volume) == []


@pytest.mark.parametrize(("slope", "intercept"), [(2.5, -1024), (7.1094, -1024), (-1, 0), (1, -1000), (1e-3, 0.5)])
@pytest.mark.parametrize("kind", ["i2", "u1", "f4"])
def test_scaling_equals_simpleitk(itk, tmp_path, slope, intercept, kind):
    voxels = np.random.default_rng(1).integers(0, 255, (4, 5, 6)).astype(kind)
    path = write_nifti(tmp_path / "a.nii.gz", voxels, scl_slope=slope, scl_inter=intercept)
    expected, _ = itk_read(itk, path)
    np.testing.assert_allclose(intensities(read_volume(path)), expected, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("slope", [0, np.nan, np.inf])
@pytest.mark.parametrize("intercept", [0, -1024, np.nan])
def test_a_slope_that_is_no_number_counts_as_one(tmp_path, slope, intercept):
    volume = read_volume(write_nifti(tmp_path / "a.nii", VOXELS, scl_slope=slope, scl_inter=intercept))
    np.testing.assert_array_equal(intensities(volume), VOXELS)


def test_an_intercept_that_is_no_number_counts_as_zero(tmp_path):
    volume = read_volume(write_nifti(tmp_path / "a.nii", VOXELS, scl_slope=2, scl_inter=np.nan))
    np.testing.assert_array_equal(intensities(volume), 2.0 * VOXELS)


@pytest.mark.parametrize("unit", [0, 1, 2, 3])
def test_units_are_converted_as_simpleitk_does(itk, tmp_path, unit):
    factor = {1: 1e-3, 3: 1e3}.get(unit, 1)
    sides = np.array([1.5, 2.0, 3.0]) * factor
    path = write_nifti(
        tmp_path / "a.nii", VOXELS, xyzt_units=unit, pixdim=[1, *sides, 0, 0, 0, 0], **sform_fields(np.diag(sides))
    )
    assert read_volume(path).spacing_mm == pytest.approx(itk_read(itk, path)[1], rel=1e-6)


@pytest.mark.parametrize("fields", [{"sform_code": 0}, {"qform_code": 0}, {"qform_code": 0, "sform_code": 0}])
def test_spacing_equals_simpleitk_whatever_orientation_is_given(itk, tmp_path, fields):
    path = write_nifti(tmp_path / "a.nii", VOXELS, spacing_mm=(2.5, 0.7890625, 0.7890625), **fields)
    assert read_volume(path).spacing_mm == itk_read(itk, path)[1]


def test_a_slight_disagreement_of_sform_and_pixdim_is_settled_as_simpleitk_does(itk, tmp_path):
    path = write_nifti(tmp_path / "a.nii", VOXELS, **sform_fields(np.diag([1.505, 2.0, 3.0])))
    assert read_volume(path).spacing_mm == pytest.approx(itk_read(itk, path)[1], rel=1e-6)


def test_a_fourth_axis_of_length_one_is_dropped(tmp_path):
    volume = read_volume(write_nifti(tmp_path / "a.nii", VOXELS, dim=[4, 8, 7, 6, 1, 1, 1, 1]))
    np.testing.assert_array_equal(volume.voxels, VOXELS)


def test_voxels_may_start_late(tmp_path):
    data = nifti_bytes(VOXELS, vox_offset=1000)
    (tmp_path / "a.nii").write_bytes(data[:352] + bytes(1000 - 352) + data[352:])
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii").voxels, VOXELS)


def test_the_path_may_be_a_string(tmp_path):
    assert read_volume(str(write_nifti(tmp_path / "a.nii", VOXELS))).shape == (6, 7, 8)


@pytest.mark.parametrize(("slices", "expected"), [(1, ["few_slices"]), (2, ["few_slices"]), (3, [])])
def test_few_slices_are_remarked_upon(tmp_path, slices, expected):
    volume = read_volume(write_nifti(tmp_path / "a.nii", noise((slices, 7, 8))))
    assert volume.shape == (slices, 7, 8)
    assert codes(volume) == expected


def test_one_voxel_is_read(tmp_path):
    volume = read_volume(write_nifti(tmp_path / "a.nii.gz", np.array([[[42]]], np.int16)))
    assert (volume.shape, volume.voxels.item()) == ((1, 1, 1), 42)


# --- odd files that are read with a remark


ODD = {
    "plain, named .nii.gz": ("a.nii.gz", PLAIN, "misnamed"),
    "gzip, named .nii": ("a.nii", PACKED, "misnamed"),
    "garbage after the gzip stream": ("a.nii.gz", PACKED + b"garbage", "trailing_bytes"),
    "garbage inside the gzip stream": ("a.nii.gz", gzip.compress(PLAIN + b"garbage"), "trailing_bytes"),
    "garbage after plain voxels": ("a.nii", PLAIN + b"garbage", "trailing_bytes"),
    "no orientation": ("a.nii", nifti_bytes(VOXELS, qform_code=0, sform_code=0), "no_orientation"),
    "singular sform": ("a.nii", nifti_bytes(VOXELS, **sform_fields(np.zeros((3, 3)))), "bad_sform"),
    "impossible qform": ("a.nii", nifti_bytes(VOXELS, quatern_c=np.nan), "bad_qform"),
}


@pytest.mark.parametrize(("name", "data", "code"), ODD.values(), ids=ODD.keys())
def test_odd_files_are_read_and_remarked_upon(tmp_path, name, data, code):
    (tmp_path / name).write_bytes(data)
    volume = read_volume(tmp_path / name)
    np.testing.assert_array_equal(volume.voxels, VOXELS)
    assert volume.spacing_mm == SPACING
    assert codes(volume) == [code]


def test_several_gzip_members_need_no_remark(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(b"".join(gzip.compress(PLAIN[i : i + 100]) for i in range(0, len(PLAIN), 100)))
    volume = read_volume(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(volume.voxels, VOXELS)
    assert codes(volume) == []


# --- voxels that are no numbers


def with_bad_voxels(count, bad, kind="f4"):
    voxels = blobs((10, 10, 10)).astype(kind)
    voxels.reshape(-1)[np.random.default_rng(0).choice(1000, count, replace=False)] = bad
    return voxels


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("count", [1, 700])
@pytest.mark.parametrize("kind", ["f4", "f8"])
@pytest.mark.parametrize("endianness", ["<", ">"])
def test_voxels_that_are_no_numbers_become_the_background(tmp_path, bad, count, kind, endianness):
    voxels = with_bad_voxels(count, bad, kind)
    volume = read_volume(write_nifti(tmp_path / "a.nii", voxels, endianness=endianness))
    expected = np.where(np.isfinite(voxels), voxels, -1024)
    np.testing.assert_array_equal(intensities(volume.with_background(-1024)), expected.astype(np.float32))
    assert (volume.nonfinite, codes(volume)) == (count, [])


def test_they_become_the_background_after_scaling_too(tmp_path):
    voxels = with_bad_voxels(5, np.nan)
    volume = read_volume(write_nifti(tmp_path / "a.nii", voxels, scl_slope=2, scl_inter=-100))
    expected = np.where(np.isfinite(voxels), 2 * voxels - 100, -1024)
    np.testing.assert_allclose(intensities(volume.with_background(-1024)), expected)


def test_before_anybody_knows_the_modality_they_are_no_numbers(tmp_path):
    voxels = np.full((20, 10, 10), 5.0)
    voxels[0, 0, :4] = np.nan, np.inf, -np.inf, 1e300
    volume = read_volume(write_nifti(tmp_path / "a.nii", voxels))
    assert volume.nonfinite == 4
    np.testing.assert_array_equal(intensities(volume)[0, 0, :5], [np.nan] * 4 + [5])
    np.testing.assert_array_equal(volume.voxels, voxels)


def test_numbers_beyond_float32_never_reach_the_network(tmp_path):
    voxels = with_bad_voxels(5, 1e300, "f8")
    path = write_nifti(tmp_path / "a.nii", voxels)
    volume, reason = read_or_reason(path)
    assert reason in {None, "nonfinite"}
    assert volume is None or np.isfinite(intensities(volume.with_background(0))).all()


@pytest.mark.parametrize("kind", ["u1", "i2", "i4", "f4"])
def test_one_value_may_be_scaled_to_one_value(tmp_path, kind):
    voxels = np.full((4, 5, 6), 7, kind)
    volume = read_volume(write_nifti(tmp_path / "a.nii", voxels, scl_slope=1e-30, scl_inter=-1024))
    assert np.unique(intensities(volume)).tolist() == [-1024]


# --- the header of a mask


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("endianness", ["<", ">"])
def test_a_masks_header_keeps_the_geometry_and_describes_bytes(tmp_path, version, endianness):
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    voxels = VOXELS.astype("f4")
    path = write_nifti(
        tmp_path / "a.nii",
        voxels,
        version=version,
        endianness=endianness,
        scl_slope=3,
        scl_inter=-7,
        cal_max=99,
        intent_code=1002,
        descrip=b"someone",
        dim=[4, 8, 7, 6, 1, 1, 1, 1],
        vox_offset=1000,
    )
    path.write_bytes(path.read_bytes()[:352] + bytes(1000 - 352) + voxels.astype(f"{endianness}f4").tobytes())
    template = read_volume(path).template
    source = template.source
    before = source.tobytes()
    data = mask_header((6, 7, 8), template)
    assert source.tobytes() == before
    size = 348 if version == 1 else 540
    assert len(data) == size + 4
    header = (Nifti1Header if version == 1 else Nifti2Header)(data[:size])
    assert header["dim"].tolist() == [3, 8, 7, 6, 1, 1, 1, 1]
    assert (int(header["datatype"]), int(header["bitpix"]), float(header["vox_offset"])) == (2, 8, size + 4)
    assert (float(header["scl_slope"]), float(header["scl_inter"]), float(header["cal_max"])) == (1, 0, 0)
    assert int(header["intent_code"]) == 0
    geometry = ["pixdim", "xyzt_units", "qform_code", "sform_code", "srow_x", "srow_y", "srow_z"]
    geometry += [f"{kind}_{axis}" for kind, axes in (("quatern", "bcd"), ("qoffset", "xyz")) for axis in axes]
    for name in geometry:
        assert header[name].tolist() == source[name].tolist(), name


@pytest.mark.parametrize("version", [1, 2])
def test_free_text_of_the_image_gets_into_no_mask_unless_it_is_kept(tmp_path, version):
    fields = {"descrip": b"Doe^Jane", "aux_file": b"Jane", "intent_name": b"of Jane"}
    fields |= {"db_name": b"Doe", "data_type": b"Jane"} if version == 1 else {"unused_str": b"Doe"}
    template = read_volume(write_nifti(tmp_path / "a.nii", VOXELS, version=version, **fields)).template
    left_out, kept = (mask_header((6, 7, 8), template, keep_text=keep) for keep in (False, True))
    assert b"Jane" not in left_out
    assert b"Doe" not in left_out
    read = read_fields(kept)
    assert {name: bytes(read[name]) for name in fields} == fields


@pytest.mark.parametrize("fields", [sform_fields(np.full((3, 3), np.nan)), {"quatern_d": np.inf}])
def test_a_masks_header_has_nothing_that_was_not_believed(tmp_path, fields):
    volume = read_volume(write_nifti(tmp_path / "a.nii", VOXELS, **fields))
    data = mask_header(volume.shape, volume.template) + bytes(VOXELS.size)
    (tmp_path / "mask.nii").write_bytes(data)
    image = nib.load(tmp_path / "mask.nii")
    np.testing.assert_allclose(image.affine, [[1.5, 0, 0, -5], [0, 2, 0, -6], [0, 0, 3, -7], [0, 0, 0, 1]])
    for name in ("pixdim", "srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d"):
        assert np.isfinite(image.header[name]).all(), name


# --- real volumes


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["ct/abdomen_3mm.nii.gz", "sts/images/STS_001_0000.nii.gz"])
def test_real_volumes_equal_simpleitk(itk, shared_data, name):
    path = shared_data / name
    volume = read_volume(path)
    expected, spacing = itk_read(itk, path)
    np.testing.assert_array_equal(intensities(volume), expected)
    assert volume.spacing_mm == spacing
    assert volume.remarks == ()


@pytest.mark.shared_data
def test_a_real_oblique_volume_equals_simpleitk(itk, shared_data):
    path = shared_data / "ct/head_phantom_oblique.nii.gz"
    volume = read_volume(path)
    expected, spacing = itk_read(itk, path)
    np.testing.assert_array_equal(intensities(volume), expected)
    assert volume.spacing_mm == pytest.approx(spacing, rel=1e-6)


@pytest.mark.shared_data
def test_a_real_sheared_volume_is_refused(shared_data):
    with pytest.raises(CaseError, match="right angles") as caught:
        read_volume(shared_data / "ct/head_phantom_sheared.nii.gz")
    assert caught.value.reason == "sheared"
