"""The key under which notes of an engine on a GPU are kept: everything that its results and its memory depend on."""

from dataclasses import dataclass

from flare_runtime import __version__
from flare_runtime.compute.arrays import Shape3
from flare_runtime.compute.device import CudaDevice
from flare_runtime.model.bundle import Bundle


@dataclass(frozen=True)
class GpuEngineKey:
    """Everything that notes of an engine on a GPU depend on.

    Attributes:
        engine: its name.
        version: of the engine and of its libraries, as far as they tell.
        precision: it computes in.
        networks: the SHA-256 of each fold's float32 network.
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
    def of(
        cls, bundle: Bundle, device: CudaDevice, engine: str, engine_version: str, precision: str, batch: int = 1
    ) -> "GpuEngineKey":
        """Return the key of an engine that runs a bundle's networks on a device."""
        networks = tuple(file.sha256 for file in bundle.networks("fp32"))
        libraries = f"{engine_version}, CuPy {device.xp.__version__}, cuDNN {_version('nvidia-cudnn-cu13')}"
        gpu = (device.gpu_name, device.compute_capability, device.driver)
        return cls(engine, libraries, precision, networks, bundle.manifest.patch, batch, *gpu)


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version  # slow to import, and of use on GPUs alone

    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
