"""The networks of all folds on a GPU: the memory they may take there, and how much they really take."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from flare_runtime.backends.engine import Choice
from flare_runtime.backends.ensemble import joined
from flare_runtime.backends.gpu_key import GpuEngineKey
from flare_runtime.compute.arrays import FloatArray
from flare_runtime.compute.device import CudaDevice
from flare_runtime.compute.network import Network
from flare_runtime.files.private_notes import PrivateNotes
from flare_runtime.model.bundle import Bundle
from flare_runtime.pipeline.gpu_memory import MIB, EngineMemory, GpuBudget, MemoryPlan


@dataclass(frozen=True)
class MeasuredMemory:
    """What an engine took of a GPU's memory outside of CuPy's pool, MiB, CUDA itself included."""

    outside_mib: int


class GpuNetwork:
    """The networks of all folds on one GPU.

    Attributes:
        backend, device, precision, batch: as of `Network`.
        budget: how the GPU's memory is shared out.
    """

    def __init__(self, members: Sequence[Network], device: CudaDevice, budget: GpuBudget, key: GpuEngineKey) -> None:
        self._network = joined(members)
        self._device = device
        self._key = key
        self.backend, self.device = self._network.backend, self._network.device
        self.precision, self.batch = self._network.precision, self._network.batch
        self.budget = budget

    def run(self, tiles: FloatArray) -> FloatArray:
        """Return the mean of the folds' logits."""
        return self._network.run(tiles)

    def release(self) -> None:
        """Give back what only running needs, where the engine can."""
        self._network.release()

    def memory_mib(self, plan: MemoryPlan) -> dict[str, int]:
        """Return what a case was planned to take of the GPU's memory, and the most this process has taken so far.

        It has to be asked at the end of a case. What was taken outside of CuPy's pool is kept, for later runs to plan
        with: CUDA loads its libraries' code when it is first used, so the first tile does not show all of it.
        """
        planned, measured = self.budget.planned_bytes(plan), self._device.memory.note_peak()
        self._keep_measured()
        return {"planned": -(-planned // MIB), "measured": -(-measured // MIB)}

    def _keep_measured(self) -> None:
        memory = self._device.memory
        if not memory.is_exact:
            return
        notes = PrivateNotes("gpu")
        known = notes.find(self._key, MeasuredMemory)
        outside_mib = -(-memory.outside_bytes() // MIB)
        if known is None or known.outside_mib != outside_mib:
            notes.keep(self._key, MeasuredMemory(outside_mib))


def share_out(
    choice: Choice, device: CudaDevice, key: GpuEngineKey, outside_bytes: int, pool_bytes: int = 0
) -> GpuBudget:
    """Share the bound of a GPU's memory out between the networks and the arrays, and hold CuPy's pool to its part.

    Args:
        choice: whose options have the bound.
        device: the GPU.
        key: under which an earlier run has noted what the networks took.
        outside_bytes: what they are expected to take outside of CuPy's pool, CUDA itself included, where none has.
        pool_bytes: what they take from the pool.

    Raises:
        DeviceError: where nothing is left for the arrays.
    """
    bound_mib = choice.options.gpu_memory_mib
    note = PrivateNotes("gpu").find(key, MeasuredMemory)
    # Where it took more than there is to be now, a larger bound allowed it to, or another program in its process did.
    outside = note.outside_mib * MIB if note and note.outside_mib < bound_mib else outside_bytes
    budget = GpuBudget.sharing(bound_mib, EngineMemory(outside, pool_bytes), f"the network in {key.engine}")
    device.limit_memory(budget.pool_bytes)
    return budget


def key_of(
    bundle: Bundle, device: CudaDevice, engine: str, engine_version: str, precision: str, batch: int = 1
) -> GpuEngineKey:
    """Return the key of what is noted of an engine that runs a bundle's networks."""
    networks = tuple(file.sha256 for file in bundle.networks("fp32"))
    libraries = f"{engine_version}, CuPy {device.xp.__version__}, cuDNN {_version('nvidia-cudnn-cu13')}"
    return GpuEngineKey.on(device, engine, libraries, precision, networks, bundle.manifest.patch, batch)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
