"""A result in Python becomes a file as the command's does: the same bytes, over nothing that must be kept."""

import shutil

import nibabel as nib
import numpy as np
import pytest

from flare_runtime import RunOptions, Segmenter, read_volume
from flare_runtime.cases.finding import find_cases
from flare_runtime.errors import OutputError, UsageError
from flare_runtime.run.serial import segment_cases
from tests.runtime.manifests import ArithmeticNetwork, memory_bundle
from tests.runtime.nifti_files import write_nifti

ONE_MM = (1.0, 1.0, 1.0)


@pytest.fixture
def segmenter():
    raw = {"name": "raw", "normalisation": {"scheme": "none"}}
    return Segmenter(memory_bundle(channels=[raw], spacing_mm=ONE_MM), ArithmeticNetwork())


@pytest.fixture
def scan(tmp_path):
    voxels = np.full((9, 10, 11), -100, np.int16)
    voxels[2:5, 3:7, 4:9] = 50
    return write_nifti(tmp_path / "scan_0000.nii.gz", voxels, spacing_mm=ONE_MM, descrip=b"Jane Doe")


@pytest.mark.parametrize("name", ["mask.nii.gz", "mask.nii"])
def test_a_saved_mask_is_that_of_the_command_byte_for_byte(segmenter, scan, tmp_path, name):
    (record,) = segment_cases(segmenter, find_cases(scan, tmp_path / "command" / name, 1))
    assert record.status == "done"
    saved = segmenter.segment(read_volume(scan)).save(tmp_path / "new" / "folder" / name)
    assert saved == tmp_path / "new" / "folder" / name
    assert saved.read_bytes() == (tmp_path / "command" / name).read_bytes()


def test_an_array_becomes_a_mask_with_its_spacing(segmenter, tmp_path):
    result = segmenter.segment(np.full((4, 5, 6), 50.0), (3.0, 2.0, 1.5))
    mask = read_volume(result.save(str(tmp_path / "mask.nii")))
    np.testing.assert_array_equal(mask.voxels, result.mask)
    assert mask.spacing_mm == (3.0, 2.0, 1.5)


def test_a_mask_replaces_a_mask_and_nothing_else(segmenter, scan, tmp_path, tiny_bundle):
    result = segmenter.segment(read_volume(scan))
    for _ in range(2):
        result.save(tmp_path / "mask.nii.gz")
    model = shutil.copytree(tiny_bundle, tmp_path / "model")
    (tmp_path / "notes.nii").write_bytes(b"no mask")
    (tmp_path / "folder.nii").mkdir()
    before = scan.read_bytes()
    for target in (scan, tmp_path / "notes.nii", tmp_path / "folder.nii", model / "mask.nii.gz"):
        with pytest.raises(OutputError, match=str(target)):
            result.save(target)
    assert scan.read_bytes() == before
    assert (tmp_path / "notes.nii").read_bytes() == b"no mask"
    assert not (model / "mask.nii.gz").exists()


def test_a_mask_that_was_segmented_is_an_input_and_not_replaced(segmenter, tmp_path):
    scan = write_nifti(tmp_path / "bytes.nii", np.ones((9, 10, 11), np.uint8), spacing_mm=ONE_MM)
    before = scan.read_bytes()
    for image in (scan, str(scan), [scan]):
        with pytest.raises(OutputError, match="is the input itself"):
            segmenter.segment(image).save(scan)
    assert scan.read_bytes() == before


def test_the_file_of_a_nibabel_image_is_an_input_and_not_replaced(segmenter, tmp_path):
    path = write_nifti(tmp_path / "scan.nii.gz", np.full((9, 10, 11), 50, np.uint8))  # as a mask's voxels are stored
    before = path.read_bytes()
    for image in (nib.load(path), [nib.load(path)]):
        with pytest.raises(OutputError, match="is the input itself"):
            segmenter.segment(image).save(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("keep", [False, True])
def test_free_text_is_kept_only_where_that_was_asked_for(segmenter, scan, tmp_path, keep):
    asked = Segmenter(segmenter.bundle, segmenter.network, RunOptions(keep_header_text=keep))
    mask = asked.segment(scan).save(tmp_path / "mask.nii")
    assert (b"Jane Doe" in mask.read_bytes()) == keep


def test_probabilities_come_on_request(segmenter, scan):
    assert segmenter.segment(scan).probabilities is None
    result = segmenter.segment(scan, probabilities=True)
    assert result.probabilities.shape == (2, 9, 10, 11)
    np.testing.assert_array_equal(result.probabilities.argmax(axis=0), result.mask)


@pytest.mark.parametrize("name", ["mask", "mask.png", "mask.nii.bz2", ""])
def test_the_name_of_a_mask_says_its_format(segmenter, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    result = segmenter.segment(np.full((4, 5, 6), 50.0), ONE_MM)
    with pytest.raises(UsageError, match=r"the name of a mask ends in \.nii\.gz or \.nii|the mask is an empty path"):
        result.save(name)
    with pytest.raises(UsageError, match="the mask is of type NoneType; give a path"):
        result.save(None)
    assert list(tmp_path.iterdir()) == []
