"""The actors of a run: each has a few cases at a time, and another takes the place of one that is lost."""

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue

from flare_runtime.cases.case import Case
from flare_runtime.cluster.messages import (
    ActorMessage,
    ActorReady,
    CaseHeld,
    CaseSettled,
    CasesGiven,
    CasesWanted,
    Connected,
    DriverMessage,
)
from flare_runtime.cluster.orders import FleetOrder
from flare_runtime.cluster.placement import Demand
from flare_runtime.cluster.ray_cluster import LostActorError, LostClusterError, RayActor, RayCluster, speaking, stop
from flare_runtime.errors import DeviceError, FlareError, LostDeviceError
from flare_runtime.run.claims import Kept
from flare_runtime.run.overlap import IN_FLIGHT

_LOG = logging.getLogger(__name__)
# Cases that an actor has at most: what it works on at once, and those that are next.
_MOST_ON_CPU, _MOST_ON_GPU = 3, IN_FLIGHT + 2
_PAUSE_S = 0.1
# Until a case is tried again that another worker had.
_AGAIN_S = 5.0
# Between two looks at the cluster, and how long its head may not answer.
_LOOK_S, _SILENCE_S = 5.0, 30.0
# How long the first actor may take before a person is told what is waited for.
_START_S = 30.0


class _Lane:
    """A place for an actor: those that are there one after the other.

    Attributes:
        given: the cases that the actor has, by their masks.
        is_ready: whether it takes cases.
        lost: how many actors were lost since the last case was settled.
    """

    def __init__(self, actor: RayActor) -> None:
        self.begin(actor)
        self.lost = 0

    def begin(self, actor: RayActor) -> None:
        """Put an actor in its place."""
        self.actor = actor
        self.given: dict[Path, Case] = {}
        self.is_ready = False


class Fleet:
    """Actors on a cluster.

    Args:
        order: what they do.
        say: takes what there is to say.
        heard: gives cases, and None where the run has ended.

    Raises:
        DeviceError: where there is no cluster.
    """

    def __init__(
        self, order: FleetOrder, say: Callable[[DriverMessage], None], heard: "SimpleQueue[CasesGiven | None]"
    ) -> None:
        self._say = say
        self._heard = heard
        wish = order.wish
        self._cluster = RayCluster(order.address, (wish.actors or 1) * (wish.cpus or 1))
        nodes = self._cluster.resources()
        self._demand = Demand.of(wish, nodes)
        threads = order.actor.options.threads or self._demand.cpus
        self._order = replace(order.actor, options=replace(order.actor.options, threads=threads))
        self._has_room = any(self._demand.slots(node) for node in nodes)
        count = wish.actors or sum(map(self._demand.slots, nodes)) or 1
        self._count = max(min(count, order.most_actors), 1)
        self._most_given = _MOST_ON_GPU if self._demand.gpus else _MOST_ON_CPU
        self._lanes: list[_Lane] = []
        self._waiting: deque[Case] = deque()
        # Those that other workers have, and when they are tried again.
        self._held: deque[tuple[float, Case]] = deque()
        self._left = order.most_actors
        self._has_asked = False
        self._told_at: float | None = time.monotonic() + (_START_S if self._has_room else 0.0)
        self._look_at = self._answered_at = time.monotonic()

    def run(self) -> None:
        """Have cases segmented until the run has ended.

        Raises:
            FlareError: what the last actor could not go on for, or the first that is not its machine's fault.
            LostClusterError: where the cluster is no more.
        """
        self._say(Connected(self._cluster.address))
        _LOG.info("%d actor(s) at %s, each with %s", self._count, self._cluster.address, self._demand)
        try:
            self._lanes = [_Lane(self._new_actor()) for _ in range(self._count)]
            while self._listen():
                self._supply()
                lanes = {id(lane.actor): lane for lane in self._lanes}
                for actor in speaking([lane.actor for lane in self._lanes], _PAUSE_S):
                    self._hear(lanes[id(actor)])
                self._watch()
        except LostClusterError:  # nobody is left to be told
            raise
        except BaseException:
            self._end()
            raise
        self._end()

    def _end(self) -> None:
        stop([lane.actor for lane in self._lanes])
        self._cluster.close()

    def _new_actor(self) -> RayActor:
        return self._cluster.new_actor(self._order, self._demand)

    def _listen(self) -> bool:
        """Take what the program says; return whether the run goes on."""
        try:
            while (given := self._heard.get_nowait()) is not None:
                self._waiting.extend(given.cases)
                self._left, self._has_asked = given.left, False
        except Empty:
            return True
        return False

    def _supply(self) -> None:
        """Give the actors the cases that wait: each its share of what is left, and not too many at once."""
        while self._held and not self._waiting and self._held[0][0] <= time.monotonic():
            self._waiting.append(self._held.popleft()[1])
        lanes = sorted((lane for lane in self._lanes if lane.is_ready), key=lambda lane: len(lane.given))
        left = self._left + len(self._waiting) + sum(len(lane.given) for lane in lanes)
        most = min(-(-left // len(self._lanes)), self._most_given)
        for lane in lanes:
            cases = [self._waiting.popleft() for _ in range(min(most - len(lane.given), len(self._waiting)))]
            if cases:
                lane.given.update((case.mask, case) for case in cases)
                lane.actor.give(cases)
        lacking = sum(max(most - len(lane.given), 0) for lane in lanes)
        if lacking and self._left and not self._has_asked:
            self._has_asked = True
            self._say(CasesWanted(lacking))

    def _hear(self, lane: _Lane) -> None:
        """Take a message of a lane's actor."""
        try:
            message = lane.actor.receive()
        except LostActorError as error:
            self._lost(lane, str(error))
            return
        if isinstance(message, ActorReady):
            lane.is_ready, self._told_at = True, None
        elif isinstance(message, LostDeviceError):
            _LOG.info(message.traceback or "")
            self._lost(lane, str(message))
        elif isinstance(message, FlareError):
            self._leave_out(lane, message)
        else:
            self._note(lane, message)

    def _note(self, lane: _Lane, message: ActorMessage) -> None:
        """Note what an actor says of a case, and pass it on."""
        if isinstance(message, CaseHeld):
            case = lane.given.pop(message.case.mask)
            self._held.append((time.monotonic() + _AGAIN_S, case))
            return
        if isinstance(message, CaseSettled | Kept):
            lane.given.pop(message.case.mask)
            lane.lost = 0
        assert not isinstance(message, ActorReady)
        self._say(message)

    def _lost(self, lane: _Lane, why: str) -> None:
        """Put another actor in the place of one that is lost; others take its cases, which may be done already."""
        self._cluster.resources()
        _LOG.warning("an actor was lost (%s); others take its %d case(s)", why, len(lane.given))
        lane.lost += 1
        if lane.lost > self._order.rules.max_tries:  # by then a case that costs its worker has been given up
            self._leave_out(lane, DeviceError(f"{lane.lost} actors were lost one after the other ({why})"))
            return
        self._waiting.extendleft(reversed(lane.given.values()))
        lane.actor.kill()
        lane.begin(self._new_actor())

    def _leave_out(self, lane: _Lane, error: FlareError) -> None:
        """Go on with an actor less; the error is raised where it is the last, or not its machine's fault."""
        if len(self._lanes) == 1 or not isinstance(error, DeviceError):
            raise error
        _LOG.warning("the run goes on with an actor less: %s", error)
        self._waiting.extendleft(reversed(lane.given.values()))
        lane.actor.kill()
        self._lanes.remove(lane)

    def _watch(self) -> None:
        """Look from time to time whether the cluster is still there, and say what is waited for."""
        now = time.monotonic()
        if self._told_at is not None and now > self._told_at:
            lacks = "waiting for actors to begin" if self._has_room else "waiting for a machine that has it free"
            _LOG.warning("each actor takes %s; %s", self._demand, lacks)
            self._told_at = None
        if now < self._look_at:
            return
        self._look_at = now + _LOOK_S
        if self._cluster.answers():
            self._answered_at = now
        elif now - self._answered_at > _SILENCE_S:
            raise LostClusterError
