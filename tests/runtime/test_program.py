"""`flare-infer` as a program of its own: its exit codes, its end by a signal, a GPU that cannot be used."""

import json
import os
import signal
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from flare_runtime import cli
from flare_runtime.imaging.read import read_volume
from tests.runtime.command_runs import SPACING, names, one_line, spawn, write_scan
from tests.runtime.nifti_files import blobs, write_nifti


@pytest.fixture
def scan(tmp_path):
    return write_scan(tmp_path)


def test_the_command_is_installed():
    (command,) = entry_points(group="console_scripts", name="flare-infer")
    assert command.load() is cli.main


def test_exit_codes_and_messages_leave_the_process(scan, tmp_path, tiny_bundle):
    process = spawn("-m", tiny_bundle, "-i", tmp_path / "missing", "-o", tmp_path, "--threads", 1)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (2, "")
    one_line(err)
    process = spawn("-m", tiny_bundle, "-i", scan, "-o", tmp_path / "mask.nii.gz", "--threads", 1, "--quiet")
    assert process.communicate(timeout=300) == ("", "")
    assert process.returncode == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_keeps_finished_cases_and_drops_the_current_one(tmp_path, tiny_bundle, number, code):
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    write_nifti(source / "a.nii.gz", blobs((16, 16, 16)), spacing_mm=SPACING)
    # With 85,000 tiles the second case takes minutes.
    write_nifti(source / "b.nii.gz", blobs((64, 64, 64)), spacing_mm=SPACING)
    arguments = ["-m", tiny_bundle, "-i", source, "-o", out, "--step", 0.07, "--threads", 1]
    process = spawn(*arguments, "--report", tmp_path / "run.json")
    lines = [process.stderr.readline(), process.stderr.readline()]
    assert lines[1].startswith("a: "), lines
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=300)
    assert process.returncode == code
    word = "terminated" if code == 143 else "interrupted"
    assert err.splitlines() == [f"flare-infer: {word}; finished cases are kept; --resume does the others"]
    assert names(out) == ["a.json", "a.nii.gz"]
    assert read_volume(out / "a.nii.gz").shape == (16, 16, 16)
    report = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    assert [case["case"] for case in report["cases"]] == ["a"]
    assert (report["complete"], report["not_begun"]) == (False, ["b"])


def test_sigterm_in_the_first_case_leaves_nothing_behind(tmp_path, tiny_bundle):
    scan = write_nifti(tmp_path / "scan_0000.nii.gz", blobs((40, 60, 56)), spacing_mm=SPACING)
    process = spawn("-m", tiny_bundle, "-i", scan, "-o", tmp_path / "mask.nii.gz", "--step", 0.05, "--threads", 1)
    process.stderr.readline()  # the heading comes before the first case
    process.terminate()
    _, err = process.communicate(timeout=300)
    assert process.returncode == 143
    assert "Traceback" not in err
    assert names(tmp_path) == ["scan_0000.nii.gz"]


BROKEN_GPU = """
import sys
from flare_runtime import cli
from flare_runtime.backends import selection as backends
from flare_runtime.run import session
from tests.runtime.broken_gpu_work import BrokenGpuWork

backends.resolve = lambda name, _has_engine: "cuda:0" if name == "auto" else name
session.CaseWork = BrokenGpuWork
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize(("device", "code"), [("auto", 0), ("cuda:0", 5)])
def test_a_gpu_that_cannot_be_used_is_left_for_the_cpu_only_if_that_was_allowed(
    tiny_bundle, scan, tmp_path, device, code
):
    arguments = ["-m", tiny_bundle, "-i", scan, "-o", tmp_path / "mask.nii.gz", "--device", device]
    run = subprocess.run(
        [sys.executable, "-c", BROKEN_GPU, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert run.returncode == code
    assert "the driver is too old" in run.stderr
    assert (tmp_path / "mask.nii.gz").exists() == (code == 0)
