"""Workers that lose their device, die or are killed: no case is lost with them, none is done twice."""

import os
import signal
import subprocess
import sys
import time
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flare_runtime.cases import Case
from flare_runtime.errors import BundleError, DeviceError, LostDeviceError
from flare_runtime.record import CaseRecord
from flare_runtime.supervision import supervise


@pytest.fixture
def cases(tmp_path):
    return [Case(name, {0: tmp_path / f"{name}.nii"}, tmp_path / f"{name}.nii.gz") for name in "abcd"]


def kill(_attempt):
    os.kill(os.getpid(), signal.SIGKILL)


def lose(_attempt):
    raise LostDeviceError("cuda:0 failed: an illegal memory access")


def crash(_attempt):
    raise ZeroDivisionError


def once(what):
    """Do `what` at a case's first attempt only."""
    return lambda attempt: what(attempt) if attempt == 1 else None


def worker(tmp_path, **trouble):
    """Return work that writes down every attempt, and runs into `trouble` at the cases named."""

    def work(cases):
        for case in cases:
            with (tmp_path / "attempts").open("a+", encoding="utf-8") as file:
                file.write(case.name)
                file.seek(0)
                attempt = file.read().count(case.name)
            trouble.get(case.name, lambda _attempt: None)(attempt)
            yield CaseRecord(case=case.name, status="done", message=str(os.getpid()))

    return work


def outcome(records):
    return [(record.case, record.status) for record in records]


def attempts(tmp_path):
    return (tmp_path / "attempts").read_text(encoding="utf-8")


def test_all_is_done_by_one_worker_that_is_not_this_process(tmp_path, cases):
    records = list(supervise(worker(tmp_path), cases))
    assert outcome(records) == [(name, "done") for name in "abcd"]
    (pid,) = {record.message for record in records}
    assert pid != str(os.getpid())


@pytest.mark.parametrize("trouble", [kill, lose, crash])
def test_a_case_that_costs_a_worker_is_tried_once_more(tmp_path, cases, trouble):
    records = list(supervise(worker(tmp_path, b=once(trouble)), cases))
    assert outcome(records) == [(name, "done") for name in "abcd"]
    assert attempts(tmp_path) == "abbcd"
    pids = [record.message for record in records]
    assert len(set(pids)) == 3  # `b` was tried again by a worker of its own
    assert pids[2] == pids[3]


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [(kill, "the worker ended with -9"), (lose, "an illegal memory access"), (crash, "ZeroDivisionError")],
)
def test_a_case_that_costs_two_workers_fails_and_the_others_go_on(tmp_path, cases, trouble, reason):
    records = list(supervise(worker(tmp_path, b=trouble, d=trouble), cases))
    assert outcome(records) == [("a", "done"), ("b", "failed"), ("c", "done"), ("d", "failed")]
    assert attempts(tmp_path) == "abbcdd"
    assert records[1].reason == "worker_lost"
    assert reason in records[1].message


def test_a_case_is_not_blamed_for_the_workers_that_the_one_before_it_has_cost(tmp_path, cases):
    records = list(supervise(worker(tmp_path, b=kill, c=once(kill)), cases))
    assert outcome(records) == [("a", "done"), ("b", "failed"), ("c", "done"), ("d", "done")]
    assert attempts(tmp_path) == "abbccd"


def test_what_a_worker_died_of_is_kept(tmp_path, cases, caplog):
    caplog.set_level("INFO", "flare_runtime")
    records = list(supervise(worker(tmp_path, b=crash), cases))
    assert "raise ZeroDivisionError" in records[1].traceback
    assert "raise ZeroDivisionError" in caplog.text
    assert "a worker was lost at b (ZeroDivisionError: ); it is tried once more" in caplog.messages


# How a case behaves: how many attempts at it end a worker, and whether to read it ahead ends one too.
BEHAVIOURS = {"sound": (0, False), "costs one": (1, False), "costs all": (9, False), "cannot be read": (9, True)}


@pytest.mark.parametrize("end", [kill, crash])
@given(pattern=st.lists(st.sampled_from(sorted(BEHAVIOURS)), min_size=1, max_size=6))
@settings(max_examples=15)
def test_whatever_dies_only_what_costs_two_workers_by_itself_fails(end, pattern):
    with TemporaryDirectory() as folder:
        counted = Path(folder, "attempts")
        cases = [Case(str(index), {}, Path(folder, f"{index}.nii.gz")) for index in range(len(pattern))]

        def work(some):
            for case, ahead in zip_longest(some, some[1:]):
                with counted.open("a+", encoding="utf-8") as file:
                    file.write(case.name)
                    file.seek(0)
                    attempt = file.read().count(case.name)
                if ahead and BEHAVIOURS[pattern[int(ahead.name)]][1]:
                    end(attempt)
                if attempt <= BEHAVIOURS[pattern[int(case.name)]][0]:
                    end(attempt)
                yield CaseRecord(case=case.name, status="done")

        records = list(supervise(work, cases))
        failing = {"costs all", "cannot be read"}
        assert outcome(records) == [
            (case.name, "failed" if behaviour in failing else "done")
            for case, behaviour in zip(cases, pattern, strict=True)
        ]
        assert max(counted.read_text(encoding="utf-8").count(case.name) for case in cases) <= 2


@pytest.mark.parametrize("error", [DeviceError("no GPU"), BundleError("changed")])
def test_what_would_fail_every_case_is_raised_here(tmp_path, cases, error):
    def fail(_attempt):
        raise error

    results = supervise(worker(tmp_path, b=fail), cases)
    assert next(results).case == "a"
    with pytest.raises(type(error), match=str(error)):
        next(results)
    assert attempts(tmp_path) == "ab"


def test_a_worker_ends_with_the_loop_over_its_results(tmp_path, cases):
    results = supervise(worker(tmp_path, b=lambda _attempt: time.sleep(600)), cases)
    pid = int(next(results).message)
    results.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_command_on_a_gpu_that_is_not_there_ends_with_5_and_one_line(tmp_path, tiny_bundle):
    (tmp_path / "scan.nii").write_bytes(b"")
    command = [sys.executable, "-m", "flare_runtime.cli", "-i", tmp_path / "scan.nii", "-o", tmp_path / "mask.nii"]
    options = ["-m", tiny_bundle, "--device", "cuda:4000", "--backend", "onnxruntime"]
    run = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert run.returncode == 5
    assert run.stderr.startswith("flare-infer: ")
    assert run.stderr.count("\n") == 1
