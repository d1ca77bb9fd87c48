"""SIGUSR1 and SIGUSR2 let the command finish what it has in work and begin nothing else; in real processes."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from flare_runtime.files.lease import Leases, is_lease_name
from tests.runtime.command_runs import SPACING, names
from tests.runtime.nifti_files import blobs, write_nifti
from tests.runtime.test_interruption import LIMIT_S, PREPARE

CODES = {signal.SIGUSR1: 138, signal.SIGUSR2: 140}
# The network takes as long at each case as this process says.
NETWORK = """
from flare_runtime.backends.openvino.network import OpenVINONetwork
real = OpenVINONetwork.run
def waiting(*args, **options):
    print("in work", flush=True)
    sys.stdin.readline()
    return real(*args, **options)
OpenVINONetwork.run = waiting
"""
# Signals that come one after the other are one warning, however long the machine takes in between.
PATIENT = """
from flare_runtime.program import interruption
interruption._SAME_S = 1e9
"""
# It says that it found no case free.
WAITING = """
from flare_runtime.run.shared import SharedCases
real = SharedCases._next
def looking(self):
    case = real(self)
    if case is None:
        print("waiting", flush=True)
    return case
SharedCases._next = looking
"""
GPU = """
backends.resolve = lambda *_args: 'cuda:0'
from tests.runtime.troubled_work import AheadWork; session.CaseWork = AheadWork
from flare_runtime.run.supervision import _Lane
recall = _Lane.recall
def recalling(self):
    recall(self)
    print("recalled", flush=True)
_Lane.recall = recalling
"""


@pytest.fixture
def folder(tmp_path):
    """A folder of scans, each of one tile: `a`, `b`, `c`."""
    (tmp_path / "in").mkdir()
    for seed, name in enumerate("abc"):
        write_nifti(tmp_path / "in" / f"{name}.nii", blobs((16, 16, 16), seed), spacing_mm=SPACING)
    return tmp_path


@pytest.fixture
def start(folder, tiny_bundle):
    """A function that starts the command over the folder in a process that is prepared by some code."""
    processes = []

    def started(code, *options):
        paths = ["-i", folder / "in", "-o", folder / "out", "--report", folder / "run.json", "-m", tiny_bundle]
        arguments = [*map(str, paths), "--threads", "1", "--precision", "fp32", *options]
        script = f"{PREPARE}\n{code}\nsys.exit(cli.main())"
        process = subprocess.Popen(
            [sys.executable, "-c", script, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        processes.append(process)
        return process

    yield started
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for(process, line):
    assert process.stdout.readline() == f"{line}\n", process.stderr.read()


def wait_until_said(process, words):
    line = ""
    while words not in line:
        line = process.stderr.readline()
        assert line, "it has ended"


def not_begun(folder):
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))["not_begun"]


@pytest.mark.parametrize(("number", "options"), zip(CODES, [(), ("--resume",)], strict=True))
def test_the_case_in_work_is_finished_and_no_other_begun(folder, start, number, options):
    process = start(NETWORK + PATIENT, *options)
    wait_for(process, "in work")
    process.send_signal(number)
    process.send_signal(number)  # as by a scheduler and by what started it
    wait_until_said(process, "no further case is begun")
    _, err = process.communicate("\n", timeout=LIMIT_S)
    assert process.returncode == CODES[number], err
    assert err.splitlines()[-1] == "flare-infer: preempted; 2 case(s) are left"
    assert names(folder / "out") == ["a.json", "a.nii.gz"]
    assert not_begun(folder) == ["b", "c"]


def test_what_ends_with_all_cases_done_is_no_preemption(folder, start):
    process = start(NETWORK)
    for _ in range(2):
        wait_for(process, "in work")
        process.stdin.write("\n")
        process.stdin.flush()
    wait_for(process, "in work")
    process.send_signal(signal.SIGUSR1)
    wait_until_said(process, "no further case is begun")
    _, err = process.communicate("\n", timeout=LIMIT_S)
    assert process.returncode == 0, err
    assert not_begun(folder) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGUSR2, 140), (signal.SIGTERM, 143)])
def test_the_next_signal_ends_it_at_once(folder, start, number, code):
    process = start(NETWORK, "--resume")
    wait_for(process, "in work")
    process.send_signal(signal.SIGUSR1)
    wait_until_said(process, "no further case is begun")
    time.sleep(1.1)
    process.send_signal(number)
    assert process.wait(LIMIT_S) == code
    assert names(folder / "out") == []
    assert not_begun(folder) == ["a", "b", "c"]


def test_before_a_run_there_is_nothing_to_finish(folder, start):
    process = start("session.find_cases = stuck")
    wait_for(process, "stuck")
    process.send_signal(signal.SIGUSR1)
    assert process.wait(LIMIT_S) == 138


@pytest.mark.parametrize(("number", "code"), [(signal.SIGUSR1, 138), (signal.SIGTERM, 143)])
def test_a_worker_that_waits_for_others_ends_at_once(folder, start, number, code):
    (folder / "out").mkdir()
    others, targets = Leases(), [folder / "out" / f"{name}.nii.gz" for name in "abc"]
    for target in targets:
        assert others.take(target)
    process = start(WAITING, "--resume")
    wait_for(process, "waiting")
    process.send_signal(number)
    assert process.wait(LIMIT_S) == code
    assert len(names(folder / "out")) == 3  # the leases of the others
    others.close()


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_the_worker_of_a_gpu_gets_back_what_it_has_not_begun(folder, start, number):
    process = start(GPU, "--resume")
    wait_for(process, "in work")
    assert [name for name in names(folder / "out") if is_lease_name(name)]
    os.killpg(process.pid, number)
    if number == signal.SIGTERM:
        assert process.wait(LIMIT_S) == 143
        assert names(folder / "out") == []
        return
    wait_until_said(process, "no further case is begun")
    wait_for(process, "recalled")
    (folder / "go").touch()
    _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 138, err
    assert not_begun(folder) == ["c"]
    assert [name for name in names(folder / "out") if is_lease_name(name)] == []
