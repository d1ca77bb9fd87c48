"""Segments the cases of a run, in its own process or in a worker, and reports progress to a listener."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from threading import Lock
from time import perf_counter

from flare_runtime.backends.engine import Choice
from flare_runtime.cases.case import Case
from flare_runtime.compute.box import Box
from flare_runtime.pipeline.inference import Progress
from flare_runtime.pipeline.tiling import TileGrid
from flare_runtime.program.command_line import skip_model_converter
from flare_runtime.run.events import CaseProgress, Listener, NetworkReady
from flare_runtime.run.queue import CaseQueue
from flare_runtime.run.record import CaseRecord
from flare_runtime.run.serial import segment_cases
from flare_runtime.segmenter import Segmenter

# Between two events of progress.
_INTERVAL_S = 0.1


@dataclass(frozen=True)
class CaseWork:
    """The work on cases; it can be pickled for a worker process.

    Attributes:
        choice: what runs the model, and how.
        workers: how many share the memory of this machine.
    """

    choice: Choice
    workers: int = 1

    def __call__(self, cases: Iterable[Case], listener: Listener) -> Iterator[CaseRecord]:
        """Compile the network and segment cases, several at once, in a process that was just started.

        The listener is called by several threads.
        """
        from flare_runtime.run.overlap import segment_overlapping  # of use in workers alone

        skip_model_converter()
        segmenter = Segmenter.open(self.choice, wait=False)
        if segmenter.bundle.previous_stage is not None:  # whose stages take turns at the network
            for case in cases:
                yield from self.segment(segmenter, [case], listener)
            return
        told = _Told(segmenter, listener)
        for record in segment_overlapping(segmenter, cases, progress=told.progress, workers=self.workers):
            told.network()
            yield record

    def segment(
        self, segmenter: Segmenter, cases: CaseQueue | Sequence[Case], listener: Listener
    ) -> Iterator[CaseRecord]:
        """Segment cases one after the other, in this process."""
        told = _Told(segmenter, listener)
        for record in segment_cases(segmenter, cases, progress=told.progress):
            told.network()
            yield record


class _Told:
    """Lets a listener know when the network is ready and how far every case is."""

    def __init__(self, segmenter: Segmenter, listener: Listener) -> None:
        self._segmenter = segmenter
        self._listener = listener
        self._lock = Lock()
        self._is_told = False

    def network(self) -> None:
        """Tell of the network, once: by now it is needed, and what is wrong with it has to be said."""
        network = self._segmenter.network
        with self._lock:
            if not self._is_told:
                self._listener(NetworkReady(network.device, network.backend, network.precision))
            self._is_told = True

    def progress(self, case: Case) -> Progress:
        """Return the wrapper of a case's tiles."""

        def wrap(tiles: TileGrid) -> Iterator[Box]:
            self.network()
            return _with_progress(tiles, case.name, self._listener)

        return wrap


def _with_progress(tiles: TileGrid, case: str, listener: Listener) -> Iterator[Box]:
    """Yield tiles, and let the listener know how many are done."""
    total = len(tiles)
    listener(CaseProgress(case, 0, total))
    last = perf_counter()
    for done, tile in enumerate(tiles, start=1):
        yield tile
        now = perf_counter()
        if done == total or now - last >= _INTERVAL_S:
            last = now
            listener(CaseProgress(case, done, total))
