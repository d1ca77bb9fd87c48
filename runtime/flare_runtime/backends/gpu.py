"""The networks of all folds on a GPU: the memory that they may take there, and the memory that they took."""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from flare_runtime.backends.engine import Choice, Compile
from flare_runtime.backends.ensemble import joined
from flare_runtime.backends.gpu_key import GpuEngineKey
from flare_runtime.compute.arrays import FloatArray
from flare_runtime.compute.device import CudaDevice, Device
from flare_runtime.compute.network import Network
from flare_runtime.files.private_notes import PrivateNotes
from flare_runtime.pipeline.gpu_memory import CONTEXT_MIB, MIB, EngineMemory, GpuBudget, Placement


@dataclass(frozen=True)
class MeasuredMemory:
    """The memory that an engine took outside of the device's pool, in MiB, CUDA itself included."""

    outside_mib: int


class GpuNetwork:
    """The networks of all folds on one GPU.

    Attributes:
        backend, device, precision, batch: as of `Network`.
        budget: how the GPU's memory is shared out.
        beside_another: whether another stage's networks are on the GPU, so that nothing measured is of these alone.
    """

    def __init__(self, members: Sequence[Network], device: CudaDevice, budget: GpuBudget, key: GpuEngineKey) -> None:
        self._network = joined(members)
        self._device = device
        self._key = key
        self.backend, self.device = self._network.backend, self._network.device
        self.precision, self.batch = self._network.precision, self._network.batch
        self.budget = budget
        self.beside_another = False

    def run(self, tiles: FloatArray) -> FloatArray:
        """Return the mean of the folds' logits."""
        return self._network.run(tiles)

    def release(self) -> None:
        """Give back what only running needs, where the engine can."""
        self._network.release()

    def memory_mib(self, placement: Placement) -> dict[str, int]:
        """Return the GPU memory that a case was planned to take, and the most that this process has taken so far.

        Call it at the end of a case. It also notes the memory outside of the device's pool, which later runs take into
        account: CUDA loads its libraries' code when it is first used, so the first tile does not show all of it.
        """
        planned, measured = self.budget.total_bytes(placement), self._device.memory.note_peak()
        self._keep_measured()
        return {"planned": -(-planned // MIB), "measured": -(-measured // MIB)}

    def limit_memory(self) -> None:
        """Limit the device's pool to its part of the budget."""
        self._device.limit_memory(self.budget.pool_bytes)

    def _keep_measured(self) -> None:
        memory = self._device.memory
        if not memory.is_exact or self.beside_another:
            return
        notes = PrivateNotes("gpu")
        known = notes.find(self._key, MeasuredMemory)
        outside_mib = -(-memory.outside_bytes() // MIB)
        if known is None or known.outside_mib != outside_mib:
            notes.keep(self._key, MeasuredMemory(outside_mib))


def share_out(
    choice: Choice, device: CudaDevice, key: GpuEngineKey, outside_bytes: int, pool_bytes: int = 0
) -> GpuBudget:
    """Divide the allowed GPU memory between the networks and the arrays, and limit the device's pool to its part.

    Args:
        choice: its options hold how much memory is allowed.
        device: the GPU.
        key: of the note of an earlier run that measured what the networks take outside of the pool.
        outside_bytes: what they take outside of the pool, CUDA itself included, where there is no such note.
        pool_bytes: what they take from the pool.

    Raises:
        DeviceError: where nothing is left for the arrays.
    """
    bound_mib = choice.options.gpu_memory_mib
    note = PrivateNotes("gpu").find(key, MeasuredMemory)
    # A note of more than is allowed now is of a run that was allowed more, or shared its process with other programs.
    outside = note.outside_mib * MIB if note and note.outside_mib < bound_mib else outside_bytes
    budget = GpuBudget.sharing(bound_mib, EngineMemory(outside, pool_bytes), f"the network in {key.engine}")
    device.limit_memory(budget.pool_bytes)
    return budget


def compile_beside(
    compile_networks: Compile, opened: "Future[Device]", first: "Network | Future[Network] | None"
) -> Network:
    """Compile networks; on a GPU, a cascade's previous stage's stay there too, and both keep to the bound of one.

    Raises:
        DeviceError: where nothing is left for the arrays of a case.
    """
    before = first.result() if isinstance(first, Future) else first
    network = compile_networks(opened.result())
    if before is not None and isinstance(network, GpuNetwork):
        keep_together(before, network)
    return network


def keep_together(first: Network, second: GpuNetwork) -> None:
    """Let the networks of a cascade's two stages keep to the bound that the second was given alone."""
    assert isinstance(first, GpuNetwork)
    engines = [network.budget.engine for network in (first, second)]
    outside = sum(engine.outside_bytes for engine in engines) - CONTEXT_MIB * MIB  # CUDA is there once
    both = EngineMemory(outside, sum(engine.pool_bytes for engine in engines))
    bound_mib = (engines[1].total_bytes + second.budget.arrays_bytes) // MIB
    budget = GpuBudget.sharing(bound_mib, both, "the networks of both stages")
    for network in (first, second):
        network.budget, network.beside_another = budget, True
    second.limit_memory()
