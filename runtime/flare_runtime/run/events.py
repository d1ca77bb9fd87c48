"""What a run tells whoever began it, beside the records of its cases."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class NetworkReady:
    """The network is compiled, and the first case is about to go through it.

    Attributes:
        device: `cpu` or `cuda:N`.
        backend, precision: what runs there.
    """

    device: str
    backend: str
    precision: str


@dataclass(frozen=True)
class CaseProgress:
    """So many tiles of a case are done; told at its first and its last tile, and a few times a second between."""

    case: str
    done: int
    total: int


@dataclass(frozen=True)
class DeviceFallback:
    """No GPU can be used, because of `reason`; the run goes on on the CPU."""

    reason: str


Event: TypeAlias = NetworkReady | CaseProgress | DeviceFallback
# Is called in the thread that asks the run for records; it must not raise.
Listener: TypeAlias = Callable[[Event], None]
