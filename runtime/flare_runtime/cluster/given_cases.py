"""The cases that an actor is given one after the other; those that other workers have are handed back at once."""

import sys
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from flare_runtime.cases.case import Case
from flare_runtime.run.claims import Claims, Kept
from flare_runtime.run.queue import CaseQueue
from flare_runtime.run.record import CaseRecord


class GivenCases(CaseQueue):
    """Cases that come as long as nobody finishes the queue; each is claimed when it is taken.

    Args:
        claims: on them.
        on_kept: is called with every case that stays as another run has left it.
        on_given_up: is called with every case that cannot be begun, and its record.
        on_held: is called with every case that another worker has, or that is to be claimed by itself.

    Attributes:
        settled: the last one.
    """

    def __init__(
        self,
        claims: Claims,
        on_kept: Callable[[Kept], None],
        on_given_up: Callable[[Case, CaseRecord], None],
        on_held: Callable[[Case], None],
    ) -> None:
        super().__init__()
        self.settled: Case | None = None
        self._claims = claims
        self._on_kept = on_kept
        self._on_given_up = on_given_up
        self._on_held = on_held
        self._coming: deque[Case] = deque()

    def give(self, case: Case) -> None:
        """Add a case; for another thread."""
        self._coming.append(case)

    def settle(self, case: Case) -> None:
        """Note that a case is committed, refused or failed."""
        self.settled = case
        super().settle(case)

    def close(self) -> None:
        """Finish, and let other workers have what was taken and is not settled."""
        super().close()
        self._claims.close()

    def _left(self) -> int:
        return sys.maxsize  # nobody knows how many will come

    def _next(self) -> Case | None:
        while self._coming and not self._claims.is_exclusive:
            case = self._coming[0]
            claimed = self._claims.claim(case)  # where that fails, it is still to be done
            self._coming.popleft()
            if isinstance(claimed, Case):
                return claimed
            if isinstance(claimed, Kept):
                self._on_kept(claimed)
            elif isinstance(claimed, CaseRecord):
                self._on_given_up(case, claimed)
            else:
                self._on_held(case)
        return None

    def _let_go(self, case: Case, *, again: bool) -> None:
        if not again:
            self._claims.release(case)
            return
        self._claims.give_back(case)
        self._coming.appendleft(replace(case, lease=None))
