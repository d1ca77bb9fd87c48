"""Segments the cases of a run, in its own process or in a worker, and reports progress to a listener."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from time import perf_counter

from flare_runtime.backends.engine import Choice
from flare_runtime.compute.box import Box
from flare_runtime.pipeline.inference import Progress
from flare_runtime.pipeline.tiling import TileGrid
from flare_runtime.program.command_line import skip_model_converter
from flare_runtime.run.cases import Case
from flare_runtime.run.cohort import segment_cases
from flare_runtime.run.events import CaseProgress, Listener, NetworkReady
from flare_runtime.run.record import CaseRecord
from flare_runtime.segmenter import Segmenter

# Between two events of progress.
_INTERVAL_S = 0.1


@dataclass(frozen=True)
class CaseWork:
    """The work on cases; it can be pickled for a worker process.

    Attributes:
        choice: what runs the model, and how.
    """

    choice: Choice

    def __call__(self, cases: Sequence[Case], listener: Listener) -> Iterator[CaseRecord]:
        """Compile the network and segment cases, in a process that was just started."""
        skip_model_converter()
        return self.segment(Segmenter.open(self.choice, wait=False), cases, listener)

    def segment(self, segmenter: Segmenter, cases: Sequence[Case], listener: Listener) -> Iterator[CaseRecord]:
        """Segment cases, and let the listener know when the network is ready and how far every case is."""

        @cache
        def announce_network() -> None:
            network = segmenter.network  # by now it is needed, and what is wrong with it has to be said
            listener(NetworkReady(network.device, network.backend, network.precision))

        def progress(case: Case) -> Progress:
            def wrap(tiles: TileGrid) -> Iterator[Box]:
                announce_network()
                return _with_progress(tiles, case.name, listener)

            return wrap

        for record in segment_cases(segmenter, cases, progress=progress):
            announce_network()
            yield record


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
