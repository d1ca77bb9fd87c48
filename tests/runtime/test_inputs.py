"""What may be given as an image in Python: the same voxels in the same place, whatever holds them."""

import os
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from flare_runtime import Segmenter, Volume, read_volume
from flare_runtime.errors import CaseError, UsageError
from flare_runtime.imaging.inputs import as_volumes
from flare_runtime.imaging.write import write_mask
from flare_runtime.options import RunOptions
from tests.runtime.nifti_files import blobs, sform_fields, write_nifti

SHAPE, SPACING = (12, 16, 18), (3.0, 2.0, 1.5)
SCAN = blobs(SHAPE)
ROOT3 = np.sqrt(3)
# Voxels of 1.5 x 2 x 3 mm (x, y, z), tilted by 30 degrees about x, the first at (-10, -20, 30) mm to the right, front
# and head.
COLUMNS = np.array([[1, 0, 0], [0, ROOT3 / 2, -0.5], [0, 0.5, ROOT3 / 2]]) @ np.diag([1.5, 2, 3])
AFFINE = np.block([[COLUMNS, np.array([[-10], [-20], [30]])], [np.zeros((1, 3)), np.ones((1, 1))]])
# Voxel (x, y, z) = (4, 3, 2) by hand: -10 + 4 * 1.5; -20 + 3 * sqrt(3) - 2 * 1.5; 30 + 3 * 1 + 2 * 3 * sqrt(3) / 2.
VOXEL, PLACE = (4, 3, 2), (-4, -23 + 3 * ROOT3, 33 + 3 * ROOT3)


def itk_image(itk, voxels=SCAN):
    """The scan as SimpleITK holds it, whose x and y grow to the left and back."""
    image = itk.GetImageFromArray(voxels)
    image.SetSpacing((1.5, 2.0, 3.0))
    image.SetOrigin((10.0, 20.0, 30.0))
    flip = np.diag([-1, -1, 1])
    image.SetDirection((flip @ COLUMNS / (1.5, 2, 3)).ravel().tolist())
    return image


def nibabel_image(voxels=SCAN):
    return nib.Nifti1Image(voxels.T, AFFINE)


@pytest.fixture
def itk():
    return pytest.importorskip("SimpleITK")


@pytest.fixture
def path(tmp_path):
    return write_nifti(tmp_path / "a.nii", SCAN, qform_code=0, **sform_fields(COLUMNS, (-10, -20, 30)))


def only(volumes):
    (volume,) = volumes
    return volume


def place_of(volume):
    return (volume.geometry.affine @ (*VOXEL, 1))[:3]


# --- one image, whatever holds it


@pytest.mark.parametrize("kind", ["path", "str", "Volume", "nibabel", "nibabel from a file", "SimpleITK"])
def test_every_kind_of_image_has_its_voxels_where_they_are(itk, path, kind):
    image = {
        "path": lambda: path,
        "str": lambda: str(path),
        "Volume": lambda: read_volume(path),
        "nibabel": nibabel_image,
        "nibabel from a file": lambda: nib.load(path),
        "SimpleITK": lambda: itk_image(itk),
    }[kind]()
    volume = only(as_volumes(image))
    np.testing.assert_array_equal(volume.voxels, SCAN)
    assert volume.voxels.dtype == SCAN.dtype
    assert volume.spacing_mm == pytest.approx(SPACING, rel=1e-6)
    np.testing.assert_allclose(place_of(volume), PLACE, atol=1e-5)
    assert (volume.slope, volume.intercept, volume.remarks) == (1, 0, ())


@pytest.mark.parametrize("kind", ["nibabel", "SimpleITK"])
def test_a_mask_lies_where_its_image_does(itk, tmp_path, kind):
    mask = np.zeros(SHAPE, np.uint8)
    mask[VOXEL[::-1]] = 1
    image = nibabel_image() if kind == "nibabel" else itk_image(itk)
    write_mask(tmp_path / "mask.nii.gz", mask, only(as_volumes(image)).template)
    by_nibabel, by_itk = nib.load(tmp_path / "mask.nii.gz"), itk.ReadImage(str(tmp_path / "mask.nii.gz"))
    np.testing.assert_array_equal(np.argwhere(np.asarray(by_nibabel.dataobj)), [VOXEL])
    np.testing.assert_allclose(by_nibabel.affine @ (*VOXEL, 1), (*PLACE, 1), atol=1e-4)
    np.testing.assert_allclose(by_itk.TransformIndexToPhysicalPoint(VOXEL), (-PLACE[0], -PLACE[1], PLACE[2]), atol=1e-4)
    assert itk.GetArrayFromImage(by_itk)[VOXEL[::-1]] == 1


def test_every_kind_gets_one_mask(itk, tiny_bundle, tmp_path):
    segmenter = Segmenter.load(tiny_bundle, RunOptions(device="cpu", precision="fp32", threads=1))
    scan = write_nifti(tmp_path / "scan.nii.gz", SCAN, spacing_mm=SPACING)
    expected = segmenter.segment(SCAN, SPACING).mask
    assert 0 < np.count_nonzero(expected) < expected.size
    for image in (scan, read_volume(scan), nib.load(scan), itk.ReadImage(str(scan)), [scan]):
        result = segmenter.segment(image)
        np.testing.assert_array_equal(result.mask, expected)
        result.save(tmp_path / "mask.nii.gz")
        assert read_volume(scan).geometry.difference(read_volume(tmp_path / "mask.nii.gz").geometry) is None


@pytest.mark.parametrize("turn", [np.eye(3), np.array([[0, 0, -1], [1, 0, 0], [0, -1, 0]])], ids=["straight", "turned"])
def test_simpleitk_and_nibabel_agree_on_every_axis(itk, tmp_path, turn):
    image = itk.GetImageFromArray(SCAN)
    image.SetSpacing((1.5, 2.0, 3.0))
    image.SetOrigin((1.0, -2.0, 3.0))
    image.SetDirection(turn.ravel().tolist())
    itk.WriteImage(image, str(tmp_path / "a.nii.gz"))
    in_memory, from_file = only(as_volumes(image)), read_volume(tmp_path / "a.nii.gz")
    assert in_memory.geometry.difference(from_file.geometry) is None
    np.testing.assert_allclose(in_memory.geometry.affine, nib.load(tmp_path / "a.nii.gz").affine, atol=1e-5)


def test_a_nibabel_image_of_a_file_with_a_slope_is_what_the_reader_reads(tmp_path):
    path = write_nifti(tmp_path / "a.nii.gz", SCAN, scl_slope=7.1094, scl_inter=-1024)
    image, read = only(as_volumes(nib.load(path))), read_volume(path)
    assert (image.slope, image.intercept) == (read.slope, read.intercept)
    np.testing.assert_array_equal(image.intensities(image.voxels), read.intensities(read.voxels))


@pytest.mark.parametrize("endianness", ["<", ">"])
@pytest.mark.parametrize("version", [1, 2])
def test_a_mask_of_a_nibabel_image_keeps_its_header(tmp_path, endianness, version):
    path = write_nifti(
        tmp_path / "a.nii", SCAN, endianness=endianness, version=version, descrip=b"Doe^Jane", qform_code=2
    )
    volume = only(as_volumes(nib.load(path)))
    assert volume.voxels.dtype.isnative
    for name, template in (("image", volume.template), ("file", read_volume(path).template)):
        write_mask(tmp_path / f"{name}.nii", SCAN.astype(np.uint8), template)
    assert (tmp_path / "image.nii").read_bytes() == (tmp_path / "file.nii").read_bytes()


def test_a_pair_of_files_becomes_a_single_mask(tmp_path):
    nib.save(nib.Nifti1Pair(SCAN.T, AFFINE), tmp_path / "a.img")
    write_mask(tmp_path / "mask.nii", SCAN.astype(np.uint8), only(as_volumes(nib.load(tmp_path / "a.img"))).template)
    np.testing.assert_array_equal(read_volume(tmp_path / "mask.nii").voxels, SCAN.astype(np.uint8))


def test_nibabel_images_of_other_formats_have_their_geometry(tmp_path):
    image = nib.MGHImage(SCAN.T.astype(np.float32), AFFINE)
    volume = only(as_volumes(image))
    np.testing.assert_allclose(place_of(volume), PLACE, atol=1e-5)
    assert volume.source is None
    write_mask(tmp_path / "mask.nii", SCAN.astype(np.uint8), volume.template)
    assert volume.geometry.difference(read_volume(tmp_path / "mask.nii").geometry) is None


@pytest.mark.parametrize("name", ["a.mgz", "a.mgh"])
def test_a_file_that_only_nibabel_reads_is_segmented(tmp_path, tiny_bundle, name):
    nib.save(nib.MGHImage(SCAN.T.astype(np.int16), AFFINE), tmp_path / name)
    segmenter = Segmenter.load(tiny_bundle, RunOptions(device="cpu", precision="fp32", threads=1))
    result = segmenter.segment(nib.load(tmp_path / name))
    np.testing.assert_array_equal(result.mask, segmenter.segment(nibabel_image(SCAN.astype(np.int16))).mask)


def test_a_nibabel_image_of_a_file_cut_short_is_a_case_refused(path):
    image = nib.load(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CaseError, match=r"a\.nii: ") as caught:
        as_volumes(image)
    assert caught.value.reason == "unreadable"


# --- several channels


def test_channels_come_as_a_list_of_any_kinds(itk, path):
    volumes = as_volumes([path, nibabel_image(SCAN + 1), itk_image(itk, SCAN + 2)])
    assert [int((volume.voxels - SCAN).max()) for volume in volumes] == [0, 1, 2]
    assert not any(volumes[0].geometry.difference(other.geometry) for other in volumes)
    assert len(as_volumes((SCAN, SCAN), SPACING)) == len(as_volumes(np.stack([SCAN, SCAN]), SPACING)) == 2


# --- what is odd


def test_images_in_memory_are_looked_at_like_files(itk):
    voxels = SCAN.astype(np.float32)
    voxels[0, 0, :5] = np.nan
    for image in (nibabel_image(voxels), itk_image(itk, voxels)):
        volume = only(as_volumes(image))
        assert (volume.nonfinite, volume.remarks) == (5, ())


def test_what_no_grid_is_like_is_refused(itk):
    sheared = AFFINE.copy()
    sheared[0, 1] = 1.0
    flat, far = itk_image(itk), itk_image(itk)
    flat.SetSpacing((1.5, 2.0, 0.01))
    far.SetOrigin((np.inf, 0, 0))
    for image, reason in (
        (nib.MGHImage(SCAN.T.astype(np.float32), sheared), "sheared"),
        (nib.Nifti1Image(SCAN.T, sheared), "sheared"),
        (nib.Nifti1Image(np.stack([SCAN.T, SCAN.T], axis=-1), AFFINE), "bad_dimensions"),
        (nib.Nifti1Image(SCAN[0], AFFINE), "bad_dimensions"),
        (flat, "bad_spacing"),
        (far, "bad_orientation"),
        (itk.GetImageFromArray(SCAN[0]), "bad_dimensions"),
        (itk.GetImageFromArray(np.stack([SCAN, SCAN], axis=-1), isVector=True), "unsupported_type"),
    ):
        with pytest.raises(CaseError) as caught:
            as_volumes(image)
        assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("image", "spacing", "says"),
    [
        (None, None, r"the image is of type NoneType; give a path, a Volume, an array \(z, y, x\) with spacing_mm"),
        (7, None, "of type int; give a path"),
        ({"image": SCAN}, None, "of type dict"),
        (b"a.nii", None, "of type bytes"),
        ([[SCAN]], SPACING, "spacing_mm goes with arrays, not with a list"),
        ("", None, "the image is an empty path"),
        ([[SCAN]], None, "of type list"),
        (SCAN, None, "an array needs spacing_mm"),
        (SCAN, 1.5, r"spacing_mm is 1\.5; give three positive numbers"),
        (SCAN, ("a", 1, 1), "give three positive numbers"),
        (SCAN.astype(complex), SPACING, "of type complex128; give real numbers"),
        (SCAN.astype(object), SPACING, "of type object; give real numbers"),
        (np.zeros((0, 4, 4)), SPACING, "it holds nothing"),
        ("scan.nii", SPACING, "spacing_mm goes with arrays"),
    ],
)
def test_what_is_no_image_gets_one_helpful_line(image, spacing, says):
    with pytest.raises(UsageError, match=says) as caught:
        as_volumes(image, spacing)
    assert "\n" not in str(caught.value)


def test_an_array_in_another_byte_order_is_turned():
    volume = only(as_volumes(SCAN.astype(SCAN.dtype.newbyteorder(">")), SPACING))
    assert volume.voxels.dtype.isnative
    np.testing.assert_array_equal(volume.voxels, SCAN)
    assert np.shares_memory(only(as_volumes(SCAN, SPACING)).voxels, SCAN)


def test_a_file_that_is_missing_or_too_large_is_a_case_refused(path):
    with pytest.raises(CaseError, match=r"missing\.nii: No such file"):
        as_volumes(path.with_name("missing.nii"))
    with pytest.raises(CaseError, match="at most 10 are allowed"):
        as_volumes(path, max_voxels=10)


def test_neither_library_is_imported_for_an_array():
    code = (
        "import sys, numpy as np\n"
        "from flare_runtime.imaging.inputs import as_volumes\n"
        "as_volumes(np.ones((3, 3, 3)), (1, 1, 1))\n"
        "print(*{'nibabel', 'SimpleITK'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert run.stdout == "\n"


def test_a_volume_is_taken_as_it_is():
    volume = Volume.of_array(SCAN, SPACING)
    assert only(as_volumes(volume)) is volume
