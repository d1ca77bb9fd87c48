"""How the cases of a run are handed to drivers, and to others where these are lost, with stand-ins for the drivers."""

from collections import Counter, deque
from itertools import chain, repeat
from pathlib import Path

import pytest

from flare_runtime import BundleError, DeviceError, ResumeRules, RunOptions
from flare_runtime.cases.case import Case
from flare_runtime.cluster import dispatch
from flare_runtime.cluster.driver import LostDriverError
from flare_runtime.cluster.messages import CaseSettled, CasesWanted, Connected
from flare_runtime.cluster.orders import ActorOrder, FleetOrder
from flare_runtime.cluster.placement import ActorWish
from flare_runtime.errors import LostDeviceError
from flare_runtime.run.claims import Kept
from flare_runtime.run.events import CaseKept, NetworkReady
from flare_runtime.run.journal import Journal
from flare_runtime.run.record import CaseRecord

READY = NetworkReady("cpu", "openvino", "fp32")


class StandIn:
    """A driver with two actors that does one case each time that it is listened to; `fault` may have it say another."""

    def __init__(self, fault):
        self._fault = fault
        self._said = deque([Connected("here:1"), READY, CasesWanted(2)])

    def give(self, cases, left):
        for case in cases:
            self._said.append(self._fault(case) or CaseSettled(case, CaseRecord(case=case.name, status="done")))
        if left:
            self._said.append(CasesWanted(2))

    def receive(self):
        message = self._said.popleft()
        if isinstance(message, LostDriverError):
            raise message
        return message

    def end(self, _limit_s):
        pass

    def kill(self):
        pass


@pytest.fixture
def run(monkeypatch):
    """A function that has drivers with these faults do so many cases: what was settled, events, journal, addresses."""

    def run(count, *faults, address="here:1", answers=lambda _address: True):
        coming, addresses = chain(faults, repeat(lambda _case: None)), []

        def driver(order):
            addresses.append(order.address)
            return StandIn(next(coming))

        monkeypatch.setattr(dispatch, "Driver", driver)
        monkeypatch.setattr(dispatch, "answers", answers)
        monkeypatch.setattr(dispatch, "_PAUSE_S", 0.0)
        cases = [Case(f"c{number}", {}, Path(f"masks/c{number}.nii.gz")) for number in range(count)]
        actor = ActorOrder(None, "", RunOptions(), ResumeRules(), 0)
        events, journal = [], Journal(None, cases)
        queue = dispatch.Dispatch(cases, FleetOrder(address, ActorWish(), count, actor), journal, events.append)
        return Counter(record.case for record in queue.records()), events, journal, addresses

    return run


def once(name, message):
    """A fault at the first time of a case."""
    messages = {name: message}
    return lambda case: messages.pop(case.name, None)


def each(count):
    return Counter(f"c{number}" for number in range(count))


def test_every_case_is_done_once_and_what_all_actors_say_is_told_once(run):
    settled, events, _, addresses = run(5, once("c3", LostDriverError()))
    assert settled == each(5)
    assert events == [READY]
    assert addresses == ["here:1", "here:1"]


def test_cases_that_others_have_done_are_kept(run):
    case = Case("c1", {}, Path("masks/c1.nii.gz"))
    settled, events, journal, _ = run(3, once("c1", Kept(case, "refused", "truncated", "cut short")))
    assert settled == Counter(["c0", "c2"])
    assert events[1:] == [CaseKept("c1", "refused", "truncated", "cut short")]
    assert (journal.kept, journal.kept_failed) == (1, 1)


def test_drivers_may_be_lost_as_often_as_may_be_where_cases_are_done_in_between(run):
    faults = [once(f"c{number}", LostDriverError()) for number in range(1, 8)]
    settled, _, _, addresses = run(9, *faults, address="local")
    assert settled == each(9)
    assert addresses == ["local"] * 8


def test_drivers_that_are_lost_one_after_the_other_end_the_run(run):
    started = []

    def fault(case):
        started.append(case.name)
        return LostDriverError()

    with pytest.raises(DeviceError, match="ended without a word"):
        run(1, *[fault] * 9, address="local")
    assert started == ["c0"] * 4


def test_a_cluster_that_is_lost_may_come_again_though_it_cannot_be_joined_at_once(run):
    answers = iter([False, True, True, True])
    faults = [once("c0", LostDeviceError("the cluster is gone")), once("c0", LostDriverError())]
    settled, _, _, addresses = run(2, *faults, address="auto", answers=lambda _address: next(answers))
    assert settled == each(2)
    assert addresses == ["auto", "here:1", "here:1"]


def test_a_cluster_that_cannot_be_joined_yet_is_waited_for(run, monkeypatch):
    said = {"c0": LostDriverError()}
    receive, joins = StandIn.receive, iter([True, False, True])

    def join(driver):
        message = receive(driver)
        if isinstance(message, Connected) and not next(joins):
            return DeviceError("no Ray cluster can be joined")
        return message

    monkeypatch.setattr(StandIn, "receive", join)
    settled, _, _, addresses = run(1, lambda case: said.pop(case.name, None))
    assert settled == each(1)
    assert len(addresses) == 3


def test_no_cluster_within_a_while_ends_the_run(run, monkeypatch):
    monkeypatch.setattr(dispatch, "_NEW_HEAD_S", 0.05)
    with pytest.raises(DeviceError, match="the Ray cluster at here:1 was lost, and none came in its place"):
        run(1, once("c0", LostDriverError()), answers=lambda _address: False)


def test_what_a_driver_cannot_go_on_for_ends_the_run(run):
    with pytest.raises(BundleError, match="another model"):
        run(2, once("c0", BundleError("another model")))
