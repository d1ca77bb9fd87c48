"""A connection to a Ray cluster, and the actors on it."""

import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from flare_runtime.cases.case import Case
from flare_runtime.cluster.address import LOCAL, answers
from flare_runtime.cluster.case_actor import CaseActor
from flare_runtime.cluster.messages import ActorMessage
from flare_runtime.cluster.orders import ActorOrder
from flare_runtime.cluster.placement import Demand
from flare_runtime.errors import DeviceError, first_line
from flare_runtime.files.guarded import guarded_folder
from flare_runtime.files.naming import visible
from flare_runtime.files.temporary import SHORT_PATHS

# Paths and records alone go through it.
_OBJECT_STORE_BYTES = 100_000_000
_LACKS_TOKEN = "it asks for a token, which RAY_AUTH_MODE=token takes from RAY_AUTH_TOKEN or ~/.ray/auth_token"
_ANSWER_S = 10.0
# Giving records, events and cases while cases are segmented, and stopping.
_CALLS_AT_ONCE = 4
# How long actors may take to give their cases back; the program that waits for it may have been interrupted.
_STOP_S = 0.7


class LostActorError(Exception):
    """An actor has ended, or cannot be reached."""


class LostClusterError(Exception):
    """The cluster that this process was connected to is no more."""


class RayCluster:
    """A cluster.

    Args:
        address: HOST:PORT, `auto` for the one that runs on this machine, or `local` for a new one on this machine that
            ends with this process.
        cpus: of a new one, at least.

    Raises:
        DeviceError: where there is none.
    """

    def __init__(self, address: str, cpus: int = 0) -> None:
        is_local = address == LOCAL
        if ":" in address and not answers(address):
            raise DeviceError(f"no Ray cluster answers at {address}")
        self._held = ExitStack()
        new: dict[str, Any] = {}
        try:
            if is_local:
                new = _new_cluster(cpus, self._held.enter_context(guarded_folder(SHORT_PATHS)))
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **new)
        except Exception as error:  # of many kinds
            self.close()
            what = "be started" if is_local else f"be joined ({address})"
            why = _LACKS_TOKEN if "AuthenticationError" in str(error.__cause__) else first_line(error)
            raise DeviceError(f"no Ray cluster can {what}: {why}") from error
        context = ray.get_runtime_context()
        self.address = str(context.gcs_address)
        self._node = context.get_node_id()

    def answers(self) -> bool:
        """Whether there is a head at its address."""
        return answers(self.address)

    def resources(self) -> list[Mapping[str, float]]:
        """Return what each machine has for all actors.

        Raises:
            LostClusterError: where the cluster is another one than before.
        """
        if not self.answers():
            raise LostClusterError
        nodes = [node for node in _nodes() if node["Alive"]]  # where the head is another one, Ray ends this process
        if self._node not in [node["NodeID"] for node in nodes]:
            raise LostClusterError
        return [node["Resources"] for node in nodes]

    def new_actor(self, order: ActorOrder, demand: Demand) -> "RayActor":
        """Have an actor made, which begins when there is room for it."""
        remote = ray.remote(CaseActor).options(
            num_cpus=demand.cpus,
            num_gpus=demand.gpus,
            memory=demand.memory_bytes or None,
            max_concurrency=_CALLS_AT_ONCE,
        )
        return RayActor(remote.remote(order))

    def close(self) -> None:
        """Leave the cluster, and end a local one with what it has left on the disk."""
        ray.shutdown()
        self._held.close()


class RayActor:
    """An actor as its driver sees it."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self.stream = handle.messages.options(num_returns="streaming").remote()

    def give(self, cases: Sequence[Case]) -> None:
        """Give it cases."""
        with suppress(RayError):  # it has ended, which its messages will show
            self._handle.give.remote(cases)

    def receive(self) -> ActorMessage:
        """Return its next message.

        Raises:
            LostActorError: where it has ended.
        """
        try:
            message: ActorMessage = ray.get(next(self.stream), timeout=_ANSWER_S)
        except (RayError, StopIteration, GetTimeoutError) as error:
            raise LostActorError(_why(error)) from error
        return message

    def begin_to_stop(self) -> Any:
        """Ask it to give its cases back, and return what says when it has done so."""
        return self._handle.stop.remote()

    def kill(self) -> None:
        """End its process."""
        with suppress(RayError):
            ray.kill(self._handle)


def _new_cluster(cpus: int, folder: Path) -> dict[str, Any]:
    return {
        "num_cpus": max(cpus, os.cpu_count() or 1),
        "object_store_memory": _OBJECT_STORE_BYTES,
        "include_dashboard": False,
        # Ray logs there, and lets everybody on this machine into it.
        "_temp_dir": str(folder / "r"),
    }


def _why(error: Exception) -> str:
    """Return what Ray says happened, and the error in the actor behind it where there was one."""
    first, last = first_line(error), str(error).strip().rpartition("\n")[2]
    is_error = re.match(r"[\w.]*(Error|Exception)\b", last)
    return f"{first}; {visible(last)}" if is_error and last != first else first


def _nodes() -> list[dict[str, Any]]:
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return nodes


def speaking(actors: Sequence[RayActor], limit_s: float) -> Iterator[RayActor]:
    """Wait for messages, and yield the actors of which there are some."""
    by_stream = {actor.stream: actor for actor in actors}
    if not by_stream:
        time.sleep(limit_s)
        return
    ready, _ = ray.wait(list(by_stream), timeout=limit_s, fetch_local=False)
    if ready:
        ready, _ = ray.wait(list(by_stream), num_returns=len(by_stream), timeout=0, fetch_local=False)
    yield from (by_stream[stream] for stream in ready)


def stop(actors: Sequence[RayActor]) -> None:
    """Have actors give their cases back, those that can be reached, and end them."""
    with suppress(RayError):
        stopping = [actor.begin_to_stop() for actor in actors]
        if stopping:
            ray.wait(stopping, num_returns=len(stopping), timeout=_STOP_S)
    for actor in actors:
        actor.kill()
