"""A queue of cases whose images or results are objects of a store: images come ahead, results go after the commit."""

import logging
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from flare_runtime.errors import OutputError
from flare_runtime.files.naming import visible
from flare_runtime.run.cases import Case
from flare_runtime.run.queue import CaseQueue
from flare_runtime.run.record import CaseRecord, read_record, write_json
from flare_runtime.run.stored_places import StoredPlaces, results_of

_LOG = logging.getLogger(__name__)
# Cases that are downloaded while others are in work.
_MOST_AHEAD = 3
_THREADS = 3


@dataclass(frozen=True)
class _Mark:
    """Which file it is: another one, or one that was written anew, has another mark, one that was renamed has not."""

    number: int
    size: int
    changed_ns: int


class StoredCases(CaseQueue):
    """The cases of another queue, which hands out places of objects: each comes once its images are there as files.

    A case is settled when its results are objects, its record last of all: without a record it is not done.

    Args:
        cases: the other queue.
        places: of the images and results.

    Raises:
        OutputError: from `take` and `settle`, where the store does not answer or must not be written.
    """

    def __init__(self, cases: CaseQueue, places: StoredPlaces) -> None:
        super().__init__()
        self._cases = cases
        self._places = places
        self._mirror = places.mirror
        self._pool = ThreadPoolExecutor(_THREADS, "fetch")
        self._coming: dict[Future[None], Case] = {}
        self._error: OutputError | None = None
        self._record: CaseRecord | None = None
        # What there was of a case's results when it was taken.
        self._before: dict[Path, dict[Path, _Mark]] = {}

    def finish(self) -> None:
        """Let no further case come."""
        super().finish()
        self._cases.finish()

    def close(self) -> None:
        """Finish, remove what is on the local disk, and let other workers have what is not settled."""
        super().close()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._cases.close()
        self._mirror.close()
        self._taken.clear()  # of their folders nothing is left

    def settled(self, records: Generator[CaseRecord, None, None]) -> Generator[CaseRecord, None, None]:
        """Yield the records of cases as they were stored, each of which was settled just before it comes."""
        with closing(records):
            for record in records:
                yield self._record or self._places.shown_record(record)

    def _left(self) -> int:
        return self._cases.left + len(self._coming) + (self._error is not None)

    def _next(self) -> Case | None:
        if self._error is not None:
            raise self._error
        self._fetch_more()
        ready = next((future for future in self._coming if future.done()), None)
        if ready is None:
            return None
        case = self._coming.pop(ready)
        try:
            ready.result()
        except OutputError as error:
            self._error = error
            raise
        self._fetch_more()
        self._before[case.mask] = _marks(case)
        return case

    def _fetch_more(self) -> None:
        while len(self._coming) < _MOST_AHEAD and (case := self._cases.take()):
            self._coming[self._pool.submit(self._fetch, case)] = case

    def _fetch(self, case: Case) -> None:
        for path in case.files:
            if self._mirror.holds(path):
                try:
                    self._mirror.fetch(path)
                except (FileNotFoundError, PermissionError) as error:  # the case is refused for it
                    _LOG.warning("%s: cannot be downloaded (%s)", self._mirror.shown(str(path)), visible(error))
                    path.unlink(missing_ok=True)
                except OSError as error:
                    raise OutputError(f"{self._mirror.shown(str(path))}: cannot be downloaded ({error})") from error

    def _let_go(self, case: Case, *, again: bool) -> None:
        before = self._before.pop(case.mask)
        if again:
            self._cases.give_back(case)
            return
        try:
            self._record = self._store(case, before)
        except OSError as error:
            mask = self._mirror.shown(str(case.mask))
            raise OutputError(f"{mask}: cannot be written ({visible(error)})") from error
        self._cases.settle(case)
        for path in {*results_of(case), *case.files}:
            if self._mirror.holds(path):
                path.unlink(missing_ok=True)

    def _store(self, case: Case, before: dict[Path, _Mark]) -> CaseRecord | None:
        """Do to the objects what was done to the files: the old record goes first, and the new one comes last.

        Returns:
            The record, if one was written.
        """
        if not self._mirror.holds(case.mask):
            return _rewritten(case, self._places, {})
        now, record = _marks(case), case.record
        is_new_record = now.get(record) != before.get(record)
        if is_new_record and record in before:
            self._mirror.remove(record)
        names = {mark: path for path, mark in before.items()}
        stamps = {}
        for path, mark in now.items():
            if path == record or names.get(mark) == path:
                continue
            if mark in names:
                self._mirror.copy(names[mark], path)
            else:
                status = self._mirror.put(path)
                stamps[path.name] = f"{status.size}-{status.changed_ns}"
        for path in before.keys() - now.keys() - {record}:
            self._mirror.remove(path)
        if not is_new_record or record not in now:
            return None
        content = _rewritten(case, self._places, stamps)
        self._mirror.put(record)
        return content


def _marks(case: Case) -> dict[Path, _Mark]:
    marks = {}
    for path in results_of(case):
        with suppress(FileNotFoundError):
            status = path.lstat()
            marks[path] = _Mark(status.st_ino, status.st_size, status.st_mtime_ns)
    return marks


def _rewritten(case: Case, places: StoredPlaces, stamps: dict[str, str]) -> CaseRecord | None:
    """Let a case's record say where the objects are, and which stamps the store gave the results; return it."""
    record = read_record(case.record)
    if record is None:
        return None
    record = places.shown_record(record)
    if record.identity is not None:
        outputs = {name: stamps.get(name, stamp) for name, stamp in record.identity.outputs.items()}
        record.identity = msgspec.structs.replace(record.identity, outputs=outputs)
    write_json(case.record, record)
    return record
