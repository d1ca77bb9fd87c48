"""Workers that lose their device, die or are killed: no case is lost with them, none is done twice."""

import logging
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flare_runtime.backends.selection import choose
from flare_runtime.cases.case import Case
from flare_runtime.cases.finding import find_cases
from flare_runtime.errors import BundleError, DeviceError, OutputError
from flare_runtime.model.bundle import Bundle
from flare_runtime.options import RunOptions
from flare_runtime.run.events import CaseProgress, NetworkReady
from flare_runtime.run.queue import ListedCases
from flare_runtime.run.supervision import supervise
from flare_runtime.run.work import CaseWork
from tests.runtime.nifti_files import blobs, write_nifti
from tests.runtime.troubled_work import (
    BEHAVIOURS,
    CommittingWork,
    Fail,
    ModuleWork,
    Once,
    PatternWork,
    TellingWork,
    TroubledWork,
    crash,
    hang,
    kill,
    lose,
)

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
from pathlib import Path
from flare_runtime.cases.case import Case
from flare_runtime.run.supervision import supervise
from tests.runtime.troubled_work import TroubledWork

print("begun", flush=True)
(record,) = supervise([TroubledWork(Path(sys.argv[1]))], [Case("a", {}, Path("a.nii.gz"))])
print(record.status)
"""


def environment():
    """Return the environment in which a program finds what this one does."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}


@pytest.fixture
def cases(tmp_path):
    return [Case(name, {0: tmp_path / f"{name}.nii"}, tmp_path / f"{name}.nii.gz") for name in "abcd"]


def worker(tmp_path, **trouble):
    return TroubledWork(tmp_path / "attempts", trouble)


def supervise_one(work, cases, listener=lambda _event: None, **options):
    return supervise([work], cases, listener, **options)


def outcome(records):
    return [(record.case, record.status) for record in records]


def attempts(tmp_path):
    return (tmp_path / "attempts").read_text(encoding="utf-8")


def test_all_is_done_by_one_worker_that_is_not_this_process(tmp_path, cases):
    records = list(supervise_one(worker(tmp_path), cases))
    assert outcome(records) == [(name, "done") for name in "abcd"]
    (pid,) = {record.message for record in records}
    assert pid != str(os.getpid())


def test_what_the_queue_raises_comes_behind_the_record_of_the_case_that_is_settled(tmp_path, cases, monkeypatch):
    class Failing(ListedCases):
        def settle(self, case):
            super().settle(case)
            monkeypatch.setattr(self, "take", fail)

    def fail():
        raise OutputError("the store is away")

    records = supervise_one(worker(tmp_path), Failing(cases * 5))
    assert outcome([next(records)]) == [("a", "done")]
    with pytest.raises(OutputError, match="away"):
        list(records)


def test_a_worker_inherits_nothing_of_this_process(tmp_path, cases, monkeypatch):
    """Above all not CUDA, which does not survive a fork; a module stands for it."""
    monkeypatch.setitem(sys.modules, "of_this_process", ModuleType("of_this_process"))
    assert all(record.message == "False" for record in supervise_one(ModuleWork("of_this_process"), cases))


def test_a_program_without_a_guard_is_not_begun_anew_by_its_worker(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    command = [sys.executable, program, tmp_path / "attempts"]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment())
    assert (run.returncode, run.stdout) == (0, "begun\ndone\n"), run.stderr


def test_what_a_worker_tells_and_logs_is_heard_here(cases, caplog):
    caplog.set_level("INFO", "flare_runtime")
    heard = []
    assert outcome(supervise_one(TellingWork(), cases, heard.append)) == [(name, "done") for name in "abcd"]
    assert heard == [CaseProgress(name, 1, 2) for name in "abcd"]
    assert caplog.record_tuples == [("flare_runtime.somewhere", logging.WARNING, f"{name} is\nodd") for name in "abcd"]


def test_what_a_listener_raises_ends_the_worker_and_is_raised_here(tmp_path, cases):
    def fail(_event):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(supervise_one(TellingWork(), cases, fail))
    assert not multiprocessing.active_children()


def test_a_run_in_a_worker_is_that_of_this_process(tiny_bundle, tmp_path):
    for name in "ab":
        write_nifti(tmp_path / f"{name}.nii.gz", blobs((16, 17, 18)), spacing_mm=(2.5, 1.5, 1.5))
    work = CaseWork(choose(Bundle.open(tiny_bundle), RunOptions(device="cpu", precision="fp32", threads=1)))
    heard = []
    there = list(supervise_one(work, find_cases(tmp_path, tmp_path / "there", 1), heard.append))
    here = list(work(find_cases(tmp_path, tmp_path / "here", 1), lambda _event: None))
    assert [record.mask_sha256 for record in there] == [record.mask_sha256 for record in here]
    assert heard[0] == NetworkReady("cpu", "openvino", "fp32")
    for name in "ab":  # whichever was read first
        told = [(event.done, event.total) for event in heard[1:] if event.case == name]
        assert (told[0], told[-1]) == ((0, 4), (4, 4))


@pytest.mark.parametrize("trouble", [kill, lose, crash])
def test_a_case_that_costs_a_worker_is_tried_once_more(tmp_path, cases, trouble):
    records = list(supervise_one(worker(tmp_path, b=Once(trouble)), cases))
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
    records = list(supervise_one(worker(tmp_path, b=trouble, d=trouble), cases))
    assert outcome(records) == [("a", "done"), ("b", "failed"), ("c", "done"), ("d", "failed")]
    assert attempts(tmp_path) == "abbbcddd"  # of what `b` costs in company no one can say that it is to blame
    assert records[1].reason == "worker_lost"
    assert reason in records[1].message


def test_a_case_that_costs_two_workers_leaves_no_record_where_none_is_wanted(tmp_path, cases):
    (record,) = supervise_one(worker(tmp_path, a=kill), cases[:1], with_records=False)
    assert record.status == "failed"
    assert not cases[0].record.exists()


def test_a_case_is_not_blamed_for_the_workers_that_the_one_before_it_has_cost(tmp_path, cases):
    records = list(supervise_one(worker(tmp_path, b=kill, c=Once(kill)), cases))
    assert outcome(records) == [("a", "done"), ("b", "failed"), ("c", "done"), ("d", "done")]
    assert attempts(tmp_path) == "abbbccd"


def test_what_a_worker_died_of_is_kept(tmp_path, cases, caplog):
    caplog.set_level("INFO", "flare_runtime")
    records = list(supervise_one(worker(tmp_path, b=crash), cases))
    assert "raise ZeroDivisionError" in records[1].traceback
    assert "raise ZeroDivisionError" in caplog.text
    assert "a worker was lost at b (ZeroDivisionError: ); it is tried again by itself" in caplog.messages


@pytest.mark.parametrize("end", [kill, crash])
@given(pattern=st.lists(st.sampled_from(sorted(BEHAVIOURS)), min_size=1, max_size=6))
@example(pattern=["costs one when restored", "costs all"])
@settings(max_examples=8)
def test_whatever_dies_only_what_costs_two_workers_by_itself_fails(end, pattern):
    with TemporaryDirectory() as folder:
        counted = Path(folder, "attempts")
        cases = [Case(str(index), {}, Path(folder, f"{index}.nii.gz")) for index in range(len(pattern))]

        records = list(supervise_one(PatternWork(counted, pattern, end), cases))
        failing = {"costs all", "cannot be read", "cannot be restored"}
        assert outcome(records) == [
            (case.name, "failed" if behaviour in failing else "done")
            for case, behaviour in zip(cases, pattern, strict=True)
        ]


@pytest.mark.parametrize("error", [DeviceError("no GPU"), BundleError("changed")])
def test_what_would_fail_every_case_is_raised_here(tmp_path, cases, error):
    results = supervise_one(worker(tmp_path, b=Fail(error)), cases)
    assert next(results).case == "a"
    with pytest.raises(type(error), match=str(error)):
        next(results)
    assert attempts(tmp_path) == "ab"


def test_a_worker_ends_with_the_loop_over_its_results(tmp_path, cases):
    results = supervise_one(worker(tmp_path, b=hang), cases)
    pid = int(next(results).message)
    results.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_worker_is_not_ended_between_a_mask_and_its_record(cases):
    results = supervise_one(CommittingWork(), cases)
    next(results)
    results.close()
    assert cases[1].mask.exists()
    assert cases[1].record.exists()


def test_the_command_on_a_gpu_that_is_not_there_ends_with_5_and_one_line(tmp_path, tiny_bundle):
    (tmp_path / "scan.nii").write_bytes(b"")
    command = [sys.executable, "-m", "flare_runtime.cli", "-i", tmp_path / "scan.nii", "-o", tmp_path / "mask.nii"]
    options = ["-m", tiny_bundle, "--device", "cuda:4000", "--backend", "onnxruntime"]
    run = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert run.returncode == 5
    assert run.stderr.startswith("flare-infer: ")
    assert run.stderr.count("\n") == 1
