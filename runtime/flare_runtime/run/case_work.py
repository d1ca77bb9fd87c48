"""What `flare-infer` does with the cases of a run, in its own process or in a worker: segment them and say so."""

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from flare_runtime.backends.engine import Choice
from flare_runtime.compute.box import Box
from flare_runtime.pipeline.inference import Progress
from flare_runtime.pipeline.tiling import TileGrid
from flare_runtime.program.command_line import log_to_stderr, skip_model_converter
from flare_runtime.program.terminal import PatientLine, open_streams, progress_bar, say
from flare_runtime.run.cases import Case
from flare_runtime.run.cohort import segment_cases
from flare_runtime.run.record import CaseRecord
from flare_runtime.segmenter import Segmenter


@dataclass(frozen=True)
class CaseWork:
    """The work on a run's cases, which can be handed to another process.

    Attributes:
        args: of the command line.
        choice: what runs the model, and how.
        first: the mask of the first case of the run.
        count: how many cases the run has.
        log_level: of this package's messages.
    """

    args: argparse.Namespace
    choice: Choice
    first: Path
    count: int
    log_level: int

    def __call__(self, cases: Sequence[Case]) -> Iterator[CaseRecord]:
        """Segment cases with a network that is compiled for them, in a process that has just begun."""
        open_streams()
        log_to_stderr("flare_runtime", self.log_level)
        skip_model_converter()
        return self.segment(Segmenter.open(self.choice, wait=False), cases)

    def segment(self, segmenter: Segmenter, cases: Sequence[Case]) -> Iterator[CaseRecord]:
        """Segment cases, the first of all under a line that says what runs where."""
        waiting = PatientLine("flare-infer: preparing the network and the first case ...")

        @cache
        def announce() -> None:
            network = segmenter.network  # by now it is needed, and what is wrong with it has to be said
            waiting.end()
            if cases[0].mask == self.first and not self.args.quiet:
                place = f"{network.device} ({network.backend}, {network.precision})"
                manifest = self.choice.bundle.manifest
                say(f"{manifest.name} on {place}, {self.count} case(s)")
                if manifest.caution:
                    say(f"caution: {manifest.caution}")

        def progress(case: Case) -> Progress:
            def wrap(tiles: TileGrid) -> Iterable[Box]:
                announce()
                return tiles if self.args.quiet else progress_bar(tiles, case.name, "tile")

            return wrap

        with waiting:
            records = segment_cases(segmenter, cases, progress=progress)
            for record in records:
                announce()
                yield record
