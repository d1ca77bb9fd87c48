"""What an actor takes of a machine, and how many actors a cluster has room for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor

# A network gains little from more cores, and every actor takes the memory of a case.
_MOST_CPUS = 4


@dataclass(frozen=True)
class ActorWish:
    """What a person asks for each actor; None leaves it to `Demand.of`.

    Attributes:
        device: of the run's options.
        actors: how many.
        cpus, gpus: of each; of GPUs also a share of one.
        memory_bytes: of each.
        is_estimate: whether the memory is only an estimate.
    """

    device: str = "auto"
    actors: int | None = None
    cpus: int | None = None
    gpus: float | None = None
    memory_bytes: int | None = None
    is_estimate: bool = False


@dataclass(frozen=True)
class Demand:
    """What each actor takes, as the cluster counts it: cores, GPUs and bytes of memory (0: not counted)."""

    cpus: int
    gpus: float
    memory_bytes: int

    @classmethod
    def of(cls, wish: ActorWish, nodes: Sequence[Mapping[str, float]]) -> "Demand":
        """Return what is asked for, or else what suits the machines, given by their resources.

        Where the device is `auto`, an actor takes a GPU if any machine has one.
        """
        most = {name: max((node.get(name, 0) for node in nodes), default=0) for name in ("CPU", "GPU", "memory")}
        gpus = wish.gpus
        if gpus is None:
            gpus = float(wish.device.startswith("cuda") or (wish.device == "auto" and most["GPU"] >= 1))
        memory_bytes = wish.memory_bytes or 0
        if wish.is_estimate and most["memory"]:  # a case that is too large is refused where it is tried
            memory_bytes = min(memory_bytes, int(most["memory"]))
        return cls(wish.cpus or max(min(_MOST_CPUS, floor(most["CPU"])), 1), gpus, memory_bytes)

    def slots(self, node: Mapping[str, float]) -> int:
        """Return how many actors a machine has room for."""
        wanted = {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory_bytes}
        return min(floor(node.get(name, 0) / amount) for name, amount in wanted.items() if amount)

    def __str__(self) -> str:
        parts = [f"{self.cpus} CPU(s)"]
        parts += [f"{self.gpus:g} GPU(s)"] if self.gpus else []
        parts += [f"{self.memory_bytes >> 20:,} MiB"] if self.memory_bytes else []
        return ", ".join(parts)
