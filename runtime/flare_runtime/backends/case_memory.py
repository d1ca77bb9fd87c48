"""What the cases of a chosen model take of the memory, and what is removed from their masks."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import TypeAlias

from flare_runtime.backends.engine import Choice
from flare_runtime.backends.gpu import GpuNetwork
from flare_runtime.backends.registry import running_bytes
from flare_runtime.compute.network import Network
from flare_runtime.model.bundle import Bundle
from flare_runtime.options import RunOptions
from flare_runtime.pipeline.gpu_memory import CaseSize, Placement
from flare_runtime.pipeline.host_memory import HostMemory, engine_bytes
from flare_runtime.pipeline.postprocessing import Postprocessing

# Decides which arrays of a case are on a GPU, None for the host; may refuse the case.
Place: TypeAlias = Callable[[CaseSize], Placement | None]


def postprocessing_of(bundle: Bundle, options: RunOptions) -> Postprocessing:
    """Return what is removed from masks."""
    return Postprocessing.of(bundle.manifest, options.keep_largest, options.min_volume_mm3)


def host_memory(bundle: Bundle, options: RunOptions) -> HostMemory:
    """Return the estimate of what cases take of the machine's memory beside their network."""
    return HostMemory(bundle.manifest, removes=bool(postprocessing_of(bundle, options)), maps=options.probabilities)


def host_memory_of(
    choice: Choice, network: "Future[Network]", previous: HostMemory | None = None, *, keeps_scan: bool = False
) -> HostMemory:
    """Return the estimate of what cases take together with a network that is being compiled.

    Args:
        choice: of the network.
        network: once it is compiled.
        previous: the same of a cascade's previous stage.
        keeps_scan: whether a case's scan stays in memory while the network runs.
    """
    manifest, folds = choice.bundle.manifest, choice.bundle.folds
    memory = replace(host_memory(choice.bundle, choice.options), previous=previous, keeps_scan=keeps_scan)
    if choice.on_gpu:
        return memory

    def compiling() -> int:
        own = 0 if network.done() else engine_bytes(manifest, folds)
        return own + (previous.compiling_bytes() if previous else 0)

    return replace(memory, network_bytes=running_bytes(choice), compiling_bytes=compiling)


def gpu_place(network: "Future[Network]") -> Place:
    """Return what places the arrays of cases beside a network on a GPU."""

    def place(size: CaseSize) -> Placement:
        compiled = network.result()
        assert isinstance(compiled, GpuNetwork)
        return compiled.budget.place(size)

    return place
