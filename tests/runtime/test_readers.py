"""Formats of images and masks: a new one is a reader or a writer and an entry in its tuple, and nothing else."""

import json

import nibabel as nib
import numpy as np
import pytest

from flare_runtime import Segmenter, cli, read_volume
from flare_runtime.errors import CaseError
from flare_runtime.imaging import read, write
from flare_runtime.imaging.read import read_grid
from flare_runtime.options import RunOptions
from tests.runtime.example_format import RawMaskWriter, RawReader, decoded, encoded
from tests.runtime.nifti_files import blobs, write_nifti

SPACING, ORIGIN = (3.0, 2.0, 1.5), (-40.0, 20.0, 7.0)
SCAN = blobs((12, 16, 18))
OPTIONS = ("--threads", "1", "--precision", "fp32", "--device", "cpu")


@pytest.fixture
def raw_images(monkeypatch):
    """The entry of a new input format."""
    monkeypatch.setattr(read, "READERS", (*read.READERS, RawReader()))


@pytest.fixture
def raw_masks(monkeypatch):
    """The entry of a new output format."""
    monkeypatch.setattr(write, "WRITERS", (*write.WRITERS, RawMaskWriter()))


@pytest.fixture
def expected(tiny_bundle):
    """The mask of the same voxels in an array."""
    segmenter = Segmenter.load(tiny_bundle, RunOptions(device="cpu", precision="fp32", threads=1))
    mask = segmenter.segment(SCAN, SPACING).mask
    assert 0 < np.count_nonzero(mask) < mask.size
    return mask


def infer(tiny_bundle, *arguments):
    return cli.main(["-m", str(tiny_bundle), *OPTIONS, *map(str, arguments)])


def record_of(mask, suffix):
    return json.loads(mask.with_name(mask.name.removesuffix(suffix) + ".json").read_bytes())


@pytest.mark.usefixtures("raw_images")
def test_a_new_input_format_is_a_reader_and_an_entry(tmp_path, tiny_bundle, expected):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "scan_0000.raw3d").write_bytes(encoded(SCAN, SPACING, ORIGIN))
    write_nifti(tmp_path / "in" / "other.nii.gz", SCAN, spacing_mm=SPACING)
    assert infer(tiny_bundle, "-i", tmp_path / "in", "-o", tmp_path / "out") == 0
    for case in ("scan", "other"):
        image = nib.load(tmp_path / "out" / f"{case}.nii.gz")
        np.testing.assert_array_equal(np.asarray(image.dataobj).T, expected)
    mask = nib.load(tmp_path / "out" / "scan.nii.gz")
    np.testing.assert_array_equal(mask.affine, [[1.5, 0, 0, -40], [0, 2, 0, 20], [0, 0, 3, 7], [0, 0, 0, 1]])


@pytest.mark.usefixtures("raw_masks")
def test_a_new_output_format_is_a_writer_and_an_entry(tmp_path, tiny_bundle, expected):
    scan = write_nifti(tmp_path / "scan_0000.nii.gz", SCAN, spacing_mm=SPACING)
    target = tmp_path / "mask.raw3d"
    for _ in range(2):  # the second time over a mask that is there
        assert infer(tiny_bundle, "-i", scan, "-o", target) == 0
    mask, spacing_mm, origin_mm = decoded(target.read_bytes())
    np.testing.assert_array_equal(mask, expected)
    assert (spacing_mm, origin_mm) == (SPACING, (-5, -6, -7))
    assert record_of(target, ".raw3d")["status"] == "done"


@pytest.mark.usefixtures("raw_images", "raw_masks")
def test_a_mask_in_the_images_own_format_takes_what_its_reader_kept(tmp_path, tiny_bundle, expected):
    (tmp_path / "scan.raw3d").write_bytes(encoded(SCAN, SPACING, ORIGIN))
    assert infer(tiny_bundle, "-i", tmp_path / "scan.raw3d", "-o", tmp_path / "mask.raw3d") == 0
    mask, spacing_mm, origin_mm = decoded((tmp_path / "mask.raw3d").read_bytes())
    np.testing.assert_array_equal(mask, expected)
    assert (spacing_mm, origin_mm) == (SPACING, ORIGIN)


@pytest.mark.usefixtures("raw_images", "raw_masks")
def test_a_scan_is_no_mask_that_may_be_replaced(tmp_path, tiny_bundle, capfd):
    for name in ("scan.raw3d", "precious.raw3d"):
        (tmp_path / name).write_bytes(encoded(SCAN, SPACING, ORIGIN))
    assert infer(tiny_bundle, "-i", tmp_path / "scan.raw3d", "-o", tmp_path / "precious.raw3d") == 6
    assert "was not written by this command" in capfd.readouterr().err


@pytest.mark.usefixtures("raw_images")
def test_what_a_reader_refuses_begins_with_the_name_of_the_file(tmp_path):
    (tmp_path / "mask.raw3d").write_bytes(encoded(SCAN.astype(np.uint8), SPACING, ORIGIN))
    for reading in (read_volume, read_grid):
        with pytest.raises(CaseError, match=r"^mask\.raw3d: this is not a scan in the raw format$") as caught:
            reading(tmp_path / "mask.raw3d")
        assert caught.value.reason == "not_raw3d"
        with pytest.raises(CaseError, match=r"missing\.raw3d: No such file") as caught:
            reading(tmp_path / "missing.raw3d")
        assert caught.value.reason == "unreadable"


@pytest.mark.usefixtures("raw_images")
def test_every_reader_has_its_intensities_and_slices_looked_at(tmp_path):
    (tmp_path / "thin.RAW3D").write_bytes(encoded(SCAN[:2], SPACING, ORIGIN))
    volume = read_volume(tmp_path / "thin.RAW3D")
    assert (volume.nonfinite, [remark.code for remark in volume.remarks]) == (0, ["few_slices"])


def test_a_file_of_no_known_name_is_taken_for_nifti(tmp_path):
    path = write_nifti(tmp_path / "scan.dat", SCAN, spacing_mm=SPACING)
    np.testing.assert_array_equal(read_volume(path).voxels, SCAN)
    path.write_bytes(encoded(SCAN, SPACING, ORIGIN))
    with pytest.raises(CaseError, match=r"^scan\.dat: this is not a NIfTI file"):
        read_volume(path)
