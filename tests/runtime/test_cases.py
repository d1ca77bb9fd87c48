"""Which cases there are and where their masks go."""

import gzip
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flare_runtime.cases.finding import find_cases
from flare_runtime.errors import OutputError, UsageError
from flare_runtime.files.json_file import write_json
from flare_runtime.imaging.geometry import Geometry
from flare_runtime.imaging.volume import Template
from flare_runtime.imaging.write import write_mask
from flare_runtime.run.record import CaseRecord
from tests.runtime.manifests import write_bundle
from tests.runtime.nifti_files import write_nifti


@pytest.fixture
def folder(tmp_path):
    """A function that makes a folder of empty files."""

    def make(*names):
        source = tmp_path / "in"
        source.mkdir()
        for name in names:
            (source / name).write_bytes(b"")
        return source

    return make


def summary(cases):
    return {case.name: ([path.name for path in case.files], case.mask.name, case.record.name) for case in cases}


def test_a_folder_with_and_without_channel_numbers(tmp_path, folder):
    source = folder("b_0000.nii.gz", "a.nii", "C_0000.NII.GZ", "notes.txt", ".hidden.nii", "b.json")
    cases = find_cases(source, tmp_path / "out", 1)
    assert summary(cases) == {
        "C": (["C_0000.NII.GZ"], "C.nii.gz", "C.json"),
        "a": (["a.nii"], "a.nii.gz", "a.json"),
        "b": (["b_0000.nii.gz"], "b.nii.gz", "b.json"),
    }
    assert all(case.mask.parent == tmp_path / "out" for case in cases)
    assert (tmp_path / "out").is_dir()


def test_channels_of_one_case_are_gathered_in_order(tmp_path, folder):
    source = folder("a_0001.nii.gz", "a_0000.nii.gz", "b_0001.nii.gz", "x_1_0000.nii.gz", "x_1_0001.nii")
    cases = find_cases(source, tmp_path / "out", 2)
    assert summary(cases) == {
        "a": (["a_0000.nii.gz", "a_0001.nii.gz"], "a.nii.gz", "a.json"),
        "b": (["b_0001.nii.gz"], "b.nii.gz", "b.json"),  # of several channels, the first is missing
        "x_1": (["x_1_0000.nii.gz", "x_1_0001.nii"], "x_1.nii.gz", "x_1.json"),
    }


@pytest.mark.parametrize(
    "names", [("a.nii", "a.nii.gz"), ("a_0000.nii.gz", "a.nii.gz"), ("a_0001.nii", "a_0001.nii.gz", "a.nii")]
)
def test_two_inputs_for_one_output_are_refused(tmp_path, folder, names):
    with pytest.raises(UsageError, match=r"would both be written to a\.nii\.gz"):
        find_cases(folder(*names), tmp_path / "out", 1)
    assert not (tmp_path / "out").exists()


def calls_to_find_cases(root, count):
    """Count the calls of functions that finding so many cases takes: work that no busy machine makes longer."""
    (root / "in").mkdir(parents=True)
    for index in range(count):
        (root / "in" / f"case_{index}_0000.nii.gz").touch()
    calls = 0

    def count_call(frame, event, argument):
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count_call)
    try:
        cases = find_cases(root / "in", root / "out", 1)
    finally:
        sys.setprofile(None)
    assert len(cases) == count
    return calls


def test_the_work_to_find_cases_grows_no_faster_than_their_number(tmp_path):
    few = calls_to_find_cases(tmp_path / "few", 200)
    assert calls_to_find_cases(tmp_path / "many", 2000) < 11 * few


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha"])
def test_the_longest_name_of_an_image_has_a_mask_that_can_be_written(tmp_path, suffix):
    for letter in "ab":
        (tmp_path / (letter * (255 - len(suffix)) + suffix)).touch()
    masks = {case.mask for case in find_cases(tmp_path, tmp_path / "masks", 1)}
    assert len(masks) == 2
    assert all(len(mask.name) <= 255 and mask.name.endswith(".nii.gz") for mask in masks)


def test_one_file_to_one_file(tmp_path, folder):
    source = folder("scan_0000.nii.gz")
    (case,) = find_cases(source / "scan_0000.nii.gz", tmp_path / "new" / "result.nii", 1)
    assert (case.name, case.images) == ("scan", {0: source / "scan_0000.nii.gz"})
    assert (case.mask, case.record) == (tmp_path / "new" / "result.nii", tmp_path / "new" / "result.json")


def test_one_file_into_a_folder(tmp_path, folder):
    source = folder("scan_0000.nii.gz")
    (case,) = find_cases(source / "scan_0000.nii.gz", tmp_path, 1)
    assert case.mask == tmp_path / "scan.nii.gz"


def test_the_other_channels_of_one_file_lie_beside_it(tmp_path, folder):
    source = folder("scan_0000.nii.gz", "scan_0001.nii.gz", "other_0001.nii.gz")
    (case,) = find_cases(source / "scan_0000.nii.gz", tmp_path / "out.nii.gz", 3)
    assert case.images == {0: source / "scan_0000.nii.gz", 1: source / "scan_0001.nii.gz"}


def test_one_file_without_a_number_is_not_its_own_second_channel(tmp_path, folder):
    source = folder("scan.nii.gz")
    (case,) = find_cases(source / "scan.nii.gz", tmp_path / "out.nii.gz", 2)
    assert case.images == {0: source / "scan.nii.gz"}


@pytest.mark.parametrize(
    "name", ["a_0001", "a[1]*?", "two\nlines", "b\udcff\udcfe", "CT.nii", " ", "x_0000", "1_0000_"]
)
def test_any_channel_of_one_file_names_the_case_whatever_the_name_holds(tmp_path, folder, name):
    source = folder(f"{name}_0000.nii.gz", f"{name}_0001.NII", f"{name}_0002.nii.gz", f"{name}2_0001.nii")
    images = {0: source / f"{name}_0000.nii.gz", 1: source / f"{name}_0001.NII"}
    for image in images.values():
        (case,) = find_cases(image, f"{tmp_path}/out/", 2)
        assert (case.images, case.mask.name) == (images, f"{name}.nii.gz")


def test_a_mask_of_an_earlier_run_is_no_channel_of_one_file(tmp_path, folder):
    source = folder("a_0001.nii.gz", "a.nii.gz")
    write_mask(source / "a.nii.gz", np.zeros((2, 2, 2), np.uint8), Template(Geometry(None, (1.0, 1.0, 1.0), (2, 2, 2))))
    (case,) = find_cases(source / "a_0001.nii.gz", tmp_path / "out.nii.gz", 2)
    assert case.images == {0: source / "a.nii.gz", 1: source / "a_0001.nii.gz"}
    write_json(source / "a.json", CaseRecord(case="a", status="done", mask=str(source / "a.nii.gz")))
    (case,) = find_cases(source / "a_0001.nii.gz", tmp_path / "out.nii.gz", 2)
    assert case.images == {1: source / "a_0001.nii.gz"}


_case_names = st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["", "_0000", "_0001", "_0002"])), unique=True)


@given(names=_case_names, ends=st.lists(st.sampled_from([".nii", ".nii.gz"]), min_size=8, max_size=8))
@settings(deadline=None, max_examples=50)
def test_one_file_is_the_case_that_its_folder_has(tmp_path_factory, names, ends):
    source = tmp_path_factory.mktemp("scans")
    for name, end in zip(names, ends, strict=False):
        (source / f"{''.join(name)}{end}").touch()
    try:
        cases = find_cases(source, source.parent / "masks", 3)
    except UsageError:  # none, or two of one number
        return
    for case in cases:
        for image in case.images.values():
            assert find_cases(image, f"{source.parent}/masks/", 3) == [case]


def test_single_files_told_apart_by_their_number_keep_it(tmp_path, folder):
    # As one of several runs: liver_0002 must not overwrite the mask of liver_0001.
    source = folder("liver_0001.nii.gz", "liver_0002.nii.gz")
    masks = {find_cases(path, tmp_path, 1)[0].mask for path in sorted(source.iterdir())}
    assert len(masks) == 2


def test_a_folder_of_numbered_cases_is_no_case_of_many_channels(tmp_path, folder):
    source = folder("liver_0001.nii.gz", "liver_0002.nii.gz", "lung_0000.nii.gz")
    cases = {case.name: case.images for case in find_cases(source, tmp_path / "out", 1)}
    assert cases == {
        "liver_0001": {0: source / "liver_0001.nii.gz"},
        "liver_0002": {0: source / "liver_0002.nii.gz"},
        "lung": {0: source / "lung_0000.nii.gz"},
    }


def test_a_numbered_case_and_one_of_the_same_name_are_refused(tmp_path, folder):
    with pytest.raises(UsageError, match=r"would both be written to x_0001\.nii\.gz"):
        find_cases(folder("x_0001.nii.gz", "x_0001_0000.nii.gz"), tmp_path / "out", 1)


@pytest.mark.parametrize("target", ["out", "out.txt", "out.json"])
def test_one_file_needs_an_image_name_or_a_folder_that_exists(tmp_path, folder, target):
    source = folder("a.nii")
    with pytest.raises(UsageError, match=r"is a \.nii\.gz or \.nii file, or a folder that exists"):
        find_cases(source / "a.nii", tmp_path / target, 1)


def test_a_folder_cannot_become_a_file(tmp_path, folder):
    source = folder("a.nii")
    (tmp_path / "file").write_bytes(b"")
    for target in (tmp_path / "out.nii.gz", tmp_path / "file"):
        with pytest.raises(UsageError, match="the output for a folder is a folder"):
            find_cases(source, target, 1)


@pytest.mark.parametrize("name", ["out.dcm", "out.PNG", "out.nrrd", "masks.zip", "lesions.csv"])
def test_a_folder_that_is_called_as_a_file_is_said_to_be_one(tmp_path, folder, name):
    source = folder("a.nii")
    with pytest.raises(UsageError, match=rf"{name}: a mask's name ends in .*; if it is to be a folder, put a / behind"):
        find_cases(source, tmp_path / name, 1)
    (case,) = find_cases(source, f"{tmp_path / name}/", 1)
    assert case.mask == tmp_path / name / "a.nii.gz"
    (tmp_path / name).mkdir(exist_ok=True)
    assert len(find_cases(source, tmp_path / name, 1)) == 1


def test_a_missing_input_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no such file or folder"):
        find_cases(tmp_path / "missing", tmp_path / "out", 1)


@pytest.mark.parametrize(("names", "says"), [(("a.txt",), "holds no .nii"), (("1.dcm",), "1 file of other formats")])
def test_a_folder_without_images_is_refused(tmp_path, folder, names, says):
    with pytest.raises(UsageError, match=says):
        find_cases(folder(*names), tmp_path / "out", 1)


def test_masks_may_go_beside_their_numbered_inputs(folder):
    source = folder("a_0000.nii.gz", "b_0000.nii.gz")
    assert [case.mask for case in find_cases(source, source, 1)] == [source / "a.nii.gz", source / "b.nii.gz"]


def test_no_mask_replaces_its_own_input(folder):
    source = folder("a.nii.gz")
    for target in (source, source / "a.nii.gz"):
        given_as = source if target == source else source / "a.nii.gz"
        with pytest.raises(OutputError, match="is the input itself"):
            find_cases(given_as, target, 1)


def test_no_mask_replaces_the_input_of_another_case(folder):
    # The mask of x_0001 would be x_0001.nii.gz, which is channel 1 of x.
    source = folder("x_0000.nii.gz", "x_0001.nii.gz", "x_0001_0000.nii.gz", "x_0001_0001.nii.gz")
    with pytest.raises(OutputError, match="input"):
        find_cases(source, source, 2)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.json"])
@pytest.mark.parametrize("kind", ["link", "folder"])
def test_links_and_folders_in_a_results_place_are_refused(tmp_path, folder, name, kind):
    source, out = folder("a_0000.nii.gz"), tmp_path / "out"
    out.mkdir()
    if kind == "link":
        (out / name).symlink_to(tmp_path / "precious")
    else:
        (out / name).mkdir()
    with pytest.raises(OutputError, match=f"{name}: is a"):
        find_cases(source, out, 1)


def test_an_old_mask_may_be_replaced(tmp_path, folder):
    source, out = folder("a_0000.nii.gz"), tmp_path / "out"
    out.mkdir()
    write_nifti(out / "a.nii.gz", np.zeros((2, 3, 4), np.uint8))
    write_json(out / "a.json", CaseRecord(case="a", status="refused"))
    assert [case.mask for case in find_cases(source, out, 1)] == [Path(out / "a.nii.gz")]


@pytest.mark.parametrize("name", ["a.nii.gz", "a.stale.nii.gz"])
def test_a_mask_replaces_nothing_but_a_mask(tmp_path, folder, name):
    source, out = folder("a_0000.nii.gz"), tmp_path / "out"
    out.mkdir()
    scan = write_nifti(out / name, np.zeros((2, 3, 4), np.int16))
    for content in (scan.read_bytes(), b"notes", gzip.compress(b"notes"), b"\x1f\x8bnotes"):
        scan.write_bytes(content)
        with pytest.raises(OutputError, match=rf"{name}: was not written by this command"):
            find_cases(source, out, 1)


def test_a_record_replaces_nothing_but_a_record(tmp_path, folder):
    source, out = folder("a_0000.nii.gz", "package_0000.nii.gz"), tmp_path / "out"
    out.mkdir()
    (out / "package.json").write_text('{"name": "a web project"}', encoding="utf-8")
    with pytest.raises(OutputError, match=r"package\.json: was not written by this command"):
        find_cases(source, out, 1)
    assert names(out) == ["package.json"]


def test_no_result_goes_into_a_bundle(tmp_path, folder):
    bundle = write_bundle(tmp_path / "bundle")
    for target in (bundle, bundle / "masks"):
        with pytest.raises(OutputError, match="lies in the bundle"):
            find_cases(folder("manifest.nii") if target == bundle else tmp_path / "in", target, 1)
    assert names(bundle) == ["manifest.json", "network.onnx"]


def test_masks_that_were_set_aside_are_no_cases(tmp_path, folder):
    source = folder("a_0000.nii.gz", "a.stale.nii.gz", "b.stale.nii")
    assert [case.name for case in find_cases(source, source, 1)] == ["a"]
    assert find_cases(source, source, 1)[0].stale == source / "a.stale.nii.gz"


@pytest.mark.parametrize(
    ("source", "target"), [("a.stale.nii.gz", "out.nii.gz"), ("a.nii", "out.stale.nii"), ("a.stale_0000.nii.gz", "")]
)
def test_names_of_masks_that_were_set_aside_are_refused(tmp_path, folder, source, target):
    source = folder(source) / source
    with pytest.raises(UsageError, match=r"ends in \.stale"):
        find_cases(source, tmp_path / target, 1)


def names(folder):
    return sorted(path.name for path in folder.iterdir())
