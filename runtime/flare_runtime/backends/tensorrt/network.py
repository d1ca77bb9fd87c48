"""TensorRT on one GPU: engines that were built for it and agree with float32, with memory from the device's pool."""

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flare_runtime.backends.engine import AbsentEngineError, Choice, Compile
from flare_runtime.backends.first_use import FirstUse
from flare_runtime.backends.gpu import GpuNetwork, share_out
from flare_runtime.backends.gpu_key import GpuEngineKey
from flare_runtime.backends.tensorrt.cache import CachedEngine, EngineCache, EngineInspection, EngineKey
from flare_runtime.backends.tensorrt.kernels import KernelCache
from flare_runtime.backends.tensorrt.library import Log, Package
from flare_runtime.backends.tensorrt.targets import target_of, why_not
from flare_runtime.compute.arrays import FloatArray
from flare_runtime.compute.device import CudaDevice, Device, as_gpu
from flare_runtime.compute.network import Network
from flare_runtime.errors import DeviceError, LostDeviceError
from flare_runtime.files.cache_folder import cache_folder
from flare_runtime.model.bundle import Bundle
from flare_runtime.pipeline.gpu_memory import CONTEXT_MIB, MIB

if TYPE_CHECKING:
    import tensorrt as trt

CACHE_NAME = "tensorrt"
# What TensorRT asks of every address.
_ALIGNMENT = 256


def find_engines(
    package: Package,
    bundle: Bundle,
    device: CudaDevice,
    *,
    memory_bytes: int | None = None,
    report: Callable[[str], None] = lambda _line: None,
) -> list[CachedEngine]:
    """Return one engine for each of a bundle's float16 networks, all of the largest batch there is, or none.

    Nothing is ever built here.

    Args:
        package: that is to run them.
        bundle: the model.
        device: the GPU.
        memory_bytes: what the engines may take together to run, beside their weights.
        report: is called with a line for everything that was not taken, and why.
    """
    folder = cache_folder(CACHE_NAME)
    if folder is None:
        report(f"there is no private cache folder, so no {package.title} engine")
        return []
    card = (device.gpu_name, device.compute_capability)
    digests = [file.sha256 for file in bundle.networks("fp16")]
    wanted = [EngineKey.of(package, digest, card, bundle.manifest.patch, 1) for digest in digests]
    return EngineCache(folder, report).find_runnable(wanted, lean=package.is_lean(), memory_bytes=memory_bytes)


def load_engine(package: Package, found: CachedEngine, device: CudaDevice) -> "TensorRTNetwork":
    """Return an engine of the cache, ready to run; the kernels of a portable one are kept beside it.

    Raises:
        DeviceError: where TensorRT does not take an engine that was built for it.
    """
    kernels = None
    if package.portable:
        card = hashlib.sha256(device.gpu_name.encode()).hexdigest()[:8]
        kernels = KernelCache(found.path.with_name(f"{found.key.name}-{card}.kernels"))
    compatible = found.key.version_compatible
    return TensorRTNetwork(package, found.engine, device, version_compatible=compatible, kernels=kernels)


def open_networks(choice: Choice, package: Package) -> Compile:
    """Return what loads the engines that were built for this machine, or for every GPU of its kind.

    The former were compared with float32 when they were built, the latter are at their first use.
    """

    def compiled(device: Device) -> Network:
        gpu, bundle = as_gpu(device), choice.bundle
        found = _find(choice, package, gpu)
        version = package.version()
        if package.portable:  # another file under the same name has not been compared
            version += "".join(f", {hashlib.sha256(engine.engine).hexdigest()}" for engine in found)
        key = GpuEngineKey.of(bundle, gpu, package.name, version, "fp16", found[0].key.batch)

        def load() -> GpuNetwork:
            try:
                engines = [load_engine(package, engine, gpu) for engine in found]
            except LostDeviceError:
                raise
            except DeviceError as error:
                raise _nothing(choice, package, gpu, str(error)) from error
            weights = sum(_weights_bytes(engine, bundle) for engine in found)
            pool = sum(engine.memory_bytes for engine in engines)
            budget = share_out(choice, gpu, key, CONTEXT_MIB * MIB + weights, pool)
            return GpuNetwork(engines, gpu, budget, key)

        if not package.portable:
            return load()
        first_use = FirstUse(bundle, key, required=choice.backend == key.engine)
        with first_use.watched(gpu):
            network = load()
            first_use.compare(network, gpu)
        return network

    return compiled


def _find(choice: Choice, package: Package, gpu: CudaDevice) -> list[CachedEngine]:
    """Return the engines to run, or raise an error that says why there are none and how to build some."""
    package.load()
    target = target_of(gpu.compute_capability)
    if package.portable and why_not(target):
        raise AbsentEngineError(f"{why_not(target)}; use another backend on {gpu.gpu_name}")
    room = (choice.options.gpu_memory_mib - CONTEXT_MIB) * MIB // 2
    notes: list[str] = []
    engines = find_engines(package, choice.bundle, gpu, memory_bytes=room, report=notes.append)
    if not engines:
        raise _nothing(choice, package, gpu, "; ".join(notes))
    return engines


def _weights_bytes(engine: CachedEngine, bundle: Bundle) -> int:
    if isinstance(engine.record, EngineInspection):
        return engine.record.weights_bytes
    return 2 * bundle.manifest.network.parameters


def _nothing(choice: Choice, package: Package, gpu: CudaDevice, why: str) -> DeviceError:
    bundle = choice.bundle.path
    problem = DeviceError if why else AbsentEngineError
    return problem(
        f"no {package.title} engine of {bundle.name} for {gpu.gpu_name} can be used{': ' if why else ''}{why}; build "
        f"one: flare-export trt {bundle}{' --builder rtx' if package.portable else ''}"
    )


class TensorRTNetwork:
    """One engine, ready to run on a GPU.

    Attributes:
        backend: the name of the package that runs it.
        device: `cuda:N`.
        batch: the most tiles that `run` takes.
        memory_bytes: what a run takes from CuPy's pool beside the tiles and the logits.

    Args:
        package: that built it.
        engine: of a `CachedEngine`, or just built: native code that must come from nowhere else.
        device: the GPU that it was built for.
        version_compatible: whether it was built so.
        kernels: where those that are compiled for this GPU are kept; of a portable engine alone.

    Raises:
        DeviceError: where TensorRT does not take the engine.
    """

    precision = "fp16"

    def __init__(
        self,
        package: Package,
        engine: bytes,
        device: CudaDevice,
        *,
        version_compatible: bool = False,
        kernels: KernelCache | None = None,
    ) -> None:
        if TYPE_CHECKING:
            import tensorrt as trt
        else:
            trt = package.load()
        self.backend: str = package.name
        self.device = device.name
        self._device = device
        self._log = Log(package)
        self._json = trt.LayerInformationFormat.JSON
        self._kernels = kernels
        with device.active():
            self._runtime = self._log.create(trt.Runtime, f"cannot use {device.name}")
            # A version-compatible engine brings its own runtime, which is code.
            self._runtime.engine_host_code_allowed = version_compatible
            self._engine = self._log.require(self._runtime.deserialize_cuda_engine(engine), "does not take the engine")
            self._context = self._create_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        modes = {self._engine.get_tensor_mode(name): name for name in names}
        self._input, self._output = modes[trt.TensorIOMode.INPUT], modes[trt.TensorIOMode.OUTPUT]
        self._input_shape, self._output_shape = self._shape(self._input), self._shape(self._output)
        self.batch = self._input_shape[0]
        self.memory_bytes = int(self._engine.device_memory_size_v2)
        self._memory: Any = None
        self._tiles: Any = None
        self._logits: Any = None

    def _create_context(self, strategy: "trt.ExecutionContextAllocationStrategy") -> "trt.IExecutionContext":
        if self._kernels is None:
            context = self._engine.create_execution_context(strategy)
        else:
            config = self._engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(strategy)
            self._kernels.attach(config)
            context = self._engine.create_execution_context(config)
        return self._log.require(context, "cannot run the engine")

    def run(self, tiles: FloatArray) -> FloatArray:
        """Return the logits (n, outputs, z, y, x) of `tiles` (n, channels, z, y, x) with n up to `batch`.

        Both are float32 CuPy arrays; the logits are overwritten by the next call. The device has to be active, and
        the work is only queued on its stream.

        Raises:
            ValueError: for tiles of another shape.
            MemoryError: CuPy's, where its pool does not give what the engine needs.
            LostDeviceError: where TensorRT cannot run.
        """
        count = len(tiles)
        if tiles.shape[1:] != self._input_shape[1:] or not 1 <= count <= self.batch:
            raise ValueError(f"the engine takes up to {self.batch} tiles of {self._input_shape[1:]}, not {tiles.shape}")
        if self._logits is None:
            self._take_memory()
        tiles = self._whole_batch(tiles)
        self._context.set_tensor_address(self._input, tiles.data.ptr)  # type: ignore[attr-defined]
        if not self._context.execute_async_v3(self._device.stream.ptr):
            raise LostDeviceError(str(self._log.failure(f"could not run {count} tile(s) on {self.device}")))
        if self._kernels:  # all are compiled now
            self._kernels.keep()
            self._kernels = None
        logits: FloatArray = self._logits[:count]
        return logits

    def release(self) -> None:
        """Give back to CuPy's pool what only running needs; the next run takes it again."""
        self._memory = self._tiles = self._logits = None

    def layer_information(self) -> str:
        """Return TensorRT's own description of the engine's layers, as JSON; of some engines it has none."""
        inspector = self._engine.create_engine_inspector()
        return str(inspector.get_engine_information(self._json)) if inspector else ""

    def _take_memory(self) -> None:
        xp = self._device.xp
        self.release()  # what a run that found too little memory left
        self._memory = xp.cuda.alloc(max(self.memory_bytes, 1))
        self._logits = xp.empty(self._output_shape, "float32")
        self._context.set_device_memory(self._memory.ptr, self.memory_bytes)
        self._context.set_tensor_address(self._output, self._logits.data.ptr)

    def _whole_batch(self, tiles: FloatArray) -> FloatArray:
        """Return the tiles where TensorRT can read them: as many as the engine takes, without gaps, aligned."""
        xp, count = self._device.xp, len(tiles)
        whole: FloatArray = xp.ascontiguousarray(tiles, "float32")
        if count == self.batch and whole.data.ptr % _ALIGNMENT == 0:  # type: ignore[attr-defined]
            return whole
        if self._tiles is None:
            self._tiles = xp.zeros(self._input_shape, "float32")
        self._tiles[:count] = whole
        padded: FloatArray = self._tiles
        return padded

    def _shape(self, name: str) -> tuple[int, ...]:
        shape = self._engine.get_tensor_shape(name)
        return tuple(shape[axis] for axis in range(len(shape)))
