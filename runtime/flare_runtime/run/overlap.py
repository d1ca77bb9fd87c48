"""Segmenting several cases at once: while the network works on one, others are read, prepared, restored and written."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, InvalidStateError, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import replace
from queue import SimpleQueue
from threading import Lock, Semaphore, Thread
from time import perf_counter
from typing import Any, TypeAlias

from flare_runtime.backends.gpu import GpuNetwork
from flare_runtime.cases.case import Case
from flare_runtime.compute.available_memory import lacked_memory
from flare_runtime.compute.box import Box
from flare_runtime.errors import BundleError, CaseError, DeviceError, LostDeviceError
from flare_runtime.imaging.volume import ALL_SLICES, Volume
from flare_runtime.pipeline.gpu_memory import MIB, Placement
from flare_runtime.pipeline.host_memory import HostNeed
from flare_runtime.pipeline.inference import Progress
from flare_runtime.pipeline.probability_maps import MapsTo
from flare_runtime.pipeline.tiling import TileGrid
from flare_runtime.run.admission import Admission, RunLeftError
from flare_runtime.run.commit import StagedResult, commit_failure
from flare_runtime.run.identity import Recipe
from flare_runtime.run.record import CaseRecord, failed_record
from flare_runtime.run.serial import CaseReader, CaseTimes, segment_alone, stage_case
from flare_runtime.segmentation import Segmentation
from flare_runtime.segmenter import Segmenter

# Cases that are begun and not committed yet.
IN_FLIGHT = 5
# One core decompresses a gzip stream, which takes longer than the network on a fast GPU.
_THREADS = {"read": 2, "prepare": 1, "network": 1, "restore": 1}
# How long is waited for threads that may hang in a device that is lost.
_HUNG_S = 1.0
_LACKS_MEMORY = ("too_little_memory", "gpu_memory")
# What a case comes to: a result to be committed, a record of why there is none, or None to be tried again by itself.
_Outcome: TypeAlias = StagedResult | CaseRecord | None


def segment_overlapping(
    segmenter: Segmenter,
    cases: Iterable[Case],
    *,
    progress: Callable[[Case], Progress] = lambda _case: iter,
    workers: int = 1,
) -> Iterator[CaseRecord]:
    """Do what `segment_cases` does with several cases in work, which the caller's thread commits in their order.

    A case that does not find the memory beside others is segmented once more by itself.

    Args:
        segmenter: the loaded model.
        cases: a thread asks for them one by one, and may have to wait.
        progress: gives each case its wrapper of tiles, which another thread iterates.
        workers: how many processes share the machine's memory.

    Raises:
        DeviceError, BundleError: what would fail every further case too.
        Exception: what `cases` raises, once those before it are committed.
    """
    stages, limit_s = _Stages(segmenter, progress, workers), None
    try:
        for flight in stages.flights(cases):
            try:
                record = _committed(flight, stages)
            except (DeviceError, BundleError):
                raise
            except Exception as error:  # one bad case must not cost the others
                record = stages.failed(flight.case, failed_record(flight.case.name, error))
            stages.end(flight)
            yield record
    except LostDeviceError:
        limit_s = _HUNG_S
        raise
    finally:
        stages.close(limit_s)


def _committed(flight: "_Flight", stages: "_Stages") -> CaseRecord:
    case, outcome = flight.case, stages.outcome_of(flight)
    if isinstance(outcome, StagedResult):
        return outcome.commit()
    if isinstance(outcome, CaseRecord):
        return stages.failed(case, outcome)
    with stages.host.alone():
        return segment_alone(stages.segmenter, case, stages.reader, stages.progress(case), stages.read)


class _Stages:
    """The threads of the stages, the cases in work, and their share of the memory."""

    def __init__(self, segmenter: Segmenter, progress: Callable[[Case], Progress], workers: int) -> None:
        self.segmenter = segmenter
        self.reader = CaseReader(segmenter)
        self.host = Admission[HostNeed](lambda needs: segmenter.memory.fit(needs, workers))
        self.gpu = Admission[int](self._fit_on_gpu)
        self.pools = {name: ThreadPoolExecutor(count, name) for name, count in _THREADS.items()}
        self._progress = progress
        self._room = Semaphore(IN_FLIGHT)
        # The last is why no other comes.
        self._begun: SimpleQueue[_Flight | BaseException | None] = SimpleQueue()
        self._flights: set[_Flight] = set()
        self._beginning = Lock()
        self._lost: Future[_Outcome] = Future()
        self._is_closed = False

    def flights(self, cases: Iterable[Case]) -> "Iterator[_Flight]":
        """Begin cases as there is room, and yield them in their order."""
        Thread(target=self._begin, args=(cases,), name="begin", daemon=True).start()
        while isinstance(flight := self._begun.get(), _Flight):
            yield flight
        if flight is not None:
            raise flight

    def _begin(self, cases: Iterable[Case]) -> None:
        ended = None
        try:
            coming = iter(cases)
            while self._room.acquire() and not self._is_closed and (case := next(coming, None)):
                flight = _Flight(case, self)
                with self._beginning:
                    self.check_open()  # it may have been left while the case was waited for
                    self._flights.add(flight)
                    self._begun.put(flight)
                    flight.begin()
        except BaseException as error:  # which the caller's thread raises
            ended = error
        self._begun.put(ended)

    def outcome_of(self, flight: "_Flight") -> _Outcome:
        """Wait for what a case comes to, but not long where it may hang in a device that another case has lost.

        Raises:
            DeviceError, BundleError: what would fail every further case too.
        """
        wait([flight.outcome, self._lost], return_when=FIRST_COMPLETED)
        done, _ = wait([flight.outcome], _HUNG_S if self._lost.done() else None)
        return (flight.outcome if done else self._lost).result()

    def lose(self, error: LostDeviceError) -> None:
        """Note that the device is lost."""
        with suppress(InvalidStateError):  # another case has said so
            self._lost.set_exception(error)

    def end(self, flight: "_Flight") -> None:
        """Let another case be begun in place of one that is committed or given up."""
        self.reader.digests.forget(flight.case)
        self._flights.discard(flight)
        self._room.release()

    def failed(self, case: Case, record: CaseRecord) -> CaseRecord:
        """Commit the record of why there is no result."""
        recipe = Recipe.of(self.segmenter.bundle, self.segmenter.options)
        inputs = self.reader.digests.stamps_of(case)
        return commit_failure(case, record, recipe, inputs, with_record=self.segmenter.options.records)

    def read(self, case: Case) -> list[Volume]:
        """Read the images of a case where they may fit into memory at all."""
        self.segmenter.memory.check_before_reading(self.reader.grids(case))
        return self.reader.read(case)

    def admit_on_gpu(self, flight: "_Flight", placement: Placement) -> None:
        """Wait until the GPU has memory for a case beside the others; the one thread that prepares asks."""
        self.gpu.enter(flight, placement.peak_bytes)
        total = sum(self.gpu.needs)
        for other in tuple(self._flights):
            other.gpu_bytes = max(other.gpu_bytes, total)

    def _fit_on_gpu(self, needs: Sequence[int]) -> bool:
        network = self.segmenter.network
        return not isinstance(network, GpuNetwork) or sum(needs) <= network.budget.arrays_bytes

    def progress(self, case: Case) -> Progress:
        """Return the wrapper of a case's tiles, which end with the run."""
        wrapped = self._progress(case)

        def wrap(tiles: TileGrid) -> Iterator[Box]:
            for tile in wrapped(tiles):
                self.check_open()
                yield tile

        return wrap

    def check_open(self) -> None:
        """Go no further where the run was left.

        Raises:
            RunLeftError: where it was.
        """
        if self._is_closed:
            raise RunLeftError

    def _end_threads(self) -> None:
        for pool in self.pools.values():
            pool.shutdown(cancel_futures=True)

    def close(self, limit_s: float | None = None) -> None:
        """End the threads after what they are at, a tile or a stage, and remove what was not committed.

        Threads that take longer than `limit_s` are left to the end of the process.
        """
        with self._beginning:
            self._is_closed = True
        self._room.release()
        self.host.close()
        self.gpu.close()
        closing = Thread(target=self._end_threads, name="close", daemon=True)
        closing.start()
        closing.join(limit_s)
        for flight in tuple(self._flights):
            flight.discard()
        self.reader.digests.close()


class _Flight:
    """One case on its way through the stages.

    Attributes:
        outcome: what it comes to.
        gpu_bytes: the most that was planned for all cases that were on the GPU at once with it.
    """

    def __init__(self, case: Case, stages: _Stages) -> None:
        self.case = case
        self.outcome: Future[_Outcome] = Future()
        self.gpu_bytes = 0
        self._stages = stages
        self._times = CaseTimes(0.0, 0.0)
        # What one stage leaves for the next: arrays are nowhere else, so that the next can let go of them.
        self._left: Any = None
        # Kept for the intensities of lesions: to read it again would take as long as the network.
        self._first: Volume | None = None

    def begin(self) -> None:
        """Have the first stage done, and each of the others after the one before it."""
        self._do("read", self._read)

    def discard(self) -> None:
        """Remove the result that was not committed, where there is one."""
        if self.outcome.done() and not self.outcome.exception():
            outcome = self.outcome.result()
            if isinstance(outcome, StagedResult):
                outcome.discard()

    def _do(self, stage: str, step: Callable[[], None]) -> None:
        def run() -> None:
            try:
                self._stages.check_open()
                step()
            except BaseException as error:
                self._give_up(error)

        try:
            self._stages.pools[stage].submit(run)
        except RuntimeError:  # its threads have ended
            self._give_up(RunLeftError())

    def _take(self) -> Any:
        left, self._left = self._left, None
        return left

    def _scan(self, _wanted: slice = ALL_SLICES) -> Volume:
        assert self._first is not None
        return self._first

    def _read(self) -> None:
        stages, memory = self._stages, self._stages.segmenter.memory
        grids = stages.reader.grids(self.case)
        stages.host.enter(self, memory.need_of(grids))
        memory.check_before_reading(grids)
        started = perf_counter()
        self._left = stages.reader.read(self.case)
        self._times = CaseTimes(started, perf_counter() - started)
        self._do("prepare", self._prepare)

    def _prepare(self) -> None:
        stages, volumes, waited_s = self._stages, self._take(), 0.0
        self._first = volumes[0]

        def admit(placement: Placement) -> None:
            nonlocal waited_s
            started = perf_counter()
            stages.admit_on_gpu(self, placement)
            waited_s = perf_counter() - started

        prepared = stages.segmenter.prepare(volumes, progress=stages.progress(self.case), admit=admit)
        self._left = replace(prepared, seconds=prepared.seconds - waited_s)
        self._do("network", self._infer)

    def _infer(self) -> None:
        stages = self._stages
        self._left = stages.segmenter.infer(self._take(), progress=stages.progress(self.case))
        self._do("restore", self._restore)

    def _restore(self) -> None:
        stages = self._stages

        def restore(maps_to: MapsTo | None) -> Segmentation:
            blended = self._take()
            previous = blended.case.previous
            result = stages.segmenter.restore(blended, maps_to=maps_to, scan=self._scan)
            if previous is not None:
                result = result.after(previous)
            del blended
            result = self._planned_with_others(result)
            stages.gpu.leave(self)
            return result

        staged = stage_case(stages.segmenter, self.case, restore, self._times, stages.reader.digests, self._scan)
        self._first = None
        stages.host.leave(self)
        self.outcome.set_result(staged)

    def _planned_with_others(self, result: Segmentation) -> Segmentation:
        """Count the cases that were on the GPU together with this one."""
        if result.gpu_memory_mib is None:
            return result
        beside = max(self.gpu_bytes - self._stages.gpu.need_of(self), 0)
        memory_mib = {**result.gpu_memory_mib, "planned": result.gpu_memory_mib["planned"] - -beside // MIB}
        return replace(result, gpu_memory_mib=memory_mib)

    def _give_up(self, error: BaseException) -> None:
        self._left = self._first = None
        self._stages.gpu.leave(self)
        self._stages.host.leave(self)
        if isinstance(error, LostDeviceError):
            self._stages.lose(error)
        if not isinstance(error, Exception) or isinstance(error, DeviceError | BundleError | RunLeftError):
            self.outcome.set_exception(error)
        elif lacked_memory(error) or (isinstance(error, CaseError) and error.reason in _LACKS_MEMORY):
            self.outcome.set_result(None)
        else:
            # Not the error itself, whose traceback holds arrays.
            self.outcome.set_result(failed_record(self.case.name, error))
