"""A queue of cases whose images or results are objects of a store: images come ahead, results go after the commit."""

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from flare_runtime.cases.case import Case
from flare_runtime.cases.stored_places import StoredPlaces
from flare_runtime.errors import OutputError
from flare_runtime.files.looking import looking_at
from flare_runtime.files.naming import visible
from flare_runtime.run.claims import Claims
from flare_runtime.run.commit import taken_over
from flare_runtime.run.queue import CaseQueue, Records
from flare_runtime.run.record import CaseRecord, failed_record
from flare_runtime.run.stored_results import StoredResults, shown_record

_LOG = logging.getLogger(__name__)
# Cases that are downloaded while others are in work.
_MOST_AHEAD = 3
# Objects that are downloaded at once.
_FILES = 8


class StoredCases(CaseQueue):
    """The cases of another queue, which hands out places of objects: each comes once its images are there as files.

    A case is settled when its results are objects, its record last of all: without a record it is not done.

    Args:
        cases: the other queue.
        places: of the images and results.
        claims: on the cases, where workers share them.

    Raises:
        OutputError: from `take` and `settle`, where the store does not answer or must not be written.
    """

    def __init__(self, cases: CaseQueue, places: StoredPlaces, claims: Claims | None = None) -> None:
        super().__init__()
        self._cases = cases
        self._claims = claims
        self._mirror = places.mirror
        self._images = places.images
        self._pool = ThreadPoolExecutor(_MOST_AHEAD, "fetch")
        self._files = ThreadPoolExecutor(_FILES, "file")
        self._coming: dict[Future[None], Case] = {}
        self._error: Exception | None = None
        self._record: CaseRecord | None = None
        self._results = StoredResults(self._mirror)

    def finish(self) -> None:
        """Let no further case come."""
        super().finish()
        self._cases.finish()

    def close(self) -> None:
        """Finish, remove what is on the local disk, and let other workers have what is not settled."""
        super().close()
        for pool in (self._pool, self._files):
            pool.shutdown(wait=False, cancel_futures=True)
        self._mirror.close()
        self._cases.close()
        self._taken.clear()  # of their folders nothing is left

    def own(self, records: Records) -> Records:
        """Yield the records of cases as they were stored."""
        return self._cases.own(self._stored(records))

    def _stored(self, records: Records) -> Records:
        with closing(records):
            for record in records:
                yield self._record or shown_record(record, self._mirror)

    def _left(self) -> int:
        return self._cases.left + len(self._coming) + (self._error is not None)

    def _next(self) -> Case | None:
        if self._error is not None:
            raise self._error
        try:
            while len(self._coming) < _MOST_AHEAD and (coming := self._cases.take()):
                self._images.begin(coming)
                self._coming[self._pool.submit(self._fetch, coming)] = coming
            ready = next((future for future in self._coming if future.done()), None)
            if ready is None:
                return None
            case = self._coming.pop(ready)
            ready.result()
        except OSError as error:
            self._error = _refused(error)
            raise self._error from error
        except Exception as error:
            self._error = error
            raise
        self._results.begin(case)
        return case

    def _fetch(self, case: Case) -> None:
        self._images.look_up(case)
        coming = [self._files.submit(self._fetch_one, path) for path in self._images.to_fetch(case)]
        try:
            for one in looking_at(coming, len(coming)):
                one.result()
        finally:
            for one in coming:
                one.cancel()

    def _fetch_one(self, path: Path) -> None:
        try:
            self._mirror.fetch(path)
        except (FileNotFoundError, PermissionError) as error:  # the case is refused for it
            _LOG.warning("%s: cannot be downloaded (%s)", self._mirror.shown(str(path)), visible(error))
            path.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{self._mirror.shown(str(path))}: cannot be downloaded ({error})") from error

    def _let_go(self, case: Case, *, again: bool) -> None:
        try:
            if again:
                self._results.drop(case)
                self._cases.give_back(case)
            else:
                self._store(case)
            self._images.end(case)
        except OSError as error:
            raise _refused(error) from error

    def _store(self, case: Case) -> None:
        if self._is_lost(case):
            self._results.drop(case)
            self._record = failed_record(case.name, taken_over(case))
        else:
            self._record = self._results.store(case)
        self._cases.settle(case)
        for path in case.results:
            if self._mirror.holds(path):
                path.unlink(missing_ok=True)

    def _is_lost(self, case: Case) -> bool:
        """Whether another worker has taken a case over; for results on the local disk their commit has asked."""
        if self._claims is None or case.lease is None or not self._mirror.holds(case.mask):
            return False
        return not self._claims.holds(case.lease)


def _refused(error: OSError) -> OutputError:
    """Return the error of a store that does not allow any more what it did, as with credentials out of date."""
    return OutputError(f"the object store cannot be used ({visible(error)})")
