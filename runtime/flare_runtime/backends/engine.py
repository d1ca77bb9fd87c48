"""The interface of an engine: what it computes in, whether it is installed, and how it compiles networks."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from math import prod
from typing import Literal, TypeAlias

from flare_runtime.compute.device import Device
from flare_runtime.compute.network import Network
from flare_runtime.errors import DeviceError
from flare_runtime.model.bundle import Bundle
from flare_runtime.model.manifest import BundleFile, Manifest
from flare_runtime.options import Precision, RunOptions

# Compiles networks for a device that has been opened.
Compile: TypeAlias = Callable[[Device], Network]


class AbsentEngineError(DeviceError):
    """The engine, or a file that it needs, is not on this machine; `auto` tries the next engine without a message."""


@dataclass(frozen=True)
class Choice:
    """The decision which engine runs a bundle's networks, where, and in which precision.

    Attributes:
        bundle: the model.
        options: what the caller asked for.
        device: `cpu` or `cuda:N`.
        backend: the name of an engine, or `auto` on a GPU, where engines are tried in turn once the GPU is open.
        precision: what the networks compute in.
        networks: the files that the engine reads, one per fold; with `auto` those of the engine that is tried last.
    """

    bundle: Bundle
    options: RunOptions
    device: str
    backend: str
    precision: Precision
    networks: tuple[BundleFile, ...]

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU runs them."""
        return self.device != "cpu"

    @property
    def previous_stage(self) -> "Choice | None":
        """The same for the model whose mask the network sees, whole as that comes out; None where there is none."""
        stage = self.bundle.previous_stage
        if stage is None:
            return None
        options = replace(self.options, keep_largest=None, min_volume_mm3=None, probabilities=None)
        networks = stage.networks(self.networks[0].precision or "fp32")
        return replace(self, bundle=stage, options=options, networks=tuple(networks))

    def read_networks(self) -> list[bytes]:
        """Read and check the networks.

        Raises:
            BundleError: where one is missing, was changed or is no network.
        """
        return [self.bundle.read_network(file) for file in self.networks]


@dataclass(frozen=True)
class Engine:
    """An engine on one kind of device.

    Attributes:
        name: what `--backend` calls it; on the CPU and on GPUs it may be the same.
        on_gpu: whether it runs on GPUs, else on the CPU.
        precisions: what it computes in.
        open: reads and checks what the engine needs of the bundle, and returns what compiles it. Either raises
            DeviceError, or AbsentEngineError where the engine is not installed.
        available: whether it seems to be installed, told without loading it.
        lower: the reduced precisions that `auto` may take, the best first.
        computes: whether this CPU computes in a precision, told without loading the engine.
        stored_in: the precision of the bundle's networks that it reads, where that is not its own.
        running_bytes: of an engine on the CPU, what one network takes while it runs in addition to its weights: four
            tensors of the first stage where an engine does not say. An engine of GPUs divides their memory itself.
    """

    name: str
    on_gpu: bool
    precisions: tuple[Precision, ...]
    open: Callable[[Choice], Compile]
    available: Callable[[], bool]
    lower: tuple[Precision, ...] = ()
    computes: Callable[[Precision], bool] = lambda _precision: True
    stored_in: Literal["fp32", "fp16"] | None = None
    running_bytes: Callable[[Manifest, Precision], int] = lambda manifest, _precision: first_stage_bytes(manifest, 16)

    def stored(self, precision: Precision) -> str:
        """Return the precision of the bundle's networks that are read to compute in another."""
        return self.stored_in or ("fp16" if precision == "fp16" else "fp32")


def first_stage_bytes(manifest: Manifest, each: int) -> int:
    """Return what the first stage's features over the patch take, where one of a voxel takes `each` bytes."""
    return each * manifest.network.features[0] * prod(manifest.patch)


def has_module(*names: str) -> bool:
    """Whether one of these modules can be found; it is not imported."""
    try:
        return any(find_spec(name) for name in names)
    except ValueError:  # one is in `sys.modules` without saying where it comes from
        return True


def has_package(name: str) -> bool:
    """Whether a distribution is installed."""
    from importlib.metadata import PackageNotFoundError, distribution  # slow to import, and of use on GPUs alone

    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
