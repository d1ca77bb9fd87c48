"""Nested folders as an input, whose output mirrors them."""

import os

import pytest

from flare_runtime import RunOptions, Session, cli
from flare_runtime.cases.finding import find_cases
from flare_runtime.cases.input_rules import InputRules
from flare_runtime.errors import UsageError
from flare_runtime.files.temporary import system_mark
from flare_runtime.run.queue import ListedCases
from tests.runtime.nifti_files import blobs, write_nifti

NESTED = InputRules(recursive=True)


def fill(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def found(source, target, channels=1):
    """Return the cases of a tree: their names, their images below it, their masks below the output."""
    cases = find_cases(source, target, channels, rules=NESTED)
    return {
        case.name: ([str(one.relative_to(source)) for one in case.files], str(case.mask.relative_to(target)))
        for case in cases
    }


def test_the_output_mirrors_the_folders(tmp_path):
    source = fill(tmp_path / "in", "top.nii", "a/b/x_0000.nii.gz", "a/x.nrrd", "b/x.mha", "a/notes.txt", "a/.hid/y.nii")
    assert found(source, tmp_path / "out") == {
        "a/b/x": (["a/b/x_0000.nii.gz"], "a/b/x.nii.gz"),
        "a/x": (["a/x.nrrd"], "a/x.nii.gz"),
        "b/x": (["b/x.mha"], "b/x.nii.gz"),
        "top": (["top.nii"], "top.nii.gz"),
    }
    assert list(found(source, tmp_path / "out")) == ["a/b/x", "a/x", "b/x", "top"]


def test_channels_are_those_of_one_folder(tmp_path):
    # The folder's name is between those of the two channels.
    names = ("p/x_0000.nii", "p/x_0001.nii", "p/x_00005/x_0000.nii", "q/x_0001.nii")
    assert found(fill(tmp_path / "in", *names), tmp_path / "out", channels=2) == {
        "p/x": (["p/x_0000.nii", "p/x_0001.nii"], "p/x.nii.gz"),
        "p/x_00005/x": (["p/x_00005/x_0000.nii"], "p/x_00005/x.nii.gz"),
        "q/x": (["q/x_0001.nii"], "q/x.nii.gz"),
    }


def test_a_folder_with_the_name_of_an_image_is_a_folder(tmp_path):
    source = fill(tmp_path / "in", "flair.nii/flair_1998.nii")
    assert found(source, tmp_path / "out") == {
        "flair.nii/flair_1998": (["flair.nii/flair_1998.nii"], "flair.nii/flair_1998.nii.gz")
    }


def test_results_in_the_tree_are_left_out(tiny_bundle, tmp_path, caplog):
    for name in ("a/x.nii.gz", "b/y_0000.nii.gz"):
        (tmp_path / name).parent.mkdir()
        write_nifti(tmp_path / name, blobs((12, 16, 18)), spacing_mm=(3.0, 2.0, 1.5))
    arguments = ["-m", str(tiny_bundle), "-i", str(tmp_path), "--recursive", "--device", "cpu", "--threads", "1"]
    assert cli.main([*arguments, "-o", str(tmp_path / "out")]) == 0
    assert cli.main([*arguments, "-o", str(tmp_path / "out")]) == 0
    (tmp_path / "link").symlink_to("other")
    (tmp_path / "other").mkdir()
    assert cli.main([*arguments, "-o", str(tmp_path / "link")]) == 0
    results = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.json")}
    assert results == {f"{out}/{case}.json" for out in ("out", "other") for case in ("a/x", "b/y")}
    assert caplog.messages == [f"{tmp_path}: left out 2 masks of earlier runs"]


def test_links_lead_to_each_folder_once_and_in_no_circle(tmp_path):
    source = fill(tmp_path / "in", "a/x.nii")
    fill(tmp_path / "archive", "p1/y.nii", "p1/deep/z.nii", "p2/v.nii")
    links = {"b/p1": tmp_path / "archive" / "p1", "0": source / "a", "again": tmp_path / "archive" / "p1"}
    links |= {"up": source, "around": tmp_path, "root": "/", "gone": "nowhere", "a/self": "self"}
    (source / "b").mkdir()
    for name, goal in links.items():
        (source / name).symlink_to(goal)
    (tmp_path / "archive" / "p1" / "all").symlink_to(tmp_path / "archive")  # which would find p2 as well
    assert list(found(source, tmp_path / "out")) == ["a/x", "again/deep/z", "again/y"]


def test_what_else_may_be_meant_is_counted_for_the_whole_tree(tmp_path, caplog):
    fill(tmp_path, "a/x.nii", "a/y.mgz", "a/z.dcm", "b/y.mgz", "b/c/z.ima")
    assert list(found(tmp_path, tmp_path / "out")) == ["a/x"]
    told = "left out 3 files of other formats (.dcm, .mgz); convert them to NIfTI, or give a DICOM series by itself"
    assert caplog.messages == [f"{tmp_path}: {told}"]


def test_a_tree_of_nothing_a_file_and_an_unreadable_folder_are_refused(tmp_path):
    source = fill(tmp_path / "in", "a/notes.txt")
    with pytest.raises(UsageError, match=r"in: neither it nor a folder in it holds DICOM or a \.nii\.gz, "):
        find_cases(source, tmp_path / "out", 1, rules=NESTED)
    with pytest.raises(UsageError, match=r"notes\.txt: is no folder, which --recursive takes"):
        find_cases(source / "a" / "notes.txt", tmp_path / "out", 1, rules=NESTED)
    fill(source, "a/x.nii")
    with pytest.raises(UsageError, match=r"out\.nii: the output for a folder is a folder"):
        find_cases(source, tmp_path / "out.nii", 1, rules=NESTED)
    assert not (tmp_path / "out").exists()


def test_two_images_of_one_mask_in_a_nested_folder_are_refused(tmp_path):
    source = fill(tmp_path / "in", "a/x.nii", "a/x.nii.gz", "b/x.nii")
    with pytest.raises(UsageError, match=r"x\.nii and x\.nii\.gz would both be written to x\.nii\.gz"):
        find_cases(source, tmp_path / "out", 1, rules=NESTED)


def test_a_mask_that_is_also_to_be_a_folder_is_refused(tmp_path):
    source = fill(tmp_path / "in", "a.nii", "a.nii.gz/x.nii")
    with pytest.raises(UsageError, match=r"out/a\.nii\.gz: would be a mask, and the folder of another; rename one"):
        find_cases(source, tmp_path / "out", 1, rules=NESTED)


def test_folders_are_made_when_they_are_needed_and_what_killed_runs_left_is_swept(tmp_path):
    source, out = fill(tmp_path / "in", "a/x.nii", "b/c/y.nii"), tmp_path / "out"
    left, strange = out / "b" / "c" / f".{system_mark(tmp_path)}{'0' * 24}.flare-tmp", out / "d" / ".flare-tmp"
    for path in (left, strange):
        path.parent.mkdir(parents=True)
        path.touch()
    cases = find_cases(source, out, 1, rules=NESTED)
    assert not left.exists()
    assert strange.exists()
    assert not (out / "a").exists()
    queue = ListedCases(cases)
    assert queue.take() == cases[0]
    assert (out / "a").is_dir()


def test_a_folder_that_cannot_be_made_costs_its_cases_alone(tiny_bundle, tmp_path):
    for name in ("a/x.nii.gz", "b/y.nii.gz"):
        (tmp_path / "in" / name).parent.mkdir(parents=True)
        write_nifti(tmp_path / "in" / name, blobs((12, 16, 18)), spacing_mm=(3.0, 2.0, 1.5))
    session = Session(tiny_bundle, RunOptions(device="cpu", threads=1))
    run = session.run(tmp_path / "in", tmp_path / "out", input_rules=NESTED)
    (tmp_path / "out" / "a").touch()  # behind the check
    assert [record.status for record in run] == ["failed", "done"]
    assert (tmp_path / "out" / "b" / "y.nii.gz").is_file()


def test_odd_names_keep_their_bytes(tmp_path):
    odd = os.fsdecode(b"M\xfcller \n")
    source = fill(tmp_path / "in", f"{odd}/x.nii")
    (case,) = find_cases(source, tmp_path / "out", 1, rules=NESTED)
    assert case.name == r"M\xfcller \n/x"
    assert case.mask == tmp_path / "out" / odd / "x.nii.gz"


def test_without_the_option_a_warning_names_it(tmp_path, caplog):
    fill(tmp_path, "x.nii", "a/y.nii")
    assert [case.name for case in find_cases(tmp_path, tmp_path / "out", 1)] == ["x"]
    assert caplog.messages == [f"{tmp_path}: left out 1 folder in it; --recursive looks into folders"]


# --- with DICOM


def test_series_lie_where_their_folders_do(tmp_path):
    dicom_files = pytest.importorskip("tests.runtime.dicom_files")
    source = fill(tmp_path / "in", "p1/x.nii", "p1/left_out.txt")
    series = dicom_files.Series
    series(count=5).write(source / "p2" / "study" / "thin")
    folder = series(count=6, number=4).write(source / "p2" / "both", names="a{}")
    series(count=7, number=9).write(folder, names="b{}")
    apart = series(count=4)
    apart.write(source / "p3" / "one")
    (source / "p3" / "two").mkdir()
    for path in sorted((source / "p3" / "one").iterdir())[2:]:
        path.rename(source / "p3" / "two" / path.name)
    series(count=3).write(source / "p1", names="beside{}")  # as today, images in a folder go before DICOM in it
    series(count=3).write(source / "out")
    cases = find_cases(source, source / "out", 1, rules=NESTED)
    assert {case.name: (len(case.files), str(case.mask.relative_to(source / "out"))) for case in cases} == {
        "p1/x": (1, "p1/x.nii.gz"),
        "p2/both_series4": (6, "p2/both_series4.nii.gz"),
        "p2/both_series9": (7, "p2/both_series9.nii.gz"),
        "p2/study/thin": (5, "p2/study/thin.nii.gz"),
        "p3": (4, "p3.nii.gz"),
    }


def test_series_at_the_top_have_its_name_and_two_of_one_name_are_refused(tmp_path):
    dicom_files = pytest.importorskip("tests.runtime.dicom_files")
    source = dicom_files.Series(count=3).write(tmp_path / "in")
    assert [case.name for case in find_cases(source, tmp_path / "out", 1, rules=NESTED)] == ["in"]
    dicom_files.Series(count=3).write(source / "a" / "b")
    fill(source, "a/b.nii.gz")
    with pytest.raises(UsageError, match=r"b\.nii\.gz and b would both be written to a/b\.nii\.gz"):
        find_cases(source, tmp_path / "out", 1, rules=NESTED)


def test_dicom_without_a_slice_stops_no_other_image(tmp_path, caplog):
    dicom_files = pytest.importorskip("tests.runtime.dicom_files")
    uid = pytest.importorskip("pydicom.uid")
    source = fill(tmp_path / "in", "p1/x.nii")
    dicom_files.Series(count=1, sop_class=uid.SegmentationStorage).write(source / "p1" / "seg")
    assert [case.name for case in find_cases(source, tmp_path / "out", 1, rules=NESTED)] == ["p1/x"]
    assert "holds 1 DICOM file(s), none of them a slice of CT, MR or PET" in caplog.messages[0]
