"""Cases that any number of workers take from one list: what is done stays, and each case has one worker at a time."""

import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from math import isqrt
from pathlib import Path

from flare_runtime.cases.case import Case
from flare_runtime.run.block_notes import BlockNote, BlockNotes, SeenCase
from flare_runtime.run.claims import Claims, Kept
from flare_runtime.run.queue import CaseQueue, Records
from flare_runtime.run.record import CaseRecord

# Of fewer cases each worker looks at each.
_FEWEST_IN_BLOCKS = 100
# Where another worker has a case, so often another place is tried before the cases behind it.
_JUMPS = 8
# When no case is free, so many of those that others have are looked at, and again after a pause: an eighth of the time
# that was waited, within these bounds. Of hundreds of workers that wait, one soon finds what has become free.
_HELD_AT_ONCE = 8
_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 15.0
_OPEN = 1


class SharedCases(CaseQueue):
    """The cases of a run that resumes another, beside other workers with the same list and the same output.

    A case is taken under a lease. A worker that finds no case free waits for those of the others: they may die. Cases
    come in their order until one was taken or done before; then each worker has an order of its own. Of many cases it
    goes through blocks, whose notes tell it what others have seen.

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
        self._settled = 0
        # Those of them that other workers took over.
        self._again: set[int] = set()
        # Those that are neither settled nor taken by this worker.
        self._open = bytearray([_OPEN]) * len(cases)
        self._count = len(cases)
        self._jumps = _JUMPS
        self._look_at_s = -float("inf")
        self._waits_since_s: float | None = None
        is_many = len(cases) >= _FEWEST_IN_BLOCKS
        self._notes: BlockNotes | None = claims.notes_of(cases) if is_many else None
        size = isqrt(len(cases)) if is_many else max(len(cases), 1)
        self._blocks = [range(first, min(first + size, len(cases))) for first in range(0, len(cases), size)]
        self._is_alone = True
        # The block that is gone through, what is known of it, and the cases ahead; the block after it.
        self._block = range(0)
        self._note = BlockNote(0, {})
        self._is_news = False
        self._ahead: deque[int] = deque()
        self._following = 0

    def close(self) -> None:
        """Finish, and let other workers have what was taken and is not settled."""
        super().close()
        if self._notes is not None:
            self._notes.close()
        self._claims.close()

    def own(self, records: Records) -> Records:
        """Yield records but those of cases that other workers have taken over: these are looked at again, once each."""
        with closing(records):
            for record in records:
                if record.reason == "taken_over" and self._settled not in self._again:
                    self._again.add(self._settled)
                    self._reopen(self._settled)
                else:
                    yield record

    def _left(self) -> int:
        return self._count

    def _next(self) -> Case | None:
        if time.monotonic() < self._look_at_s or self._claims.is_exclusive:
            return None
        held = 0
        while held < min(_HELD_AT_ONCE, self._count) and not self._is_finished:
            index = self._next_open()
            if index is None:
                break
            case, is_held = self._taken_at(index)
            if case is not None:
                self._jumps, self._waits_since_s = _JUMPS, None
                return case
            held += is_held
            if self._is_alone:
                self._is_alone = False
                random.shuffle(self._blocks)
                is_held |= len(self._blocks) > 1
            if is_held and self._jumps:
                self._jumps -= 1
                held = 0
                self._ahead.clear()
        if not self._count:
            self._tell_news()
        self._pause()
        return None

    def _pause(self) -> None:
        now_s = time.monotonic()
        if self._waits_since_s is None:
            self._waits_since_s = now_s
        pause_s = (now_s - self._waits_since_s) / 8
        self._look_at_s = now_s + min(max(pause_s, _SHORTEST_PAUSE_S), _LONGEST_PAUSE_S)

    def _next_open(self) -> int | None:
        while self._count:
            while self._ahead:
                index = self._ahead.popleft()
                if self._open[index]:
                    return index
            self._go_to_following()
        return None

    def _tell_news(self) -> None:
        """Let others know what is known of the block by now."""
        if self._notes is not None and self._is_news:
            self._notes.write(self._cases_of_block(), self._note)
        self._is_news = False

    def _go_to_following(self) -> None:
        self._tell_news()
        self._block = self._blocks[self._following]
        self._following = (self._following + 1) % len(self._blocks)
        self._ahead = self._open_in_block()
        if self._is_alone or not self._ahead:
            return
        if self._notes is not None:
            self._note = self._notes.read(self._cases_of_block())
            for place, seen in self._note.seen.items():
                index = self._block[place]
                if self._open[index]:
                    self._close(index)
                    self._on_kept(Kept(self._cases[index], seen.status, seen.reason, seen.message, seen.version))
            self._ahead = self._open_in_block()
        if self._ahead:
            self._ahead.rotate(random.randrange(len(self._ahead)))

    def _open_in_block(self) -> deque[int]:
        return deque(index for index in self._block if self._open[index])

    def _cases_of_block(self) -> Sequence[Case]:
        return self._cases[self._block.start : self._block.stop]

    def _taken_at(self, index: int) -> tuple[Case | None, bool]:
        """Return the case of an index where it is to be done and free, and whether another worker has it."""
        case = self._claims.claim(self._cases[index])
        if case is None:
            return None, True
        self._close(index)
        if isinstance(case, Case):
            self._indices[case.mask] = index
            return case, False
        if isinstance(case, Kept):
            if not self._is_alone:
                seen = SeenCase(case.status, case.reason, case.message, case.version)
                self._note.seen[index - self._block.start] = seen
                self._is_news = True
            self._on_kept(case)
        else:
            self._on_given_up(case)
        return None, False

    def _close(self, index: int) -> None:
        self._open[index] = 0
        self._count -= 1

    def _let_go(self, case: Case, *, again: bool) -> None:
        index = self._settled = self._indices.pop(case.mask)
        self._look_at_s = -float("inf")  # one may wait to be taken by itself
        if not again:
            self._claims.release(case)
            return
        self._claims.give_back(case)
        self._reopen(index)

    def _reopen(self, index: int) -> None:
        self._open[index] = _OPEN
        self._count += 1
