"""How far a cohort is, by the records and the leases in its folder."""

import os
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from flare_runtime.cohort.folder import listings, read_each
from flare_runtime.cohort.record_files import Head, Status, Unreadable, read_head
from flare_runtime.errors import UsageError
from flare_runtime.files.lease import Holder, holder_of, is_lease_name
from flare_runtime.files.naming import visible

# The rate is that of the shortest of these times in which so many cases ended, and of the longest where none has.
_WINDOWS_S = (600.0, 3600.0, 86400.0)
_ENOUGH = 10


@dataclass(frozen=True)
class NotDone:
    """A case that was refused or has failed, as its record says.

    Attributes:
        record: where that is.
        tries: how many runs have begun with the case.
    """

    case: str
    record: str
    status: Status
    reason: str
    message: str
    tries: int


@dataclass(frozen=True)
class InWork:
    """A case that a worker has taken.

    Attributes:
        mask: what it is to become.
        host, process, since: who has it, and since when, in UTC, by that machine's clock.
        silent_s: how long the worker has not been heard of.
    """

    mask: str
    host: str
    process: str
    since: str
    silent_s: float


@dataclass(frozen=True)
class Rate:
    """How many cases ended in an hour, done or not, and over how many seconds that was counted."""

    cases_per_hour: float
    over_s: float


@dataclass(frozen=True)
class CohortStatus:
    """How far a cohort is.

    Attributes:
        folder: of its results.
        done: how many cases are.
        not_done: those that were refused or have failed.
        given_up: those of them with which as many runs have begun as may.
        running: the cases that workers have.
        lost: the cases of workers that are no more; the next worker takes them over.
        unreadable: a line for each record or folder that cannot be read.
        rate: at which cases end; None where none did of late.
        total: how many cases the input has; None where nobody said which that is.
        open: how many of them have no record.
        not_begun: the names of those that no worker has taken either.
    """

    folder: str
    done: int
    not_done: list[NotDone]
    given_up: list[NotDone]
    running: list[InWork]
    lost: list[InWork]
    unreadable: list[str]
    rate: Rate | None
    total: int | None
    open: int
    not_begun: list[str]

    @property
    def settled(self) -> int:
        """How many cases have a record."""
        return self.done + len(self.not_done)

    @property
    def is_complete(self) -> bool:
        """Whether no case of the input is left."""
        return self.total is not None and not self.open and not self.running

    @property
    def left_s(self) -> float | None:
        """How many seconds the rest takes at this rate; None where nobody knows."""
        if self.total is None or self.rate is None:
            return None
        return self.open / self.rate.cases_per_hour * 3600


class Expected(NamedTuple):
    """A case of the input: its name, and where its record is to be."""

    name: str
    record: str


class HeadReader:
    """Reads heads of records; those of an earlier look again only where the record has changed since."""

    def __init__(self) -> None:
        self._known: dict[str, Head] = {}

    def read(self, path: str) -> Head | Unreadable | None:
        """Return what became of a case; see `read_head`."""
        known = self._known.get(path)
        if known is not None:
            with suppress(OSError):
                if os.stat(path, follow_symlinks=False).st_mtime_ns == known.changed_ns:  # noqa: PTH116
                    return known
        head = read_head(path)
        if isinstance(head, Head):
            self._known[path] = head
        return head


def status_of(
    folder: Path,
    max_tries: int,
    expected: Sequence[Expected] | None = None,
    read: Callable[[str], Head | Unreadable | None] = read_head,
) -> CohortStatus:
    """Look through a folder of results and the folders in it.

    Args:
        folder: of the results.
        max_tries: with how many runs a case is given up.
        expected: the cases of the input; None where nobody said which that is.
        read: reads a record.

    Raises:
        UsageError: where the folder cannot be read, or holds neither a record nor a worker's case.
    """
    unreadable: list[str] = []
    leases: list[str] = []

    def paths() -> Iterator[str]:
        for listing in listings(folder, unreadable.append):
            leases.extend(f"{listing.folder}/{name}" for name in listing.leases)
            yield from listing.json_paths

    tally = _Tally(expected or ())
    for head in read_each(paths(), read):
        if isinstance(head, Head):
            tally.add(head)
        elif head is not None:
            unreadable.append(head.line)
    holders = _holders(leases, unreadable.append)
    if not tally.ended_s and not holders:
        raise UsageError(f"{folder}: holds no record of a case{_so_many(unreadable)}")
    return CohortStatus(
        folder=visible(folder),
        done=tally.done,
        not_done=tally.not_done,
        given_up=[case for case in tally.not_done if case.tries >= max_tries],
        running=[_in_work(mask, holder) for mask, holder in holders.items() if holder.is_alive],
        lost=[_in_work(mask, holder) for mask, holder in holders.items() if not holder.is_alive],
        unreadable=unreadable,
        rate=_rate(tally.ended_s, tally.took_s),
        total=None if expected is None else len(expected),
        open=len(tally.missing),
        not_begun=_not_begun(tally.missing, holders),
    )


def channels_in(folder: Path) -> int:
    """Return how many images a case of these results has, as the record of one that is done says.

    Raises:
        UsageError: where the folder cannot be read.
    """
    paths = (path for listing in listings(folder, lambda _line: None) for path in listing.json_paths)
    heads = (head for head in map(read_head, paths) if isinstance(head, Head) and head.status == "done")
    return next((head.channels for head in heads if head.channels), 1)


class _Tally:
    """What the records say that were read so far, and which cases of the input have none."""

    def __init__(self, expected: Iterable[Expected]) -> None:
        self.done = 0
        self.not_done: list[NotDone] = []
        # When each case ended, since 1970, and how long it took.
        self.ended_s, self.took_s = array("d"), array("d")
        self.missing = {case.record: case for case in expected}

    def add(self, head: Head) -> None:
        self.missing.pop(head.path, None)
        self.ended_s.append(head.changed_ns / 1e9)
        self.took_s.append(head.duration_s)
        if head.status == "done":
            self.done += 1
        else:
            self.not_done.append(_not_done(head))


def _so_many(unreadable: Sequence[str]) -> str:
    return f", but {len(unreadable)} file(s) that cannot be read, such as {unreadable[0]}" if unreadable else ""


def _not_done(head: Head) -> NotDone:
    return NotDone(
        visible(head.case),
        visible(head.path),
        head.status,
        visible(head.reason or "unknown"),
        visible(head.message or ""),
        head.tries,
    )


def _not_begun(missing: Mapping[str, Expected], masks: Iterable[str]) -> list[str]:
    """Return the names of the cases without a record, less those of whose masks somebody holds a lease."""
    if not missing:
        return []
    from flare_runtime.imaging.file_names import record_name  # slow to import

    begun = {os.path.join(folder, record_name(name)) for folder, name in map(os.path.split, masks)}  # noqa: PTH118
    return [case.name for record, case in missing.items() if record not in begun]


def _in_work(mask: str, holder: Holder) -> InWork:
    return InWork(visible(mask), holder.host, visible(holder.process), holder.since, round(holder.age_s, 1))


def _holders(leases: Sequence[str], note: Callable[[str], None]) -> dict[str, Holder]:
    """Return who has or had each mask; of several leases the last counts, those before it are of workers that died."""
    holders: dict[str, Holder] = {}
    for lease in leases:
        folder, name = os.path.split(lease)
        if not is_lease_name(name):
            continue
        try:
            holder = holder_of(Path(lease))
        except OSError as error:
            note(visible(f"{lease}: cannot be read ({error.strerror or error})"))
            continue
        mask = os.path.join(folder, name[1:].rsplit(".", 2)[0])  # noqa: PTH118
        if holder and (mask not in holders or holders[mask].generation < holder.generation):
            holders[mask] = holder
    return holders


def _rate(ended_s: Sequence[float], took_s: Sequence[float]) -> Rate | None:
    """Return the rate at which cases ended of late.

    It is counted from the begin of the earliest case that ended in the window, where that lies in it: a run that has
    just begun is as fast as one that goes on.
    """
    now = max(time.time(), max(ended_s, default=0.0))  # a file server's clock may be ahead
    recent: list[tuple[float, float]] = []
    for window_s in _WINDOWS_S:
        recent = [(end, took) for end, took in zip(ended_s, took_s, strict=True) if end > now - window_s]
        if len(recent) >= _ENOUGH:
            break
    over_s = min(window_s, max((now - end + took for end, took in recent), default=0.0))
    return Rate(len(recent) / over_s * 3600, over_s) if over_s > 0 else None
