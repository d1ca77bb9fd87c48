"""The session that the command runs and Python users may: records, events, report, and what is refused."""

import gc
import json
import subprocess
import sys
import threading
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from flare_runtime import (
    BundleError,
    CaseProgress,
    DeviceError,
    DeviceFallback,
    FlareError,
    NetworkReady,
    OutputError,
    RunOptions,
    Segmenter,
    Session,
    UsageError,
    read_nifti,
)
from flare_runtime.cases.finding import find_cases
from flare_runtime.run.journal import Journal
from flare_runtime.run.queue import ListedCases
from flare_runtime.run.record import CaseRecord
from flare_runtime.run.session import Run
from tests.runtime.command_runs import SPACING, write_cohort
from tests.runtime.nifti_files import blobs, write_nifti

OPTIONS = RunOptions(device="cpu", precision="fp32", threads=1)


@pytest.fixture
def scans(tmp_path):
    return write_cohort(tmp_path / "scans")


def test_a_folder_becomes_masks_records_and_a_report(scans, tiny_bundle, tmp_path, capfd):
    before = datetime.now(timezone.utc)
    run = Session(tiny_bundle, OPTIONS).run(
        str(scans), str(tmp_path / "masks"), report=str(tmp_path / "run.json"), command=["my\nscript.py", "scans"]
    )
    assert [case.name for case in run.cases] == ["a", "b", "c"]
    records = list(run)
    assert [(record.case, record.status, record.reason) for record in records] == [
        ("a", "done", None),
        ("b", "refused", "truncated"),
        ("c", "done", None),
    ]
    assert {path.name for path in (tmp_path / "masks").iterdir()} == {
        *("a.nii.gz", "a.json", "b.json", "c.nii.gz", "c.json")
    }
    assert (run.journal.count, run.journal.failed) == (3, 1)
    report = json.loads((tmp_path / "run.json").read_bytes())
    assert [case["case"] for case in report["cases"]] == ["a", "b", "c"]
    assert report["complete"]
    assert report["command"] == ["my\\nscript.py", "scans"]
    started = datetime.fromisoformat(report["started"])
    assert started.utcoffset() == timedelta(0)
    assert before - timedelta(seconds=1) <= started <= datetime.now(timezone.utc)
    assert 0 < report["duration_s"] < 600
    assert capfd.readouterr() == ("", "")  # a library prints nothing


def test_nothing_is_done_before_the_records_are_asked_for(scans, tiny_bundle, tmp_path):
    Session(tiny_bundle, OPTIONS).run(scans, tmp_path / "masks", report=tmp_path / "run.json")
    assert list((tmp_path / "masks").iterdir()) == []
    assert not (tmp_path / "run.json").exists()


def test_one_session_makes_many_runs_with_one_network(scans, tiny_bundle, tmp_path):
    session = Session(tiny_bundle, OPTIONS)
    first = [record.mask_sha256 for record in session.run(scans, tmp_path / "first")]
    assert [record.mask_sha256 for record in session.run(scans, tmp_path / "second")] == first
    assert next(iter(session.run(scans / "a_0000.nii.gz", tmp_path / "a.nii"))).status == "done"
    assert read_nifti(tmp_path / "a.nii").shape == (16, 17, 18)


def test_the_listener_hears_of_the_network_and_of_every_tile(scans, tiny_bundle, tmp_path):
    heard = []

    def listen(event):
        assert threading.current_thread() is threading.main_thread()
        heard.append(event)

    session = Session(tiny_bundle, OPTIONS, listener=listen)
    heard.extend(record.case for record in session.run(scans, tmp_path / "masks"))
    assert heard[0] == NetworkReady("cpu", "openvino", "fp32")
    assert heard.count(heard[0]) == 1
    # 16 x 17 x 18 voxels take a patch along z and two along y and x.
    for name in "ac":
        told = [event for event in heard if isinstance(event, CaseProgress) and event.case == name]
        assert told[0] == CaseProgress(name, 0, 4)
        assert told[-1] == CaseProgress(name, 4, 4)
        assert [event.done for event in told] == sorted(event.done for event in told)
        assert heard.index(told[-1]) < heard.index(name)


def test_a_run_that_is_left_writes_what_was_not_begun(scans, tiny_bundle, tmp_path):
    for record in (run := iter(Session(tiny_bundle, OPTIONS).run(scans, tmp_path / "m", report=tmp_path / "run.json"))):
        assert record.case == "a"
        break
    run.close()
    report = json.loads((tmp_path / "run.json").read_bytes())
    assert ([case["case"] for case in report["cases"]], report["not_begun"]) == (["a"], ["b", "c"])
    assert not report["complete"]


def test_a_loop_that_is_left_writes_the_report_at_once(scans, tiny_bundle, tmp_path):
    gc.disable()
    try:
        for _record in Session(tiny_bundle, OPTIONS).run(scans, tmp_path / "masks", report=tmp_path / "run.json"):
            break
        assert json.loads((tmp_path / "run.json").read_bytes())["not_begun"] == ["b", "c"]
    finally:
        gc.enable()


def test_a_run_that_is_left_ends_its_worker_before_it_writes_the_report(scans, tmp_path):
    report, there = tmp_path / "run.json", []
    cases = find_cases(scans, tmp_path / "masks", 1)

    def segment():
        try:
            yield CaseRecord(case="a", status="done")
        finally:
            there.append(report.exists())

    records = iter(Run(cases, Journal(report, cases), ListedCases(cases), segment))
    next(records)
    records.close()
    assert (there, report.exists()) == ([False], True)


def test_what_cannot_be_is_refused_before_any_work(scans, tiny_bundle, tmp_path):
    session = Session(tiny_bundle, OPTIONS)
    scan = scans / "a_0000.nii.gz"
    before = scan.read_bytes()
    for kind, source, target, report in (
        (UsageError, tmp_path / "missing", tmp_path / "out", None),
        (UsageError, scans, tmp_path / "mask.nii.gz", None),
        (OutputError, scan, scan, None),
        (OutputError, scan, Path(tiny_bundle) / "mask.nii.gz", None),
        (UsageError, scan, tmp_path / "mask.nii.gz", tmp_path / "mask.json"),
        (OutputError, scan, tmp_path / "mask.nii.gz", scan),
    ):
        with pytest.raises(kind) as caught:
            session.run(source, target, report=report)
        assert isinstance(caught.value, FlareError)
        assert "\n" not in str(caught.value)
    assert scan.read_bytes() == before
    assert not (tmp_path / "mask.nii.gz").exists()


def test_no_report_replaces_an_empty_image(scans, tiny_bundle, tmp_path):
    empty = scans / "b_0000.nii.gz"
    empty.write_bytes(b"")
    with pytest.raises(OutputError, match="is the input itself"):
        Session(tiny_bundle, OPTIONS).run(scans, tmp_path / "masks", report=empty)


def test_what_no_session_can_be_of_is_refused(tiny_bundle, tmp_path):
    with pytest.raises(BundleError, match="there is no such bundle"):
        Session(tmp_path / "missing")
    with pytest.raises(DeviceError):
        Session(tiny_bundle, RunOptions(backend="tensorrt"))
    with pytest.raises(UsageError, match="openvino backend has no fp16"):
        Session(tiny_bundle, RunOptions(device="cpu", backend="openvino", precision="fp16"))


def test_what_is_of_another_type_is_named(scans, tiny_bundle, tmp_path):
    session = Session(tiny_bundle, OPTIONS)
    for call, says in (
        (lambda: Session(7), "the bundle is of type int; give a path"),
        (lambda: Session(""), "the bundle is an empty path"),
        (lambda: Segmenter.load([tiny_bundle]), "the bundle is of type list; give a path"),
        (lambda: Session(tiny_bundle, "cpu"), r"the options are of type str; give RunOptions\(...\)"),
        (
            lambda: Segmenter.load(tiny_bundle, {"device": "cpu"}),
            r"the options are of type dict; give RunOptions\(...\)",
        ),
        (lambda: session.run(None, tmp_path / "out"), "the source is of type NoneType; give a path"),
        (lambda: session.run([scans], tmp_path / "out"), "the source is of type list; give a path"),
        (lambda: session.run("", tmp_path / "out"), "the source is an empty path"),
        (lambda: session.run(scans, 1), "the target is of type int; give a path"),
        (lambda: session.run(scans, tmp_path / "out", report=True), "the report is of type bool; give a path"),
    ):
        with pytest.raises(UsageError, match=says):
            call()
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


FALLBACK = """
import sys
from flare_runtime import RunOptions, Session
from flare_runtime.backends import selection
from flare_runtime.run import session
from tests.runtime import broken_gpu_work

selection.resolve = lambda name, _has_engine: "cuda:0" if name == "auto" else name
session.CaseWork = getattr(broken_gpu_work, sys.argv[5])
heard = []
run = Session(sys.argv[1], RunOptions(sys.argv[4], *sys.argv[6:]), listener=heard.append).run(*sys.argv[2:4])
print(*(f"{record.case} {record.status}" for record in run))
print(*heard[:2])
"""


def run_python(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def test_where_no_gpu_works_the_run_goes_on_on_the_cpu_and_says_so(scans, tiny_bundle, tmp_path):
    run = run_python(FALLBACK, tiny_bundle, scans, tmp_path / "masks", "auto", "BrokenGpuWork")
    assert run.returncode == 0, run.stderr
    first, second = run.stdout.splitlines()
    assert first == "a done b refused c done"
    assert second.startswith(str(DeviceFallback("cuda:0 cannot be used (the driver is too old)")))
    assert "NetworkReady(device='cpu'" in second
    refused = run_python(FALLBACK, tiny_bundle, scans, tmp_path / "others", "cuda:0", "BrokenGpuWork")
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].endswith("DeviceError: cuda:0 cannot be used (the driver is too old)")


def test_where_the_cpu_lacks_what_was_asked_for_the_gpu_that_does_not_work_is_the_error(scans, tiny_bundle, tmp_path):
    run = run_python(FALLBACK, tiny_bundle, scans, tmp_path / "masks", "auto", "BrokenGpuWork", "cudnn")
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].endswith("DeviceError: cuda:0 cannot be used (the driver is too old)")


def test_a_gpu_that_fails_after_its_first_case_ends_the_run(scans, tiny_bundle, tmp_path):
    run = run_python(FALLBACK, tiny_bundle, scans, tmp_path / "masks", "auto", "LateBrokenGpuWork")
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].endswith("DeviceError: cuda:0 cannot be used (it fell off the bus)")
    assert list((tmp_path / "masks").iterdir()) == []


KEYBOARD = """
import os, signal, sys, threading, time
from flare_runtime import cli

signal.signal(signal.SIGINT, signal.default_int_handler)  # the tests may run where it is ignored
threading.Thread(target=lambda: (sys.stdin.readline(), os.kill(os.getpid(), signal.SIGINT)), daemon=True).start()
code = cli.main(sys.argv[1:])
print("went on with", code)
"""


STOPPING = """
import multiprocessing, sys, time
from flare_runtime import RunOptions, Session

other = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True)
other.start()
run = Session(sys.argv[1], RunOptions(device="cpu", threads=1)).run(sys.argv[2], sys.argv[3], report=sys.argv[4])
run.stop()
other.join(0.2)
print(other.is_alive())
"""


def test_a_run_that_is_stopped_ends_no_process_of_somebody_else(scans, tiny_bundle, tmp_path):
    process = run_python(STOPPING, tiny_bundle, scans, tmp_path / "masks", tmp_path / "run.json")
    assert (process.stdout, process.returncode) == ("True\n", 0), process.stderr
    assert json.loads((tmp_path / "run.json").read_bytes())["not_begun"] == ["a", "b", "c"]


def test_ctrl_c_ends_the_run_and_not_the_program_that_called_it(tiny_bundle, tmp_path):
    # With 85,000 tiles it would take minutes.
    write_nifti(tmp_path / "a.nii.gz", blobs((64, 64, 64)), spacing_mm=SPACING)
    options = ["-i", tmp_path / "a.nii.gz", "-o", tmp_path / "mask.nii", "--report", tmp_path / "run.json"]
    options += ["-m", tiny_bundle, "--device", "cpu", "--threads", "1", "--step", "0.07"]
    process = subprocess.Popen(
        [sys.executable, "-c", KEYBOARD, *map(str, options)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stderr.readline()  # the heading comes before the first case
    time.sleep(0.1)
    out, err = process.communicate("now\n", timeout=300)
    assert (out, err, process.returncode) == ("went on with 130\n", "flare-infer: interrupted\n", 0)
    assert json.loads((tmp_path / "run.json").read_bytes())["not_begun"] == ["a"]
    assert {path.name for path in tmp_path.iterdir()} == {"a.nii.gz", "run.json"}
