"""SIGINT and SIGTERM end the command within two seconds, whatever it is in the middle of; in real processes."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import cycle
from pathlib import Path

import pytest

import flare_runtime
from flare_runtime.arguments import parse_args
from flare_runtime.command import Command
from flare_runtime.program.interruption import Interruption
from tests.processes import has_ended
from tests.runtime.nifti_files import blobs, write_nifti

SPACING = (2.5, 1.5, 1.5)  # the tiny network's own
LIMIT_S = 300.0  # on a machine that is busy; the command's own limits make less than 2 s, what hangs in it has no end
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}

PREPARE = """
import hashlib, os, sys, time
from flare_runtime import cli, segmenter
from flare_runtime.backends import selection as backends
from flare_runtime.run import serial
from flare_runtime.compute import device
from flare_runtime.files import output
from flare_runtime.program.interruption import Interruption
from flare_runtime.run import session

def stuck(*_args, **_options):
    print("stuck", flush=True)
    os.read(os.pipe()[0], 1)

def in_c(*_args, **_options):
    print("stuck", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 1 << 30)

# The final steps have more time than usual, so that a busy machine lets them come to their end.
patience = 30
Interruption.final_steps = property(
    lambda self: [(step, patience * limit_s) for step, limit_s in self.steps],
    lambda self, steps: setattr(self, "steps", steps),
)

def second(function, then):  # what to do the first time, and from the second on
    calls = []
    def call(*args, **options):
        calls.append(args)
        return (then if len(calls) > 1 else function)(*args, **options)
    return call
"""
# Where the program hangs, by how it is made to; `a` is the first case.
PLACES = {
    "listing the cases": "session.find_cases = stuck",
    "reading the first case": "serial.read_volume = stuck",
    "reading ahead": "serial.read_volume = second(serial.read_volume, stuck)",
    "compiling": "segmenter.read_network = lambda *_args, **_options: stuck",
    "the engine": "from flare_runtime.backends.openvino.network import OpenVINONetwork as n; n.run = in_c",
    "the engine at the second case": (
        "from flare_runtime.backends.openvino.network import OpenVINONetwork as n; n.run = second(n.run, in_c)"
    ),
    "writing": "os.fsync = second(stuck, os.fsync)",
    "a disk that does not answer": "os.fsync = stuck; patience = 1",
    "the worker of a GPU": (
        "backends.resolve = lambda *_args: 'cuda:0';"
        "from tests.runtime.troubled_work import StuckWork; session.CaseWork = StuckWork"
    ),
}


@pytest.fixture
def folder(tmp_path):
    """A folder of two scans, each of one tile."""
    (tmp_path / "in").mkdir()
    for name in "ab":
        write_nifti(tmp_path / "in" / f"{name}.nii", blobs((16, 16, 16)), spacing_mm=SPACING)
    return tmp_path


def start(folder, model, code="", words=(), **options):
    """Start the command in a process that is prepared by some code, over the folder, with a report."""
    paths = ["-i", folder / "in", "-o", folder / "out", "--report", folder / "run.json", "-m", model]
    arguments = [*map(str, paths), "--threads", "1", "--precision", "fp32", *words]
    script = f"{PREPARE}\n{code}\nsys.exit(cli.main())" if code else None
    program = ["-c", script] if script else ["-m", "flare_runtime.cli"]
    return subprocess.Popen(
        [sys.executable, *program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Under nohup the tests ignore it, and what they start would too.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
        **options,
    )


def finish(process, number):
    """Send a signal and return what was said on standard error; the process must end in time and with its code."""
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == CODES[number], err
    assert "Traceback" not in err
    return err


def test_the_final_steps_take_less_than_two_seconds(folder, tiny_bundle):
    paths = ["-i", folder / "in", "-o", folder / "out", "-m", tiny_bundle]
    interruption = Interruption()
    Command(parse_args([*map(str, paths), "--device", "cpu", "--threads", "1"]), (), interruption)
    assert 0 < sum(limit_s for _, limit_s in interruption.final_steps) < 2


@pytest.mark.parametrize(("place", "number"), zip(PLACES, cycle(CODES)), ids=PLACES)
def test_whatever_hangs_is_left_and_the_report_is_written(folder, tiny_bundle, place, number):
    process = start(folder, tiny_bundle, PLACES[place])
    assert process.stdout.readline() == "stuck\n", process.stderr.read()
    time.sleep(0.1)
    err = finish(process, number)
    if place == "listing the cases":
        assert err.splitlines() == [f"flare-infer: {WORDS[number]}"]
        return
    ending = f"flare-infer: {WORDS[number]}; finished cases are kept; --resume does the others"
    assert err.splitlines()[-1] == ending
    if place == "a disk that does not answer":
        assert list((folder / "out").iterdir()) == []
        return
    report = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    done = [case["case"] for case in report["cases"]]
    assert not report["complete"]
    assert done + report["not_begun"] == ["a", "b"]
    if place != "reading ahead":  # where the first case goes on meanwhile
        assert done == (["a"] if place == "the engine at the second case" else [])
    names = {path.name for path in (folder / "out").iterdir()}
    assert names == ({"a.json", "a.nii.gz"} if done else set())


@pytest.mark.parametrize("moment", ["__enter__", "__exit__"])
def test_a_report_that_is_just_being_written_is_finished(folder, tiny_bundle, moment):
    code = f"""
import contextlib
real = output.staged
class Slow(contextlib.AbstractContextManager):
    def __init__(self, target): self.target, self.real = target, real(target)
    def __enter__(self): return self.slow('__enter__', self.real.__enter__())
    def __exit__(self, *error): return self.slow('__exit__', self.real.__exit__(*error))
    def slow(self, moment, result):
        if (self.target.name, moment) == ('run.json', '{moment}'):
            print('stuck', flush=True)
            time.sleep(0.4)
        return result
output.staged = Slow
"""
    process = start(folder, tiny_bundle, code)
    assert process.stdout.readline() == "stuck\n"
    os.kill(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode in (0, 143), err  # when all was done already
    assert json.loads((folder / "run.json").read_text(encoding="utf-8"))["complete"]
    assert {path.name for path in (folder / "out").iterdir()} == {"a.json", "a.nii.gz", "b.json", "b.nii.gz"}


def test_the_worker_of_a_gpu_ends_with_its_parent(folder, tiny_bundle):
    process = start(folder, tiny_bundle, PLACES["the worker of a GPU"].replace("StuckWork", "NumberedWork"))
    worker = int(process.stdout.readline())
    finish(process, signal.SIGTERM)
    deadline = time.monotonic() + LIMIT_S
    while not has_ended(worker) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert has_ended(worker)


def test_ctrl_c_is_no_traceback_of_what_workers_are_forked_from(folder, tiny_bundle):
    code = """
from flare_runtime.run import worker_server
real = worker_server.start_early
def start_early():
    real()
    time.sleep(0.1)  # it has begun to import
    stuck()
worker_server.start_early, cli.may_need_worker = start_early, lambda _device: True
"""
    process = start(folder, tiny_bundle, code + PLACES["the worker of a GPU"], start_new_session=True)
    assert process.stdout.readline() == "stuck\n"
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, err) == (130, "flare-infer: interrupted\n")


def catches_sigterm(process):
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    caught = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


@pytest.mark.parametrize("number", CODES)
@pytest.mark.parametrize("delay_s", [0.0, 0.05, 0.1])
def test_the_start_is_no_exception(folder, tiny_bundle, number, delay_s):
    # With 85,000 tiles it does not end before the signal comes, however late that is.
    write_nifti(folder / "in" / "a.nii", blobs((64, 64, 64)), spacing_mm=SPACING)
    process = start(folder, tiny_bundle, words=("--step", "0.07"))
    while not catches_sigterm(process):  # until then it is Python that starts
        time.sleep(0.001)
    time.sleep(delay_s)
    # What the run says of its beginning may come at the same moment.
    assert f"flare-infer: {WORDS[number]}" in finish(process, number)


def test_little_is_imported_before_signals_are_minded():
    code = "import sys; sys.path.append(sys.argv[1]); import flare_runtime.cli; print(*sys.modules)"
    command = [sys.executable, "-I", "-S", "-c", code, str(Path(flare_runtime.__file__).parents[1])]
    loaded = set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert not loaded & {"argparse", "logging", "numpy", "pathlib", "re", "typing"}


def test_a_signal_that_was_to_be_ignored_still_is(folder, tiny_bundle):
    code = "signal = __import__('signal'); signal.signal(2, signal.SIG_IGN); serial.read_volume = stuck"
    process = start(folder, tiny_bundle, code)
    assert process.stdout.readline() == "stuck\n"
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.2)
    assert process.poll() is None
    finish(process, signal.SIGTERM)
