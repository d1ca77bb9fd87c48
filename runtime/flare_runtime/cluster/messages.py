"""What an actor says of its cases, and the program and its driver to each other."""

from dataclasses import dataclass
from typing import TypeAlias

from flare_runtime.cases.case import Case
from flare_runtime.errors import FlareError
from flare_runtime.run.claims import Kept
from flare_runtime.run.events import Event
from flare_runtime.run.record import CaseRecord
from flare_runtime.run.worker import LogLine


@dataclass(frozen=True)
class ActorReady:
    """An actor has opened the model, on the machine named `host`."""

    host: str


@dataclass(frozen=True)
class CaseSettled:
    """A case is done, refused or failed."""

    case: Case
    record: CaseRecord


@dataclass(frozen=True)
class CaseHeld:
    """Another worker has the case, or has taken it over, or it is to be claimed by itself."""

    case: Case


ActorMessage: TypeAlias = ActorReady | CaseSettled | CaseHeld | Kept | FlareError | Event | LogLine


@dataclass(frozen=True)
class Connected:
    """The driver has found the cluster, at HOST:PORT."""

    address: str


@dataclass(frozen=True)
class CasesWanted:
    """The driver can do with so many more cases."""

    count: int


DriverMessage: TypeAlias = Connected | CasesWanted | CaseSettled | Kept | FlareError | Event | LogLine


@dataclass(frozen=True)
class CasesGiven:
    """Cases for the driver, and how many may come later."""

    cases: tuple[Case, ...]
    left: int
