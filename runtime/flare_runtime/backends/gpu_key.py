"""Everything that decides what an engine does on a GPU, and how much memory it takes there."""

from dataclasses import dataclass

from flare_runtime import __version__
from flare_runtime.compute.arrays import Shape3
from flare_runtime.compute.device import CudaDevice


@dataclass(frozen=True)
class GpuEngineKey:
    """What notes of an engine on a GPU depend on.

    Attributes:
        engine: one of the backends.
        version: of the engine, its libraries included as far as they tell.
        precision: it computes in.
        networks: the SHA-256 of each fold's network.
        patch: the networks' input size, (z, y, x).
        batch: the number of tiles it takes at once.
        gpu, compute_capability, driver: as the device has them.
        flare_lite: the version of this package.
    """

    engine: str
    version: str
    precision: str
    networks: tuple[str, ...]
    patch: Shape3
    batch: int
    gpu: str
    compute_capability: str
    driver: int
    flare_lite: str = __version__

    @classmethod
    def on(
        cls,
        device: CudaDevice,
        engine: str,
        version: str,
        precision: str,
        networks: tuple[str, ...],
        patch: Shape3,
        batch: int = 1,
    ) -> "GpuEngineKey":
        """Return the key of an engine on a device."""
        gpu = (device.gpu_name, device.compute_capability, device.driver)
        return cls(engine, version, precision, networks, patch, batch, *gpu)
