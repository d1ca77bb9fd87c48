"""Work for workers that runs into trouble; in a module of its own, which workers import in no time."""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from flare_runtime.cases.case import Case
from flare_runtime.errors import LostDeviceError
from flare_runtime.run.commit import alone_in
from flare_runtime.run.events import CaseProgress, Listener
from flare_runtime.run.record import CaseRecord

Trouble = Callable[[int], object]
# How a case behaves: the stage that ends a worker, and how often.
BEHAVIOURS = {
    "sound": ("", 0),
    "costs one": ("network", 1),
    "costs one when restored": ("restore", 1),
    "costs all": ("network", 99),
    "cannot be read": ("read", 99),
    "cannot be restored": ("restore", 99),
}


def nothing(_attempt: int) -> None:
    """Run into no trouble."""


def kill(_attempt: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def lose(_attempt: int) -> None:
    raise LostDeviceError("cuda:0 failed: an illegal memory access")


def fail_at_once(_attempt: int) -> None:
    os._exit(3)


def crash(_attempt: int) -> None:
    raise ZeroDivisionError


def hang(_attempt: int) -> None:
    time.sleep(600)


@dataclass(frozen=True)
class Once:
    """Do `what` at a case's first attempt only."""

    what: Trouble

    def __call__(self, attempt: int) -> None:
        if attempt == 1:
            self.what(attempt)


@dataclass(frozen=True)
class Fail:
    """Raise an error."""

    error: Exception

    def __call__(self, _attempt: int) -> None:
        raise self.error


@dataclass(frozen=True)
class TroubledWork:
    """Writes down every attempt, and runs into `trouble` at the cases named."""

    file: Path
    trouble: dict[str, Trouble] = field(default_factory=dict)

    def __call__(self, cases: Iterable[Case], _listener: Listener) -> Iterator[CaseRecord]:
        for case in cases:
            attempt = _counted(self.file, case.name)
            self.trouble.get(case.name, lambda _attempt: None)(attempt)
            yield CaseRecord(case=case.name, status="done", message=str(os.getpid()))


@dataclass(frozen=True)
class PatternWork:
    """Treats the case of each number as the pattern's behaviour there says, and ends its worker by `end`.

    Three cases are in work at once: while one is at the network, the next is read, and then the one before restored.
    """

    file: Path
    pattern: list[str]
    end: Trouble

    def __call__(self, cases: Iterable[Case], _listener: Listener) -> Iterator[CaseRecord]:
        coming = iter(cases)
        before, case = None, next(coming)
        self._reach(case, "read")
        while case or before:
            ahead = next(coming, None) if case else None
            for at, stage in ((ahead, "read"), (case, "network"), (before, "restore")):
                if at:
                    self._reach(at, stage)
            if before:
                yield CaseRecord(case=before.name, status="done")
            before, case = case, ahead

    def _reach(self, case: Case, stage: str) -> None:
        attempt = _counted(self.file, f"{case.name}/{stage} ")
        fatal, times = BEHAVIOURS[self.pattern[int(case.name)]]
        if stage == fatal and attempt <= times:
            self.end(attempt)


@dataclass(frozen=True)
class DeviceWork:
    """Work of a device of this name, which runs into trouble at each case, or waits for the others' first records."""

    file: Path
    name: str
    trouble: Trouble = nothing
    devices: int = 1

    def __call__(self, cases: Iterable[Case], _listener: Listener) -> Iterator[CaseRecord]:
        for case in cases:
            _counted(self.file, f"{self.name} ")
            self.trouble(1)
            until = time.monotonic() + 120
            while len(set(self.file.read_text(encoding="utf-8").split())) < self.devices:
                assert time.monotonic() < until, "the other devices do nothing"
                time.sleep(0.002)
            yield CaseRecord(case=case.name, status="done", message=self.name)


@dataclass(frozen=True)
class ModuleWork:
    """Says of every case whether the process has a module."""

    name: str

    def __call__(self, cases: Iterable[Case], _listener: Listener) -> Iterator[CaseRecord]:
        for case in cases:
            yield CaseRecord(case=case.name, status="done", message=str(self.name in sys.modules))


@dataclass(frozen=True)
class TellingWork:
    """Tells and logs something at every case, from two threads."""

    def __call__(self, cases: Iterable[Case], listener: Listener) -> Iterator[CaseRecord]:
        log = logging.getLogger("flare_runtime.somewhere")
        for case in cases:
            thread = threading.Thread(target=lambda name=case.name: log.warning("%s is\nodd", name))
            thread.start()
            listener(CaseProgress(case.name, 1, 2))
            log.debug("not asked for")
            thread.join()
            yield CaseRecord(case=case.name, status="done")


@dataclass(frozen=True)
class CommittingWork:
    """Is between the mask and the record of its second case when its parent has the record of the first."""

    def __call__(self, cases: Iterable[Case], _listener: Listener) -> Iterator[CaseRecord]:
        first, second = islice(cases, 2)
        with alone_in(second.mask.parent):
            second.mask.touch()
            yield CaseRecord(case=first.name, status="done")
            time.sleep(0.1)
            second.record.touch()
        hang(1)


class StuckWork:
    """Work that says so and comes to no end, whatever it is made of."""

    def __init__(self, *_of: object) -> None:
        pass

    def __call__(self, _cases: Iterable[Case], _listener: Listener) -> Iterator[CaseRecord]:
        sys.stdout.write(f"{self.word}\n")
        sys.stdout.flush()
        hang(1)
        return iter(())

    @property
    def word(self) -> str:
        return "stuck"


class NumberedWork(StuckWork):
    """The same, but it says the number of its process."""

    @property
    def word(self) -> str:
        return str(os.getpid())


class AheadWork(StuckWork):
    """Begins two cases, says so, and goes on once there is a file `go` beside the folder of the output."""

    def __call__(self, cases: Iterable[Case], _listener: Listener) -> Iterator[CaseRecord]:
        coming = iter(cases)
        begun = [*islice(coming, 2)]
        sys.stdout.write("in work\n")
        sys.stdout.flush()
        while not (begun[0].mask.parent.parent / "go").exists():
            time.sleep(0.02)
        for case in (*begun, *coming):
            yield CaseRecord(case=case.name, status="failed", reason="trouble", message="stands in for a result")


def _counted(path: Path, name: str) -> int:
    """Write a case's name down and return how often it stands there."""
    with path.open("a+", encoding="utf-8") as file:
        file.write(name)
        file.seek(0)
        return file.read().count(name)
