"""An actor takes the cases that it is given, and hands those back at once that another worker has."""

import pytest

from flare_runtime import ResumeRules, RunOptions, Session
from flare_runtime.cases.finding import find_cases
from flare_runtime.cluster.given_cases import GivenCases
from flare_runtime.files.lease import Leases
from flare_runtime.run.claims import Claims
from tests.runtime.command_runs import names, write_cohort
from tests.runtime.test_resume import lose_worker

OPTIONS = RunOptions(device="cpu", precision="fp32", threads=1)


@pytest.fixture
def cases(tmp_path):
    """The cases `a`, `b`, which is truncated, and `c`."""
    return find_cases(write_cohort(tmp_path / "scans"), tmp_path / "masks", 1)


@pytest.fixture
def session(tiny_bundle):
    return Session(tiny_bundle, OPTIONS)


def queue_of(session, kept, held):
    return GivenCases(Claims(ResumeRules(), session.recipe), kept.append, pytest.fail, held.append)


def test_cases_are_done_as_they_come_and_never_twice(cases, session, tmp_path):
    first = queue_of(session, [], [])
    first.give(cases[0])
    run = iter(session.over(first))
    assert (next(run).case, first.settled.mask) == ("a", cases[0].mask)
    first.give(cases[1])  # the run has waited for it
    assert (next(run).case, first.settled.mask) == ("b", cases[1].mask)
    run.close()
    kept = []
    second = queue_of(session, kept, [])
    for case in cases:
        second.give(case)
    run = iter(session.over(second))
    assert next(run).case == "c"
    run.close()
    assert [(one.case.name, one.status) for one in kept] == [("a", "done"), ("b", "refused")]
    assert names(tmp_path / "masks") == ["a.json", "a.nii.gz", "b.json", "c.json", "c.nii.gz"]


def test_a_case_that_another_worker_has_is_handed_back(cases, session):
    other, held = Leases(), []
    assert other.take(cases[0].mask)
    queue = queue_of(session, [], held)
    for case in cases:
        queue.give(case)
    assert queue.take().name == "b"
    assert held == [cases[0]]
    other.close()
    queue.close()


def test_a_case_that_cannot_be_begun_is_not_handed_back(cases, session):
    given_up = []
    queue = GivenCases(
        Claims(ResumeRules(), session.recipe), pytest.fail, lambda *one: given_up.append(one), pytest.fail
    )
    cases[0].mask.parent.rmdir()
    cases[0].mask.parent.touch()
    queue.give(cases[0])
    assert queue.take() is None
    ((case, record),) = given_up
    assert (case, record.reason) == (cases[0], "output")


def test_while_a_case_is_by_itself_others_wait_here(cases, session):
    lose_worker(cases[0])
    held = []
    queue = queue_of(session, [], held)
    for case in cases[:2]:
        queue.give(case)
    alone = queue.take()
    assert (alone.mask, queue.take(), held) == (cases[0].mask, None, [])
    queue.settle(alone)
    assert queue.take().mask == cases[1].mask
    queue.close()


def test_a_case_that_is_given_back_comes_again_before_others(cases, session):
    queue = queue_of(session, [], [])
    for case in cases:
        queue.give(case)
    taken = queue.take()
    assert taken.lease.is_held()
    queue.give_back(taken)
    assert not taken.lease.is_held()
    assert queue.take().mask == taken.mask
    queue.close()
    assert names(taken.mask.parent) == []


def test_a_case_whose_claim_fails_is_still_to_be_done(cases, session, monkeypatch):
    def fail(*_args):
        raise OSError("the disk is away")

    queue = queue_of(session, [], [])
    queue.give(cases[0])
    with monkeypatch.context() as patch:
        patch.setattr(Claims, "claim", fail)
        with pytest.raises(OSError, match="away"):
            queue.take()
    assert queue.take().mask == cases[0].mask
    queue.close()
