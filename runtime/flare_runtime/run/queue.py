"""The queue of cases that a run takes its work from."""

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from flare_runtime.cases.case import Case
from flare_runtime.errors import OutputError
from flare_runtime.files.output import make_folder
from flare_runtime.run.record import CaseRecord

Records: TypeAlias = Generator[CaseRecord, None, None]
# Between two looks at a queue whose cases other workers have.
_PAUSE_S = 0.2


class CaseQueue(ABC):
    """Cases to segment: one thread takes them and says when they are settled; others may finish or close it."""

    def __init__(self) -> None:
        self._taken: dict[Path, Case] = {}
        self._is_finished = False

    @property
    def in_work(self) -> tuple[Case, ...]:
        """The cases that were taken and are not settled."""
        return tuple(self._taken.values())

    @property
    def is_finished(self) -> bool:
        """Whether no further case is to be begun, not even one that was taken."""
        return self._is_finished

    @property
    def left(self) -> int:
        """How many cases may still come, at most."""
        return 0 if self._is_finished else self._left()

    def take(self) -> Case | None:
        """Return the next case; None where there is none now, which `left` tells from none any more."""
        case = self._next() if self.left else None
        if case is not None:
            self._taken[case.mask] = case
        return case

    def settle(self, case: Case) -> None:
        """Note that a case is committed, refused or failed."""
        self._taken.pop(case.mask, None)
        self._let_go(case, again=False)

    def give_back(self, case: Case) -> None:
        """Let a case come again that was taken and not settled."""
        self._taken.pop(case.mask, None)
        self._let_go(case, again=True)

    def own(self, records: Records) -> Records:
        """Return those of a run's records that are its own, each of which belongs to the case settled just before."""
        return records

    def finish(self) -> None:
        """Let no further case come."""
        self._is_finished = True

    def close(self) -> None:
        """Finish, and let other workers have what was taken and is not settled."""
        self.finish()

    @abstractmethod
    def _left(self) -> int: ...

    @abstractmethod
    def _next(self) -> Case | None: ...

    @abstractmethod
    def _let_go(self, case: Case, *, again: bool) -> None: ...


class ListedCases(CaseQueue):
    """The cases of a run that has them to itself, in their order."""

    def __init__(self, cases: Sequence[Case]) -> None:
        super().__init__()
        self._cases = iter(cases)
        self._count = len(cases)
        self._again: deque[Case] = deque()

    def _left(self) -> int:
        return self._count

    def _next(self) -> Case:
        self._count -= 1
        case = self._again.popleft() if self._again else next(self._cases)
        with suppress(OutputError):  # one bad folder must not cost the others; what is written there says so
            make_folder(case.mask.parent)
        return case

    def _let_go(self, case: Case, *, again: bool) -> None:
        if again:
            self._count += 1
            self._again.appendleft(case)


def queued(cases: CaseQueue | Sequence[Case]) -> CaseQueue:
    """Return cases as a queue."""
    return cases if isinstance(cases, CaseQueue) else ListedCases(cases)


def next_case(queue: CaseQueue) -> Case | None:
    """Return the next case, for which other workers may have to be waited; None where there is none any more."""
    while (case := queue.take()) is None and queue.left:
        time.sleep(_PAUSE_S)
    return case
