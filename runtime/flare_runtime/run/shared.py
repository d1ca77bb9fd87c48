"""Cases that any number of workers take from one list: what is done stays, and each case has one worker at a time."""

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from flare_runtime.cases.case import Case
from flare_runtime.run.claims import Claims, Kept
from flare_runtime.run.queue import CaseQueue
from flare_runtime.run.record import CaseRecord

# Where another worker has a case, so often another place in the list is tried before the cases behind it.
_JUMPS = 8
# Between two looks at cases that other workers have, when there are no others: so long at least, and so long for each
# case, as hundreds of workers that wait for hundreds of cases would keep a file server busy.
_LOOK_S, _LOOK_OF_A_CASE_S = 1.0, 0.1
_OPEN = 1


class SharedCases(CaseQueue):
    """The cases of a run that resumes another, beside other workers with the same list and the same output.

    A case is taken under a lease. A worker that finds no case free waits for those of the others: they may die.

    Args:
        cases: of all workers.
        claims: of this process.
        on_kept: is called with every case that stays.
        on_given_up: is called with the record of every case that cannot be begun.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        claims: Claims,
        on_kept: Callable[[Kept], None],
        on_given_up: Callable[[CaseRecord], None],
    ) -> None:
        super().__init__()
        self._cases = cases
        self._claims = claims
        self._on_kept = on_kept
        self._on_given_up = on_given_up
        self._indices: dict[Path, int] = {}
        # Those that are neither settled nor taken by this worker.
        self._open = bytearray([_OPEN]) * len(cases)
        self._count = len(cases)
        self._position = 0
        self._look_at_s = -float("inf")

    def close(self) -> None:
        """Finish, and let other workers have what was taken and is not settled."""
        super().close()
        self._claims.close()

    def _left(self) -> int:
        return self._count

    def _next(self) -> Case | None:
        if time.monotonic() < self._look_at_s or self._claims.is_exclusive:
            return None
        jumps, seen, to_see = 0, 0, self._count
        while seen < to_see and self._count and not self._is_finished:
            index = self._next_open()
            self._position = index + 1
            seen += 1
            case, is_held = self._taken_at(index)
            if case is not None:
                return case
            if is_held and jumps < _JUMPS:
                jumps += 1
                to_see = seen + self._count
                self._position = random.randrange(len(self._cases))
        self._look_at_s = time.monotonic() + max(_LOOK_S, _LOOK_OF_A_CASE_S * self._count)
        return None

    def _next_open(self) -> int:
        index = self._open.find(_OPEN, self._position)
        return index if index >= 0 else self._open.find(_OPEN)

    def _taken_at(self, index: int) -> tuple[Case | None, bool]:
        """Return the case of an index where it is to be done and free, and whether another worker has it."""
        case = self._claims.claim(self._cases[index])
        if case is None:
            return None, True
        if not isinstance(case, Case):
            self._close(index)
            if isinstance(case, Kept):
                self._on_kept(case)
            else:
                self._on_given_up(case)
            return None, False
        self._close(index)
        self._indices[case.mask] = index
        return case, False

    def _close(self, index: int) -> None:
        self._open[index] = 0
        self._count -= 1

    def _let_go(self, case: Case, *, again: bool) -> None:
        index = self._indices.pop(case.mask)
        self._look_at_s = -float("inf")  # one may wait to be taken by itself
        if not again:
            self._claims.release(case)
            return
        self._claims.give_back(case)
        self._open[index] = _OPEN
        self._count += 1
