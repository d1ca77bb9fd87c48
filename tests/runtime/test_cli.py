"""`flare-infer` from the command line to its exit code, on a real exported network."""

import gzip
import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from flare_runtime import cli
from flare_runtime.imaging.read import read_volume
from tests.runtime.command_runs import SPACING, names, one_line, spawn, write_cohort, write_scan
from tests.runtime.nifti_files import blobs, nifti_bytes, write_nifti


@pytest.fixture
def infer(tiny_bundle, capfd):
    """A function that runs the command in this process and returns exit code and stderr."""

    def run(*arguments, model=tiny_bundle):
        options = ["-m", str(model), "--threads", "1", "--precision", "fp32"]
        code = cli.main([*options, *map(str, arguments)])
        out, err = capfd.readouterr()
        assert out == ""
        return code, err

    return run


@pytest.fixture
def scan(tmp_path):
    return write_scan(tmp_path)


@pytest.fixture
def cohort(tmp_path):
    return write_cohort(tmp_path / "in")


# --- 0: done


def test_one_file_becomes_a_mask_and_a_record(infer, scan, tmp_path):
    code, err = infer("-i", scan, "-o", tmp_path / "out" / "mask.nii.gz")
    assert code == 0
    assert names(tmp_path / "out") == ["mask.json", "mask.nii.gz"]
    mask = read_volume(tmp_path / "out" / "mask.nii.gz")
    assert mask.shape == (20, 30, 28)
    assert mask.spacing_mm == SPACING
    assert set(np.unique(mask.voxels)) == {0, 1}
    heading, line = err.splitlines()
    assert heading == "tiny on cpu (openvino, fp32), 1 case(s)"
    assert line.startswith("scan: ")
    record = json.loads((tmp_path / "out" / "mask.json").read_text(encoding="utf-8"))
    assert record["mask_sha256"] == hashlib.sha256((tmp_path / "out" / "mask.nii.gz").read_bytes()).hexdigest()
    assert sum(lesion["voxels"] for lesion in record["lesions"]) == np.count_nonzero(mask.voxels)
    assert record["model"]["precision"] == "fp32"
    assert record["model"]["configuration"] == "3d_fullres"


def test_the_command_computes_what_the_library_does(infer, scan, tmp_path, tiny_bundle):
    from flare_runtime import Segmenter
    from flare_runtime.options import RunOptions

    infer("-i", scan, "-o", tmp_path / "mask.nii", "--tta", "--step", "0.25")
    segmenter = Segmenter.load(tiny_bundle, RunOptions(precision="fp32", threads=1, tta=True, step=0.25))
    expected = segmenter.segment(blobs((20, 30, 28)), SPACING).mask
    np.testing.assert_array_equal(read_volume(tmp_path / "mask.nii").voxels, expected)


def test_options_change_what_is_computed(infer, scan, tmp_path):
    masks = []
    for options in ([], ["--tta"], ["--step", "1"], ["--backend", "onnxruntime"]):
        assert infer("-i", scan, "-o", tmp_path / "mask.nii", *options)[0] == 0
        masks.append(read_volume(tmp_path / "mask.nii").voxels)
    plain, mirrored, wide, other_engine = masks
    assert (plain != mirrored).any()
    assert (plain != wide).any()
    assert np.mean(plain == other_engine) > 0.9999


def test_an_all_zero_scan_is_done_with_no_lesions(infer, tmp_path):
    scan = write_nifti(tmp_path / "zero.nii.gz", np.zeros((9, 9, 9), np.int16), spacing_mm=SPACING)
    code, err = infer("-i", scan, "-o", tmp_path / "mask.nii.gz")
    assert code == 0
    assert "zero: 0 lesion(s), 0.00 ml" in err
    assert not read_volume(tmp_path / "mask.nii.gz").voxels.any()
    assert json.loads((tmp_path / "mask.json").read_text(encoding="utf-8"))["lesions"] == []


def test_a_scan_without_hounsfield_units_is_refused_unless_asked_for(infer, tmp_path):
    scan = write_nifti(tmp_path / "a.nii.gz", blobs((20, 30, 28)), spacing_mm=SPACING, scl_slope=1, scl_inter=1024)
    code, err = infer("-i", scan, "-o", tmp_path / "mask.nii.gz")
    assert code == 4
    assert "a: refused (not_hounsfield): CT is not in Hounsfield units: 100.0% of the voxels lie above 300" in err
    assert not (tmp_path / "mask.nii.gz").exists()
    code, err = infer("-i", scan, "-o", tmp_path / "mask.nii.gz", "--any-intensity")
    assert code == 0
    assert "note: CT is not in Hounsfield units" in err
    (remark,) = json.loads((tmp_path / "mask.json").read_text(encoding="utf-8"))["remarks"]
    assert remark["code"] == "not_hounsfield"


def test_quiet_says_nothing_and_verbose_says_more(infer, scan, tmp_path, caplog):
    assert infer("-i", scan, "-o", tmp_path / "mask.nii.gz", "--quiet") == (0, "")
    _, err = infer("-i", scan, "-o", tmp_path / "mask.nii.gz", "--verbose")
    lines = err.splitlines()
    assert "preprocess" in lines[2]
    assert "memory: about " in caplog.text
    assert lines[3].startswith("  lesion of label 1: ")


def test_a_zip_serves_as_well_as_a_folder(infer, scan, tmp_path, tiny_bundle):
    archive = shutil.make_archive(str(tmp_path / "model"), "zip", tiny_bundle)
    assert infer("-i", scan, "-o", tmp_path / "zip.nii", model=archive)[0] == 0
    assert infer("-i", scan, "-o", tmp_path / "folder.nii")[0] == 0
    assert (tmp_path / "zip.nii").read_bytes() == (tmp_path / "folder.nii").read_bytes()


def test_an_old_result_is_replaced(infer, scan, tmp_path):
    write_nifti(tmp_path / "mask.nii.gz", np.zeros((2, 3, 4), np.uint8))
    assert infer("-i", scan, "-o", tmp_path / "mask.nii.gz")[0] == 0
    assert infer("-i", scan, "-o", tmp_path / "mask.nii.gz")[0] == 0
    assert read_volume(tmp_path / "mask.nii.gz").shape == (20, 30, 28)


def test_the_text_of_a_header_is_left_out_unless_it_is_asked_for(infer, tmp_path):
    text = {"descrip": b"Doe^Jane", "aux_file": b"Jane", "db_name": b"Doe", "intent_name": b"of Jane"}
    scan = write_nifti(tmp_path / "scan.nii", blobs((9, 9, 9)), spacing_mm=SPACING, **text)
    mask = tmp_path / "mask.nii"
    infer("-i", scan, "-o", mask)
    assert b"Jane" not in mask.read_bytes()
    assert b"Doe" not in mask.read_bytes()
    infer("-i", scan, "-o", mask, "--keep-header-text")
    header = read_volume(mask).source
    assert {name: bytes(header[name]).rstrip(b"\0") for name in text} == text


# --- 4: some cases refused


def test_a_bad_case_does_not_cost_the_others(infer, cohort, tmp_path):
    code, err = infer("-i", cohort, "-o", tmp_path / "out", "--report", tmp_path / "reports" / "run.json")
    assert code == 4
    assert names(tmp_path / "out") == ["a.json", "a.nii.gz", "b.json", "c.json", "c.nii.gz"]
    assert "b: refused (truncated): b_0000.nii.gz: " in err
    assert err.splitlines()[-1] == "1 of 3 case(s) not done"
    report = json.loads((tmp_path / "reports" / "run.json").read_text(encoding="utf-8"))
    assert [(case["case"], case["status"], case.get("reason")) for case in report["cases"]] == [
        ("a", "done", None),
        ("b", "refused", "truncated"),
        ("c", "done", None),
    ]
    done = report["cases"][0]
    assert report["cases"] == [json.loads((tmp_path / "out" / f"{name}.json").read_bytes()) for name in "abc"]
    assert (report["complete"], report["not_begun"]) == (True, [])
    assert set(done["timings_s"]) >= {"read", "preprocess", "network", "restore", "write", "total"}
    assert done["peak_memory_mib"] > 0
    assert "numpy" in report["environment"]


def test_quiet_still_says_which_case_failed(infer, cohort, tmp_path):
    code, err = infer("-i", cohort, "-o", tmp_path / "out", "--quiet")
    assert code == 4
    assert [line.partition(":")[0] for line in err.splitlines()] == ["b", "1 of 3 case(s) not done"]


REFUSED = {
    "not_nifti": b"text, not an image" * 30,
    "bad_dimensions": nifti_bytes(np.zeros((3, 3, 3), np.int16), dim=[2, 3, 9, 1, 1, 1, 1, 1]),
    "bad_spacing": nifti_bytes(np.zeros((3, 3, 3), np.int16), spacing_mm=(50.0, 1.0, 1.0)),
    "corrupt": gzip.compress(nifti_bytes(np.zeros((3, 3, 3), np.int16)))[:-8] + bytes(8),
}


@pytest.mark.parametrize(("reason", "data"), REFUSED.items(), ids=REFUSED.keys())
def test_a_refused_file_is_one_line_and_no_mask(infer, tmp_path, reason, data):
    (tmp_path / "x.nii.gz").write_bytes(data)
    code, err = infer("-i", tmp_path / "x.nii.gz", "-o", tmp_path / "out" / "mask.nii.gz", "--quiet")
    assert code == 4
    assert err.splitlines()[0].startswith(f"x: refused ({reason}): x.nii.gz: ")
    assert names(tmp_path / "out") == ["mask.json"]


def test_what_is_refused_this_time_has_no_mask_of_last_time(infer, scan, tmp_path):
    out = tmp_path / "out"
    assert infer("-i", scan, "-o", out / "a.nii.gz")[0] == 0
    mask = (out / "a.nii.gz").read_bytes()
    for _ in range(2):  # the second time there is none to be moved aside
        assert infer("-i", scan, "-o", out / "a.nii.gz", "--max-voxels", "100")[0] == 4
        assert names(out) == ["a.json", "a.stale.nii.gz"]
        assert (out / "a.stale.nii.gz").read_bytes() == mask
        record = json.loads((out / "a.json").read_bytes())
        assert (record["status"], record["reason"]) == ("refused", "too_large")
    assert infer("-i", scan, "-o", out / "a.nii.gz", "--max-voxels", "100")[0] == 4
    assert infer("-i", scan, "-o", out / "a.nii.gz")[0] == 0
    assert names(out) == ["a.json", "a.nii.gz", "a.stale.nii.gz"]


def test_inputs_above_the_callers_limit_are_refused(infer, scan, tmp_path):
    code, err = infer("-i", scan, "-o", tmp_path / "mask.nii.gz", "--max-voxels", "100")
    assert code == 4
    assert "refused (too_large)" in err


# --- 2: usage


def test_usage_errors_are_one_line(infer, cohort, scan, tmp_path):
    shutil.copy(cohort / "a_0000.nii.gz", cohort / "a.nii.gz")
    (tmp_path / "empty").mkdir()
    for arguments, says in (
        (["-i", tmp_path / "missing", "-o", tmp_path / "out"], "no such file or folder"),
        (["-i", cohort, "-o", tmp_path / "out"], "would both be written to a.nii.gz"),
        (["-i", tmp_path / "empty", "-o", tmp_path / "out"], "holds no .nii.gz, .nii, .nrrd, .mha file"),
        (["-i", scan, "-o", tmp_path / "mask.png"], "is a .nii.gz or .nii file"),
        (["-i", cohort, "-o", tmp_path / "mask.nii.gz"], "the output for a folder is a folder"),
        (["-i", scan, "-o", tmp_path / "mask.nii", "--step", "1e-9"], "at least 0.05 and at most 1"),
        (["-i", scan, "-o", tmp_path / "mask.nii", "--backend", "tensorflow"], "choose one of"),
        (["-i", scan, "-o", tmp_path / "mask.nii", "--precision", "int4"], "choose one of"),
        (["-i", scan, "-o", tmp_path / "mask.nii", "--device", "abacus"], "choose one of"),
        (["-i", scan, "-o", tmp_path / "mask.nii", "--backend", "onnxruntime", "--precision", "bf16"], "no bf16"),
    ):
        code, err = infer(*arguments)
        assert code == 2, arguments
        assert says in one_line(err)
    assert not (tmp_path / "out").exists()


def test_what_is_no_regular_file_is_refused_by_name_and_the_others_go_on(cohort, tmp_path, tiny_bundle):
    os.mkfifo(cohort / "d.nii.gz")
    (cohort / "e.nii.gz").symlink_to("/dev/zero")
    (cohort / "f.nii").mkdir()
    # A process of its own: what waits for a pipe's writer cannot be told to stop.
    process = spawn("-m", tiny_bundle, "-i", cohort, "-o", tmp_path / "out", "--threads", 1)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 4
    assert "d: refused (not_a_file): d.nii.gz: is a named pipe" in err
    assert "e: refused (not_a_file): e.nii.gz: is a device" in err
    assert "f: refused (not_a_file): f.nii: is a folder" in err
    assert {"a.nii.gz", "c.nii.gz"} == {name for name in names(tmp_path / "out") if name.endswith(".gz")}


def test_a_pipe_for_input_is_refused_whatever_the_output(tmp_path, tiny_bundle):
    os.mkfifo(tmp_path / "pipe")
    for output in (tmp_path, tmp_path / "mask.nii.gz"):
        process = spawn("-m", tiny_bundle, "-i", tmp_path / "pipe", "-o", output, "--threads", 1)
        _, err = process.communicate(timeout=300)
        assert process.returncode == 4
        assert "pipe: refused (not_a_file): pipe: is a named pipe; give an image file" in err


# --- 5: device


def test_what_this_machine_lacks_is_no_success(infer, scan, tmp_path):
    code, err = infer("-i", scan, "-o", tmp_path / "mask.nii.gz", "--backend", "tensorrt", "--precision", "auto")
    assert code == 5
    assert "the tensorrt backend" in one_line(err)
    assert names(tmp_path) == ["scan_0000.nii.gz"]


# --- 6: output


def test_the_input_is_never_overwritten(infer, scan, tmp_path):
    before = scan.read_bytes()
    plain = tmp_path / "folder" / "a.nii.gz"
    plain.parent.mkdir()
    shutil.copy(scan, plain)
    for arguments in (
        ["-i", scan, "-o", scan],
        ["-i", plain, "-o", plain.parent],
        ["-i", plain.parent, "-o", plain.parent],
    ):
        code, err = infer(*arguments)
        assert code == 6
        assert "is the input itself" in one_line(err)
    assert scan.read_bytes() == plain.read_bytes() == before


@pytest.mark.parametrize("victim", ["input", "mask", "record"])
def test_the_report_replaces_nothing_else_of_the_run(infer, scan, tmp_path, victim):
    target = {"input": scan, "mask": tmp_path / "mask.nii.gz", "record": tmp_path / "mask.json"}[victim]
    before = target.read_bytes() if target.exists() else None
    code, err = infer("-i", scan, "-o", tmp_path / "mask.nii.gz", "--report", target)
    assert code in (2, 6)
    one_line(err)
    assert (target.read_bytes() if target.exists() else None) == before


def test_a_report_replaces_nothing_but_a_report(infer, scan, tmp_path, tiny_bundle):
    model = shutil.copytree(tiny_bundle, tmp_path / "model")
    (tmp_path / "config.json").write_text('{"cases": ["a web project"]}', encoding="utf-8")
    os.mkfifo(tmp_path / "pipe")
    null = Path(os.devnull)
    targets = (null, tmp_path / "pipe", tmp_path / "config.json", model / "network.onnx", model / "manifest.json")
    before = [path.read_bytes() for path in targets[2:]]
    for report in (*targets, model / "run.json"):
        code, err = infer("-i", scan, "-o", tmp_path / "mask.nii.gz", "--report", report, model=model)
        assert code == 6
        assert str(report) in one_line(err)
    assert null.is_char_device()
    assert [path.read_bytes() for path in targets[2:]] == before
    assert names(tmp_path) == ["config.json", "model", "pipe", "scan_0000.nii.gz"]
    for _ in range(2):
        assert infer("-i", scan, "-o", tmp_path / "mask.nii.gz", "--report", tmp_path / "run.json")[0] == 0


def test_a_report_that_cannot_be_written_is_known_before_any_work(infer, scan, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.json").symlink_to(tmp_path / "precious")
    for report in (tmp_path / "folder", tmp_path / "link.json", scan / "run.json"):
        code, err = infer("-i", scan, "-o", tmp_path / "mask.nii.gz", "--report", report)
        assert code == 6
        one_line(err)
        assert not (tmp_path / "mask.nii.gz").exists()


def test_outputs_that_cannot_be_are_known_before_any_work(infer, scan, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link.nii.gz").symlink_to(tmp_path / "precious.nii.gz")
    (tmp_path / "folder.json").mkdir()
    for target in (tmp_path / "file" / "mask.nii.gz", tmp_path / "link.nii.gz", tmp_path / "folder.nii.gz"):
        code, err = infer("-i", scan, "-o", target)
        assert code == 6
        one_line(err)
    assert not (tmp_path / "precious.nii.gz").exists()


# --- 7: bundle


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda model: shutil.rmtree(model), "there is no such bundle"),
        (lambda model: (model / "manifest.json").unlink(), "manifest.json: missing from the bundle"),
        (lambda model: (model / "network.onnx").unlink(), "network.onnx: missing from the bundle"),
        (lambda model: (model / "network.onnx").write_bytes(b"changed"), "network.onnx: changed since export"),
        (lambda model: (model / "manifest.json").write_text("{"), "manifest.json: "),
        (lambda model: (model / "manifest.json").write_text('{"schema_version": 2}'), "schema version 2"),
    ],
)
def test_a_bundle_that_is_not_whole_names_the_file(infer, scan, tmp_path, tiny_bundle, damage, says):
    model = shutil.copytree(tiny_bundle, tmp_path / "model")
    damage(model)
    code, err = infer("-i", scan, "-o", tmp_path / "out" / "mask.nii.gz", model=model)
    assert code == 7
    assert says in one_line(err)
    assert not (tmp_path / "out").exists()
