"""What of a folder is segmented, and what is said of the rest."""

import logging

import numpy as np
import pytest

from flare_runtime import cli
from flare_runtime.cases.finding import find_cases
from flare_runtime.cases.input_folder import find_images
from flare_runtime.errors import OutputError, UsageError
from flare_runtime.files.json_file import write_json
from flare_runtime.imaging import read
from flare_runtime.run.record import CaseRecord
from tests.runtime.example_format import RawReader
from tests.runtime.nifti_files import blobs, write_nifti

MASK = np.zeros((4, 5, 6), np.uint8)


def fill(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def write_result(folder, name, suffix=".nii.gz", **record):
    write_nifti(folder / f"{name}{suffix}", MASK)
    mask = str(folder / f"{name}{suffix}")
    write_json(folder / f"{name}.json", CaseRecord(**{"case": name, "status": "done", "mask": mask} | record))


def found(folder, target=None):
    return [path.name for path in find_images(folder, target or folder / "out")]


# --- results of earlier runs


def test_masks_of_earlier_runs_are_no_images(tmp_path, caplog):
    fill(tmp_path, "a_0000.nii.gz", "b.nii", "c_0000.nii.gz", "c.stale.nii.gz")
    write_result(tmp_path, "a")
    write_result(tmp_path, "b")
    write_json(tmp_path / "c.json", CaseRecord(case="c", status="refused", reason="truncated", message="cut"))
    for target in (tmp_path, tmp_path / "elsewhere"):
        assert found(tmp_path, target) == ["a_0000.nii.gz", "b.nii", "c_0000.nii.gz"]
    cases = find_cases(tmp_path, tmp_path, 1)
    assert [case.mask.name for case in cases] == ["a.nii.gz", "b.nii.gz", "c.nii.gz"]
    assert caplog.messages[-1] == f"{tmp_path}: left out 2 masks of earlier runs"


def test_what_no_record_describes_is_an_image(tmp_path):
    fill(tmp_path)
    write_result(tmp_path, "a")
    (tmp_path / "a.json").write_text('{"name": "a web project"}')
    write_result(tmp_path, "b", mask="/elsewhere/other.nii.gz")
    write_result(tmp_path, "c", status="failed", mask=None, reason="internal", message="no mask was made")
    write_result(tmp_path, "d")
    write_nifti(tmp_path / "d.nii.gz", MASK.astype(np.int16))  # a scan that took the mask's place
    write_nifti(tmp_path / "e.nii.gz", MASK)  # as a label image has
    write_result(tmp_path, "f")
    (tmp_path / "f.json").write_bytes(b"\xff not text")
    assert found(tmp_path) == [f"{name}.nii.gz" for name in "abcdef"]


def test_a_folder_of_nothing_but_results_holds_no_image(tmp_path):
    write_result(fill(tmp_path), "a")
    with pytest.raises(UsageError, match=r"holds no \.nii\.gz, \.nii, \.nrrd, \.mha file, but 1 mask of earlier runs$"):
        find_images(tmp_path, tmp_path)


@pytest.mark.parametrize("name", ["scan_0000.nii.gz", "scan.nii"])
def test_results_may_go_beside_their_images_as_often_as_one_likes(tiny_bundle, tmp_path, name, caplog):
    scan = write_nifti(tmp_path / name, blobs((12, 16, 18)), spacing_mm=(3.0, 2.0, 1.5))
    before, masks = scan.read_bytes(), []
    arguments = ["-m", str(tiny_bundle), "-i", str(tmp_path), "-o", str(tmp_path), "--device", "cpu", "--threads", "1"]
    for _ in range(3):
        assert cli.main(arguments) == 0
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "scan.json", "scan.nii.gz"])
        masks.append((tmp_path / "scan.nii.gz").read_bytes())
    assert len(set(masks)) == 1
    assert scan.read_bytes() == before
    assert caplog.messages == [f"{tmp_path}: left out 1 mask of earlier runs"] * 2


# --- what else may be meant


def test_files_of_other_formats_and_folders_are_pointed_out(tmp_path, caplog):
    fill(tmp_path, "a.nii.gz", "b.mgz", "c.MHD", "d.dcm", "e.dcm", "f.zip", "notes.txt", ".hidden.dcm", "a.csv")
    fill(tmp_path / "patient 2", "g.nii.gz")
    fill(tmp_path / ".cache")
    assert found(tmp_path) == ["a.nii.gz"]
    assert caplog.messages == [
        f"{tmp_path}: left out 5 files of other formats (.dcm, .mgz, .mhd, .zip) and 1 folder in it; convert them to "
        "NIfTI, or give a DICOM series by itself, --recursive looks into folders"
    ]
    assert caplog.records[0].levelno == logging.WARNING


def test_a_format_that_is_read_is_not_left_out(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(RawReader, "suffixes", (".mgz",))
    monkeypatch.setattr(read, "READERS", (*read.READERS, RawReader()))
    fill(tmp_path, "a.nii.gz", "b.mgz")
    assert found(tmp_path) == ["a.nii.gz", "b.mgz"]
    assert caplog.messages == []


def test_a_link_to_itself_stops_nobody(tmp_path, caplog):
    fill(tmp_path, "a.nii.gz")
    (tmp_path / "loop").symlink_to("loop")
    assert found(tmp_path) == ["a.nii.gz"]
    assert caplog.messages == []


def test_a_folder_of_nothing_else_is_told_as_much(tmp_path):
    fill(tmp_path, "IM1.dcm")
    with pytest.raises(
        UsageError,
        match=r"holds no \.nii\.gz, \.nii, \.nrrd, \.mha file, but 1 file of other formats \(\.dcm\); convert",
    ):
        find_images(tmp_path, tmp_path / "out")
    (tmp_path / "IM1.dcm").unlink()
    fill(tmp_path / "one"), fill(tmp_path / "two")
    with pytest.raises(UsageError, match=r"file, but 2 folders in it; --recursive looks into folders$"):
        find_images(tmp_path, tmp_path / "out")


def test_neither_the_output_folder_nor_what_is_no_image_is_a_word_worth(tmp_path, caplog):
    fill(tmp_path, "a.nii.gz", "notes.txt", "a.json")
    fill(tmp_path / "out")
    (tmp_path / "link").symlink_to(tmp_path / "out")
    assert found(tmp_path, tmp_path / "link") == found(tmp_path, tmp_path / "out") == ["a.nii.gz"]
    assert caplog.messages == []


def test_a_folder_with_the_name_of_an_image_is_a_case_which_will_be_refused(tmp_path, caplog):
    fill(tmp_path, "a.nii.gz")
    fill(tmp_path / "b.nii.gz")
    assert found(tmp_path) == ["a.nii.gz", "b.nii.gz"]
    assert caplog.messages == []


# --- one file


def test_one_file_goes_into_a_folder_that_is_named_as_one(tmp_path):
    scan = write_nifti(tmp_path / "scan_0000.nii.gz", MASK.astype(np.int16))
    for target in (f"{tmp_path}/new/", f"{tmp_path}/new/", f"{tmp_path}/a/b.nii/"):
        (case,) = find_cases(scan, target, 1)
        assert case.mask.parent.is_dir()
        assert str(case.mask) == f"{target}scan.nii.gz"
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file"):
        find_cases(scan, f"{tmp_path}/file/", 1)
    assert (tmp_path / "file").read_bytes() == b""


def test_the_command_makes_the_folder_for_one_file(tiny_bundle, tmp_path):
    scan = write_nifti(tmp_path / "scan.nii.gz", blobs((12, 16, 18)), spacing_mm=(3.0, 2.0, 1.5))
    arguments = ["-m", str(tiny_bundle), "-i", str(scan), "-o", f"{tmp_path}/new/", "--device", "cpu", "--threads", "1"]
    assert cli.main(arguments) == 0
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["scan.json", "scan.nii.gz"]


# --- whose input it is


def test_the_input_of_another_case_is_called_so(tmp_path):
    fill(tmp_path, "x_0000.nii.gz", "x_0001.nii.gz", "x_0001_0000.nii.gz", "x_0001_0001.nii.gz")
    with pytest.raises(OutputError, match=r"x_0001\.nii\.gz: is an input, that of x; choose another output"):
        find_cases(tmp_path, tmp_path, 2)


def test_an_input_by_another_name_is_named(tmp_path):
    fill(tmp_path / "in", "a_0000.nii.gz")
    fill(tmp_path / "out")
    (tmp_path / "out" / "a.nii.gz").hardlink_to(tmp_path / "in" / "a_0000.nii.gz")
    with pytest.raises(OutputError, match=r"out/a\.nii\.gz: is the input itself, .*in/a_0000\.nii\.gz; choose"):
        find_cases(tmp_path / "in", tmp_path / "out", 1)
