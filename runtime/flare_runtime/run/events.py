"""Events of a run, which its listener is called with."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class NetworkReady:
    """The network is compiled and about to take the first case.

    Attributes:
        device: `cpu` or `cuda:N`.
        backend, precision: what runs there.
    """

    device: str
    backend: str
    precision: str


@dataclass(frozen=True)
class CaseProgress:
    """`done` of `total` tiles of a case are done: at the first, at the last, and at most every 0.1 s between."""

    case: str
    done: int
    total: int


@dataclass(frozen=True)
class DeviceFallback:
    """No GPU can be used, for the `reason` given; the run continues on the CPU."""

    reason: str


@dataclass(frozen=True)
class CaseKept:
    """A case that stays as another run has left it: done, or refused or failed for the `reason` in its record."""

    case: str
    status: str
    reason: str
    message: str


Event: TypeAlias = CaseKept | NetworkReady | CaseProgress | DeviceFallback
# It is called in the thread that iterates over the run, and must not raise.
Listener: TypeAlias = Callable[[Event], None]
