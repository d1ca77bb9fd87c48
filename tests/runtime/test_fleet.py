"""How a fleet gives cases to actors, with stand-ins for the actors."""

from collections import Counter, deque
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue

import pytest

from flare_runtime import BundleError, DeviceError, FlareError, ResumeRules, RunOptions
from flare_runtime.cases.case import Case
from flare_runtime.cluster.messages import ActorReady, CaseHeld, CaseSettled, CasesGiven, CasesWanted
from flare_runtime.cluster.orders import ActorOrder, FleetOrder
from flare_runtime.cluster.placement import ActorWish
from flare_runtime.run.record import CaseRecord

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")


class StandIn:
    """An actor that does one case each time that it is listened to; `fault` may have it say something else."""

    def __init__(self, fault):
        self.fault = fault
        self.given = deque()
        self.most = 0
        self.is_ready = False

    def give(self, cases):
        self.given.extend(cases)
        self.most = max(self.most, len(self.given))

    def receive(self):
        if not self.is_ready:
            self.is_ready = True
            return ActorReady("here")
        case = self.given.popleft()
        message = self.fault(case) or CaseSettled(case, CaseRecord(case=case.name, status="done"))
        if isinstance(message, Exception) and not isinstance(message, FlareError):
            raise message
        return message

    def kill(self):
        self.given.clear()


class Cluster:
    """The machine of stand-ins, with four cores."""

    address = "here:1"

    def __init__(self, faults):
        self._faults = iter(faults)
        self.actors = []

    def resources(self):
        return [{"CPU": 4.0}]

    def answers(self):
        return True

    def new_actor(self, order, demand):
        assert order.options.threads == demand.cpus == 1
        self.actors.append(StandIn(next(self._faults, lambda _case: None)))
        return self.actors[-1]

    def close(self):
        pass


@pytest.fixture
def run(monkeypatch):
    """A function that has a fleet with these faults, by actor, do so many cases; it returns what was settled."""
    from flare_runtime.cluster import fleet

    def run(count, *faults, actors=2):
        cluster = Cluster(faults)
        monkeypatch.setattr(fleet, "RayCluster", lambda *_: cluster)
        monkeypatch.setattr(fleet, "speaking", lambda all_, _s: [one for one in all_ if one.given or not one.is_ready])
        monkeypatch.setattr(fleet, "stop", lambda _actors: None)
        monkeypatch.setattr(fleet, "_AGAIN_S", 0.0)
        coming = deque(Case(f"c{number}", {}, Path(f"masks/c{number}.nii.gz")) for number in range(count))
        settled, heard = Counter(), SimpleQueue()

        def say(message):
            if isinstance(message, CasesWanted):
                cases = tuple(coming.popleft() for _ in range(min(message.count, len(coming))))
                heard.put(CasesGiven(cases, len(coming)))
            elif isinstance(message, CaseSettled):
                settled[message.case.name] += 1
                if len(settled) == count:
                    heard.put(None)

        actor = ActorOrder(None, "", RunOptions(), ResumeRules(max_tries=2), 0)
        wish = ActorWish("cpu", actors=actors, cpus=1)
        fleet.Fleet(FleetOrder("here:1", wish, count, actor), say, heard).run()
        return settled, cluster.actors

    return run


def lost():
    from flare_runtime.cluster.ray_cluster import LostActorError

    return LostActorError("it was killed")


def once(name, message):
    """A fault at the first time of a case."""
    messages = {name: message}
    return lambda case: messages.pop(case.name, None)


def test_every_case_is_done_once_and_an_actor_has_few_at_a_time(run):
    settled, actors = run(20)
    assert settled == Counter({f"c{number}": 1 for number in range(20)})
    assert len(actors) == 2
    assert max(actor.most for actor in actors) == 3


def test_the_last_cases_are_shared(run):
    _, actors = run(2)
    assert [actor.most for actor in actors] == [1, 1]


def test_there_are_no_more_actors_than_cases(run):
    _, actors = run(1)
    assert len(actors) == 1


def test_the_cases_of_a_lost_actor_go_to_others(run):
    settled, actors = run(9, once("c0", lost()))
    assert settled == Counter({f"c{number}": 1 for number in range(9)})
    assert len(actors) == 3


def test_a_case_that_another_worker_has_is_tried_again(run):
    held = CaseHeld(Case("c1", {}, Path("masks/c1.nii.gz")))
    settled, _ = run(4, once("c1", held), once("c1", held))
    assert settled == Counter({f"c{number}": 1 for number in range(4)})


def test_a_machine_that_cannot_segment_is_left_out(run):
    settled, actors = run(6, lambda _case: DeviceError("no GPU"))
    assert settled == Counter({f"c{number}": 1 for number in range(6)})
    assert len(actors) == 2


def test_the_last_machine_that_cannot_segment_ends_the_run(run):
    with pytest.raises(DeviceError, match="no GPU"):
        run(6, *[lambda _case: DeviceError("no GPU")] * 2)


def test_actors_that_are_lost_one_after_the_other_end_the_run(run):
    with pytest.raises(DeviceError, match=r"3 actors were lost one after the other \(it was killed\)"):
        run(1, *[lambda _case: lost()] * 4, actors=1)


def test_actors_may_be_lost_as_often_as_may_be_where_cases_are_done_in_between(run):
    settled, actors = run(7, *[once(f"c{number}", lost()) for number in range(1, 6)], actors=1)
    assert settled == Counter({f"c{number}": 1 for number in range(7)})
    assert len(actors) == 6


def test_what_is_not_a_machines_fault_ends_the_run(run):
    with pytest.raises(BundleError, match="another model"):
        run(6, lambda _case: BundleError("another model"))


def test_an_actor_that_is_lost_with_its_cluster_is_not_replaced_and_nobody_is_told(run, monkeypatch):
    from flare_runtime.cluster.ray_cluster import LostClusterError

    looks, told = iter([[{"CPU": 4.0}]]), []
    monkeypatch.setattr(Cluster, "close", lambda _cluster: told.append("close"))

    def resources(_cluster):
        for nodes in looks:
            return nodes
        raise LostClusterError

    monkeypatch.setattr(Cluster, "resources", resources)
    with pytest.raises(LostClusterError):
        run(3, once("c0", lost()))
    assert told == []


def test_a_head_that_is_silent_for_a_while_is_lost(run, monkeypatch):
    from flare_runtime.cluster import fleet
    from flare_runtime.cluster.ray_cluster import LostClusterError

    answers = []
    monkeypatch.setattr(Cluster, "answers", lambda _cluster: answers.append("") or len(answers) < 3)
    monkeypatch.setattr(fleet, "_LOOK_S", 0.0)
    monkeypatch.setattr(fleet, "_SILENCE_S", 0.1)
    with pytest.raises(LostClusterError):
        run(1, CaseHeld, actors=1)
    assert len(answers) > 3


@pytest.mark.parametrize("is_ready", [True, False])
def test_a_person_is_told_what_is_waited_for_where_no_actor_begins(run, monkeypatch, caplog, is_ready):
    from flare_runtime.cluster import fleet

    monkeypatch.setattr(fleet, "_START_S", 0.0)
    if not is_ready:
        looks = iter([None])
        monkeypatch.setattr(fleet.Fleet, "_hear", lambda _fleet, _lane: next(looks))
    with nullcontext() if is_ready else pytest.raises(StopIteration):
        run(1, actors=1)
    assert ("each actor takes 1 CPU(s); waiting for actors to begin" in caplog.text) is not is_ready


def test_a_cluster_that_cannot_be_started_leaves_no_folder(monkeypatch, tmp_path):
    from flare_runtime.cluster import ray_cluster

    def fail(*_args, _temp_dir, **_options):
        Path(_temp_dir, "logs").mkdir(parents=True)
        raise RuntimeError("no port is free")

    monkeypatch.setattr(ray_cluster, "SHORT_PATHS", tmp_path)
    monkeypatch.setattr(ray_cluster.ray, "init", fail)
    with pytest.raises(DeviceError, match="be started: no port is free"):
        ray_cluster.RayCluster("local")
    assert list(tmp_path.iterdir()) == []
