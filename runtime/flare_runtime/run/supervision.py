"""Runs work in a worker process for each device, and replaces one that dies: where CUDA has failed, it stays broken."""

import logging
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path

from flare_runtime.cases.case import Case
from flare_runtime.errors import DeviceError, FlareError, LostDeviceError
from flare_runtime.run.commit import commit_failure
from flare_runtime.run.events import Listener
from flare_runtime.run.identity import Recipe
from flare_runtime.run.queue import CaseQueue, queued
from flare_runtime.run.record import CaseRecord, failed_record
from flare_runtime.run.worker import LogLine, Work, Worker
from flare_runtime.run.worker_server import start_early

_LOG = logging.getLogger(__name__)
# Workers that a case may cost by itself, and that a device beside others may lose before it finishes another case.
_MOST_OF_A_CASE, _MOST_OF_A_DEVICE = 2, 3
# Cases that a worker has at most: what it works on at once, and the next one.
_MOST_GIVEN = 6
# Between two looks at cases that other processes have, and at whether the run is to finish.
_PAUSE_S = 0.2


def supervise(
    works: Sequence[Work],
    cases: CaseQueue | Sequence[Case],
    listener: Listener = lambda _event: None,
    recipe: Recipe | None = None,
    *,
    with_records: bool = True,
) -> Iterator[CaseRecord]:
    """Yield what works yield of `cases`, each work in a worker process of its own; with one work in the cases' order.

    Where a worker loses its device or is killed, the first case that it has not finished is tried once more by a worker
    that does nothing else: the one before may have died of a later case, of which it had several in work. A case that
    costs two workers by itself fails; another worker goes on behind it. With several works a case is tried again by
    another one, and a work that cannot go on leaves its cases to the others.

    Args:
        works: one for each device; pickled for the workers, which import their modules; not the program's main one.
        cases: from `find_cases`, or a queue of them.
        listener: is called in this process with the events of the works.
        recipe: for the records of cases that fail here.
        with_records: False writes none of a case that fails here.

    Raises:
        FlareError: what the last work raises, but for a lost device.
    """
    start_early()
    supervision = _Supervision(works, queued(cases), listener, recipe, with_records=with_records)
    try:
        while supervision.is_unfinished:
            for lane in tuple(supervision.lanes):
                if lane.worker is None:
                    yield from supervision.start(lane)
            for lane in supervision.ready():
                yield from supervision.hear(lane)
    finally:
        supervision.end()


class _Lane:
    """The workers of one device, one after the other.

    Attributes:
        worker: the one there is.
        given: the cases that it has, in its order.
        is_alone: it was given one case and gets no other.
        loss: what it says it dies of.
        lost: workers since the last record.
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        self.worker: Worker | None = None
        self.given: deque[Case] = deque()
        self.is_alone = False
        self.loss: LostDeviceError | None = None
        self.lost = 0
        self._is_told = True
        self._is_recalled = False

    def begin(self, case: Case, *, is_alone: bool) -> None:
        """Note the first case of a worker that is to be started."""
        self.given = deque([case])
        self.is_alone, self.loss, self._is_told, self._is_recalled = is_alone, None, False, False

    @property
    def takes_more(self) -> bool:
        """Whether there is a worker that was not told yet that no other case will come."""
        return self.worker is not None and not self._is_told

    def give(self, case: Case | None) -> None:
        """Give the worker another case, or tell it that no other will come."""
        assert self.worker is not None
        if case is None:
            self._is_told = True
        else:
            self.given.append(case)
        self.worker.give(case)

    def recall(self) -> None:
        """Have the worker, where there is one, begin no further case, and end."""
        if self.worker and not self._is_recalled:
            self._is_told = self._is_recalled = True
            self.worker.recall()


class _Supervision:
    """The cases that are not finished, and the lanes that work on them.

    Attributes:
        lanes: of the devices that can still be used.
    """

    def __init__(
        self, works: Sequence[Work], queue: CaseQueue, listener: Listener, recipe: Recipe | None, *, with_records: bool
    ) -> None:
        self.lanes = [_Lane(work) for work in works]
        self._queue = queue
        # What a worker had and did not finish.
        self._waiting: deque[Case] = deque()
        # To be tried by itself, and the lane that lost it.
        self._suspects: deque[tuple[Case, _Lane]] = deque()
        self._losses: Counter[Path] = Counter()
        self._listener = listener
        self._recipe = recipe
        self._with_records = with_records

    @property
    def is_unfinished(self) -> bool:
        """Whether a worker is there, or a case waits that is to be begun."""
        waiting = not self._queue.is_finished and (self._left or self._suspects)
        return bool(waiting or any(lane.worker for lane in self.lanes))

    @property
    def _left(self) -> int:
        """How many cases may still come, at most, but for those to be tried by themselves."""
        return len(self._waiting) + self._queue.left

    def _next(self) -> Case | None:
        return self._waiting.popleft() if self._waiting else self._queue.take()

    def start(self, lane: _Lane) -> Iterator[CaseRecord]:
        """Give a lane a worker where there is something to do for it."""
        if self._queue.is_finished:
            return
        suspect = next((one for one in self._suspects if one[1] is not lane or len(self.lanes) == 1), None)
        if suspect:
            self._suspects.remove(suspect)
            case = suspect[0]
        elif coming := self._next():
            case = coming
        else:
            return
        lane.begin(case, is_alone=suspect is not None or not self._left)
        try:
            lane.worker = Worker(lane.work)
        except LostDeviceError as error:
            yield from self._lost(lane, error)
            return
        lane.worker.give(case)
        if lane.is_alone:
            lane.give(None)
        self._supply()

    def _supply(self) -> None:
        """Give the workers the cases that wait: each its share of what is left, and not too many at once.

        Where none is to be begun any more, also those are left that they have not begun.
        """
        if self._queue.is_finished:
            for lane in self.lanes:
                lane.recall()
            return
        left = self._left + sum(len(lane.given) for lane in self.lanes)
        most = min(-(-left // len(self.lanes)), _MOST_GIVEN)
        for lane in self.lanes:
            while lane.takes_more and len(lane.given) < most and (case := self._next()):
                lane.give(case)
            if lane.takes_more and not self._left:
                lane.give(None)

    def ready(self) -> list[_Lane]:
        """Wait until a worker says something, and return the lanes of all that do."""
        by_connection = {lane.worker.connection: lane for lane in self.lanes if lane.worker}
        # Meanwhile cases of other processes may come to be free, or the run may be told to finish.
        said = wait(list(by_connection), _PAUSE_S)
        if not said:
            self._supply()
        return [by_connection[one] for one in said if isinstance(one, Connection)]

    def hear(self, lane: _Lane) -> Iterator[CaseRecord]:
        """Take a message of a lane's worker."""
        assert lane.worker is not None
        message = lane.worker.receive()
        if message is None:
            ended = lane.loss or LostDeviceError(lane.worker.wait())
            self._end(lane)
            if lane.given and not self._queue.is_finished:
                yield from self._lost(lane, ended)
        elif isinstance(message, CaseRecord):
            self._queue.settle(lane.given.popleft())
            lane.lost = 0
            yield message  # before the queue is asked again, which may raise an error
            self._supply()
        elif isinstance(message, LostDeviceError):
            lane.loss = message
        elif isinstance(message, FlareError):
            self._leave_out(lane, message)
        elif isinstance(message, LogLine):
            logging.getLogger(message.logger).log(message.level, "%s", message.text)
        else:
            self._listener(message)

    def _lost(self, lane: _Lane, loss: LostDeviceError) -> Iterator[CaseRecord]:
        """Have the first case of a lost worker tried by itself, or given up; the others wait again."""
        case = lane.given.popleft()
        self._waiting.extendleft(reversed(lane.given))
        lane.given.clear()
        self._losses[case.mask] += lane.is_alone
        if self._losses[case.mask] == _MOST_OF_A_CASE:
            message = f"two workers were lost at this case ({loss})"
            record = failed_record(case.name, LostDeviceError(message, loss.traceback))
            commit_failure(case, record, self._recipe, with_record=self._with_records)
            self._queue.settle(case)
            yield record
        else:
            _LOG.warning("a worker was lost at %s (%s); it is tried again by itself", case.name, loss)
            if loss.traceback:
                _LOG.info(loss.traceback)
            self._suspects.append((case, lane))
        lane.lost += 1
        if lane.lost == _MOST_OF_A_DEVICE and len(self.lanes) > 1:
            self._leave_out(lane, loss)

    def _leave_out(self, lane: _Lane, error: FlareError) -> None:
        """Go on without a device that cannot be used; the error is raised where it is the last, or not the device's."""
        if len(self.lanes) == 1 or not isinstance(error, DeviceError):
            raise error
        _LOG.warning("the run goes on without a device: %s", error)
        self._end(lane)
        self._waiting.extendleft(reversed(lane.given))
        self.lanes.remove(lane)

    def _end(self, lane: _Lane) -> None:
        if lane.worker:
            lane.worker.end({case.mask.parent for case in lane.given})
            lane.worker = None

    def end(self) -> None:
        """End all workers, and give back what they had."""
        for lane in self.lanes:
            self._end(lane)
            self._waiting.extend(lane.given)
        if self._queue.is_finished:  # who closes it gives back all
            return
        for case in reversed((*self._waiting, *(case for case, _ in self._suspects))):
            self._queue.give_back(case)
