"""The engines of a GPU: which of them runs a bundle's networks, in how much memory, and how much it really takes."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version

from flare_runtime.backends.gpu_key import GpuEngineKey
from flare_runtime.backends.selection import Choice
from flare_runtime.compute.arrays import FloatArray
from flare_runtime.compute.device import CudaDevice
from flare_runtime.compute.network import Ensemble, Network
from flare_runtime.errors import DeviceError, GpuMemoryError, LostDeviceError
from flare_runtime.files.private_notes import PrivateNotes
from flare_runtime.model.bundle import Bundle
from flare_runtime.pipeline.gpu_memory import CONTEXT_MIB, MIB, EngineMemory, GpuBudget, MemoryPlan, onnxruntime_bytes

_LOG = logging.getLogger(__name__)
# CUDA's share at the least: what ONNX Runtime's arena may take is not cut short by it.
_SMALL_CONTEXT_MIB = 300
# What cudnn takes of CuPy's pool beside its block and weights: the norms' sums and factors, a workspace.
_SMALL_ARRAYS_BYTES = 16 * MIB


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
        self._network = members[0] if len(members) == 1 else Ensemble(list(members))
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


def open_on_gpu(
    bundle: Bundle, choice: Choice, models: Sequence[bytes], device: CudaDevice, gpu_memory_mib: int
) -> GpuNetwork:
    """Compile a bundle's networks for a GPU.

    With `auto` in float16 that is TensorRT where engines were built for this machine, else cudnn where it was found to
    compute what float32 does, else ONNX Runtime.

    Args:
        bundle: where the networks come from.
        choice: of `choose`.
        models: the networks in the choice's precision.
        device: the GPU.
        gpu_memory_mib: the bound of what is taken of its memory.

    Raises:
        DeviceError: where an engine that was asked for cannot be used, or none fits into the memory.
    """
    faster: dict[str, Callable[[], GpuNetwork | None]] = {
        "tensorrt": partial(_tensorrt, bundle, choice, device, gpu_memory_mib),
        "cudnn": partial(_cudnn, bundle, choice, device, gpu_memory_mib),
    }
    if choice.backend in faster:
        network = faster[choice.backend]()
        assert network is not None
        return network
    for name, find in faster.items():
        if choice.backend != "auto" or choice.precision != "fp16":
            break
        try:
            if found := find():
                return found
        except LostDeviceError:  # nothing works in this process any more
            raise
        except (DeviceError, GpuMemoryError) as error:
            _LOG.warning("%s is left for another engine: %s", name, error)
        device.release()
    return _onnxruntime(bundle, choice, models, device, gpu_memory_mib)


def _onnxruntime(
    bundle: Bundle, choice: Choice, models: Sequence[bytes], device: CudaDevice, gpu_memory_mib: int
) -> GpuNetwork:
    from flare_runtime.backends.onnxruntime_cuda import VERSION, OnnxRuntimeCudaNetwork

    key = _key(bundle, device, "onnxruntime", VERSION, choice.precision)
    estimate = CONTEXT_MIB * MIB + len(models) * onnxruntime_bytes(bundle.manifest, choice.precision)
    # An estimate may be short; half of all is left to the arena then.
    outside = _measured(key, gpu_memory_mib) or max(estimate, gpu_memory_mib * MIB // 2)
    budget = GpuBudget.sharing(gpu_memory_mib, EngineMemory(outside), f"the network in {choice.precision}")
    device.limit_memory(budget.pool_bytes)
    share = (outside - _SMALL_CONTEXT_MIB * MIB) // len(models)
    members = [OnnxRuntimeCudaNetwork(model, choice.stored, bundle.manifest, device, share) for model in models]
    return GpuNetwork(members, device, budget, key)


def _cudnn(bundle: Bundle, choice: Choice, device: CudaDevice, gpu_memory_mib: int) -> GpuNetwork | None:
    """Return cudnn's networks, or None where `auto` finds it not installed."""
    from flare_runtime.backends.cudnn.check import CudnnCheck
    from flare_runtime.backends.cudnn.plan import plan_memory
    from flare_runtime.backends.cudnn.steps import read_steps
    from flare_runtime.model.onnx_graph import read_graph

    try:
        from flare_runtime.backends.cudnn.network import VERSION, CudnnNetwork, CudnnRuntime
    except DeviceError:
        if choice.backend == "cudnn":
            raise
        return None
    plans = [plan_memory(read_steps(read_graph(bundle.read_network(file)))) for file in bundle.networks("fp32")]
    key = _key(bundle, device, "cudnn", VERSION, "fp16")
    block = max(plan.block_bytes for plan in plans)
    pool = block + sum(plan.weights_bytes for plan in plans) + _SMALL_ARRAYS_BYTES
    memory = EngineMemory(_measured(key, gpu_memory_mib) or CONTEXT_MIB * MIB, pool)
    budget = GpuBudget.sharing(gpu_memory_mib, memory, "the network in cudnn")
    device.limit_memory(budget.pool_bytes)
    check = CudnnCheck(bundle, key, required=choice.backend == "cudnn")
    with device.active():
        try:
            runtime = CudnnRuntime(device, plans[0].logits[0], block)
            network = GpuNetwork([CudnnNetwork(plan, runtime) for plan in plans], device, budget, key)
            check.run(network, device)
        except LostDeviceError:
            raise
        except BaseException:  # such as too little memory; only what costs the process or its device speaks of cudnn
            check.withdraw()
            raise
    return network


def _tensorrt(bundle: Bundle, choice: Choice, device: CudaDevice, gpu_memory_mib: int) -> GpuNetwork | None:
    """Return the TensorRT engines that were built for this machine, or None where `auto` finds none."""
    try:
        from flare_runtime.backends.tensorrt.network import VERSION, find_networks
    except DeviceError:
        if choice.backend == "tensorrt":
            raise
        return None
    notes: list[str] = []
    room = (gpu_memory_mib - CONTEXT_MIB) * MIB // 2
    try:
        engines = find_networks(bundle, device, memory_bytes=room, tell=notes.append)
    except DeviceError as error:
        engines = []
        notes.append(str(error))
    if not engines:
        why = "; ".join(notes)
        if choice.backend == "tensorrt":
            raise DeviceError(
                f"no TensorRT engine of {bundle.path.name} for {device.gpu_name} can be used{': ' if why else ''}{why}"
                f"; build one: flare-export trt {bundle.path}"
            )
        if why:
            raise DeviceError(why)
        return None
    key = _key(bundle, device, "tensorrt", VERSION, "fp16", engines[0].batch)
    weights = 2 * bundle.manifest.network.parameters * len(engines)
    outside = _measured(key, gpu_memory_mib) or CONTEXT_MIB * MIB + weights
    memory = EngineMemory(outside, sum(engine.memory_bytes for engine in engines))
    budget = GpuBudget.sharing(gpu_memory_mib, memory, "the network in TensorRT")
    device.limit_memory(budget.pool_bytes)
    return GpuNetwork(engines, device, budget, key)


def _key(
    bundle: Bundle, device: CudaDevice, engine: str, engine_version: str, precision: str, batch: int = 1
) -> GpuEngineKey:
    networks = tuple(file.sha256 for file in bundle.networks("fp32"))
    libraries = f"{engine_version}, CuPy {device.xp.__version__}, cuDNN {_version('nvidia-cudnn-cu13')}"
    return GpuEngineKey.on(device, engine, libraries, precision, networks, bundle.manifest.patch, batch)


def _measured(key: GpuEngineKey, gpu_memory_mib: int) -> int | None:
    """Return what the engine took outside of CuPy's pool at its last run, in bytes.

    None where it took more than there is to be now: it may have, as another program in its process did, or a larger
    bound allowed it to.
    """
    note = PrivateNotes("gpu").find(key, MeasuredMemory)
    return note.outside_mib * MIB if note and note.outside_mib < gpu_memory_mib else None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
