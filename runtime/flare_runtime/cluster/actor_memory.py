"""How much memory an actor takes, as the first images' headers show it."""

from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import closing, suppress
from dataclasses import replace
from itertools import islice

from flare_runtime.backends.registry import running_bytes
from flare_runtime.backends.selection import choose
from flare_runtime.cases.case import Case
from flare_runtime.errors import CaseError, FlareError
from flare_runtime.model.bundle import Bundle
from flare_runtime.options import RunOptions
from flare_runtime.pipeline.gpu_memory import MIB
from flare_runtime.pipeline.host_memory import engine_bytes
from flare_runtime.run.serial import CaseReader
from flare_runtime.segmenter import Segmenter

# Reading the headers of a whole cohort would take as long as a good part of the run.
_CASES_READ = 32
# The program itself, with its libraries.
_PROGRAM_BYTES = 400 * MIB


def actor_bytes(bundle: Bundle, options: RunOptions, cases: Sequence[Case]) -> int | None:
    """Estimate what an actor takes for the largest of the first cases, on a CPU; None where none can be read."""
    try:
        choice = choose(bundle, replace(options, device="cpu", backend="auto", precision="auto"))
        network_bytes = running_bytes(choice)
    except FlareError:
        return None
    segmenter = Segmenter(bundle, Future(), choice.options)  # it is given no network
    memory = replace(segmenter.memory, network_bytes=network_bytes)
    peaks = []
    with closing(CaseReader(segmenter)) as reader:
        for case in islice(cases, _CASES_READ):
            with suppress(CaseError):
                peaks.append(memory.peak_of(reader.grids(case)))
    return max(peaks) + engine_bytes(bundle.manifest, bundle.folds) + _PROGRAM_BYTES if peaks else None
