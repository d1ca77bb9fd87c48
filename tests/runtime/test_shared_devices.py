"""Workers of several devices on cases that other processes share: who has which, and what becomes of their leases."""

import threading

import pytest

from flare_runtime import DeviceError, ResumeRules
from flare_runtime.cases.case import Case
from flare_runtime.files.lease import Leases
from flare_runtime.run.claims import Claims
from flare_runtime.run.identity import Recipe
from flare_runtime.run.shared import SharedCases
from flare_runtime.run.supervision import supervise
from tests.runtime.command_runs import names
from tests.runtime.troubled_work import Fail, TroubledWork, kill

RECIPE = Recipe("model", "options")


@pytest.fixture
def cases(tmp_path):
    return [Case(name, {0: tmp_path / f"{name}.nii"}, tmp_path / "out" / f"{name}.nii.gz") for name in "abcd"]


@pytest.fixture
def queue(cases):
    queue = SharedCases(cases, Claims(ResumeRules(), RECIPE), pytest.fail, pytest.fail)
    yield queue
    queue.close()


def works(tmp_path, count=2, **trouble):
    return [TroubledWork(tmp_path / "attempts", trouble)] * count


def test_a_case_of_another_process_is_waited_for(cases, queue, tmp_path):
    cases[1].mask.parent.mkdir()
    other = Leases()
    lease = other.take(cases[1].mask)
    records = supervise(works(tmp_path), queue, recipe=RECIPE)
    assert sorted(next(records).case for _ in range(3)) == ["a", "c", "d"]
    threading.Timer(0.5, other.release, [lease]).start()
    assert [record.case for record in records] == ["b"]
    assert names(tmp_path / "out") == []
    other.close()


def test_a_case_that_costs_its_workers_fails_and_leaves_no_lease(queue, tmp_path):
    records = {one.case: one.status for one in supervise(works(tmp_path, b=kill), queue, recipe=RECIPE)}
    assert records == {"a": "done", "b": "failed", "c": "done", "d": "done"}
    assert names(tmp_path / "out") == ["b.json"]


def test_what_lost_devices_had_is_given_back_to_all(queue, cases, tmp_path):
    work = works(tmp_path, 1, **dict.fromkeys("abcd", Fail(DeviceError("no device"))))
    with pytest.raises(DeviceError, match="no device"):
        list(supervise(work, queue, recipe=RECIPE))
    assert names(tmp_path / "out") == []
    assert queue.left == len(cases)  # for the CPU
    assert queue.take().name in "abcd"
