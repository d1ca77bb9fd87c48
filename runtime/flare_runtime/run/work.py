"""What a run does with its cases, in its own process or in a worker: segment them and tell how far it is."""

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

# Between two that tell of progress: often enough for the eye.
_PAUSE_S = 0.1


@dataclass(frozen=True)
class CaseWork:
    """The work on a run's cases, which can be handed to another process.

    Attributes:
        choice: what runs the model, and how.
    """

    choice: Choice

    def __call__(self, cases: Sequence[Case], listener: Listener) -> Iterator[CaseRecord]:
        """Segment cases with a network that is compiled for them, in a process that has just begun."""
        skip_model_converter()
        return self.segment(Segmenter.open(self.choice, wait=False), cases, listener)

    def segment(self, segmenter: Segmenter, cases: Sequence[Case], listener: Listener) -> Iterator[CaseRecord]:
        """Segment cases, and tell the listener of the network and of every case's progress."""

        @cache
        def tell_network() -> None:
            network = segmenter.network  # by now it is needed, and what is wrong with it has to be said
            listener(NetworkReady(network.device, network.backend, network.precision))

        def progress(case: Case) -> Progress:
            def wrap(tiles: TileGrid) -> Iterator[Box]:
                tell_network()
                return _told(tiles, case.name, listener)

            return wrap

        for record in segment_cases(segmenter, cases, progress=progress):
            tell_network()
            yield record


def _told(tiles: TileGrid, case: str, listener: Listener) -> Iterator[Box]:
    """Yield tiles and tell how many are done."""
    total = len(tiles)
    listener(CaseProgress(case, 0, total))
    told_at = perf_counter()
    for done, tile in enumerate(tiles, start=1):
        yield tile
        now = perf_counter()
        if done == total or now - told_at >= _PAUSE_S:
            told_at = now
            listener(CaseProgress(case, done, total))
