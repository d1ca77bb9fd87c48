"""TensorRT on one GPU: an engine that was built and verified on this machine, with memory from the device's pool."""

from collections.abc import Callable, Sequence
from typing import Any

from flare_runtime.backends.engine import AbsentEngineError, Choice, Compile
from flare_runtime.backends.gpu import GpuNetwork, share_out
from flare_runtime.backends.gpu_key import GpuEngineKey
from flare_runtime.backends.tensorrt.cache import CachedEngine, EngineCache, EngineKey
from flare_runtime.backends.tensorrt.library import Log, is_lean, load, trt, version
from flare_runtime.compute.arrays import FloatArray, Shape3
from flare_runtime.compute.device import CudaDevice, Device, as_gpu
from flare_runtime.compute.network import Network
from flare_runtime.errors import DeviceError, LostDeviceError
from flare_runtime.files.cache_folder import cache_folder
from flare_runtime.model.bundle import Bundle
from flare_runtime.pipeline.gpu_memory import CONTEXT_MIB, MIB

CACHE_NAME = "tensorrt"
# What TensorRT asks of every address.
_ALIGNMENT = 256


def engine_key(
    onnx_sha256: str, device: CudaDevice, patch: Shape3, batch: int, *, version_compatible: bool = False
) -> EngineKey:
    """Return the key of an engine that this machine's TensorRT builds.

    Args:
        onnx_sha256: of the bundle's float16 network.
        device: the GPU.
        patch: the network's input size, (z, y, x).
        batch: the number of tiles it takes at once.
        version_compatible: whether later versions and the lean runtime can run it.
    """
    gpu = (device.gpu_name, device.compute_capability)
    return EngineKey(onnx_sha256, version(), *gpu, patch, batch, version_compatible)


def find_engines(
    onnx_sha256: Sequence[str],
    device: CudaDevice,
    patch: Shape3,
    *,
    memory_bytes: int | None = None,
    report: Callable[[str], None] = lambda _line: None,
) -> list[CachedEngine]:
    """Return one engine for each network, all of the largest batch there is, or none; nothing is ever built here.

    Args:
        onnx_sha256: of the bundle's float16 networks, one per fold.
        device: the GPU.
        patch: the networks' input size, (z, y, x).
        memory_bytes: what the engines may take together to run, beside their weights.
        report: is called with a line for everything that was not taken, and why.
    """
    folder = cache_folder(CACHE_NAME)
    if folder is None:
        report("there is no private cache folder, so no TensorRT engine")
        return []
    wanted = [engine_key(digest, device, patch, 1) for digest in onnx_sha256]
    return EngineCache(folder, report).find_runnable(wanted, lean=is_lean(), memory_bytes=memory_bytes)


def find_networks(
    bundle: Bundle,
    device: CudaDevice,
    *,
    memory_bytes: int | None = None,
    report: Callable[[str], None] = lambda _line: None,
) -> list["TensorRTNetwork"]:
    """Load the engines of a bundle's float16 networks, one per fold, or none; see `find_engines`.

    Raises:
        DeviceError: where TensorRT does not take an engine that was built for it.
    """
    digests = [file.sha256 for file in bundle.networks("fp16")]
    engines = find_engines(digests, device, bundle.manifest.patch, memory_bytes=memory_bytes, report=report)
    return [TensorRTNetwork(found.engine, device, version_compatible=found.key.version_compatible) for found in engines]


def open_networks(choice: Choice) -> Compile:
    """Return what loads the engines that were built for this machine."""

    def compiled(device: Device) -> Network:
        gpu, bundle, notes = as_gpu(device), choice.bundle, list[str]()
        load()
        room = (choice.options.gpu_memory_mib - CONTEXT_MIB) * MIB // 2
        try:
            engines = find_networks(bundle, gpu, memory_bytes=room, report=notes.append)
        except DeviceError as error:
            engines = []
            notes.append(str(error))
        if not engines:
            why = "; ".join(notes)
            problem = DeviceError if why else AbsentEngineError
            raise problem(
                f"no TensorRT engine of {bundle.path.name} for {gpu.gpu_name} can be used{': ' if why else ''}{why}"
                f"; build one: flare-export trt {bundle.path}"
            )
        key = GpuEngineKey.of(bundle, gpu, "tensorrt", version(), "fp16", engines[0].batch)
        weights = 2 * bundle.manifest.network.parameters * len(engines)
        pool = sum(engine.memory_bytes for engine in engines)
        budget = share_out(choice, gpu, key, CONTEXT_MIB * MIB + weights, pool)
        return GpuNetwork(engines, gpu, budget, key)

    return compiled


class TensorRTNetwork:
    """One engine, ready to run on a GPU.

    Attributes:
        device: `cuda:N`.
        batch: the most tiles that `run` takes.
        memory_bytes: what a run takes from CuPy's pool beside the tiles and the logits.

    Args:
        engine: of a `CachedEngine`, or just built: native code that must come from nowhere else.
        device: the GPU that it was built for.
        version_compatible: whether it was built so.

    Raises:
        DeviceError: where TensorRT does not take the engine.
    """

    backend = "tensorrt"
    precision = "fp16"

    def __init__(self, engine: bytes, device: CudaDevice, *, version_compatible: bool = False) -> None:
        self.device = device.name
        self._device = device
        self._log = Log()
        with device.active():
            self._runtime = self._log.create(trt.Runtime, f"cannot use {device.name}")
            # A version-compatible engine brings its own runtime, which is code.
            self._runtime.engine_host_code_allowed = version_compatible
            self._engine = self._log.require(self._runtime.deserialize_cuda_engine(engine), "does not take the engine")
            self._context = self._log.require(
                self._engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED),
                "cannot run the engine",
            )
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        modes = {self._engine.get_tensor_mode(name): name for name in names}
        self._input, self._output = modes[trt.TensorIOMode.INPUT], modes[trt.TensorIOMode.OUTPUT]
        self._input_shape, self._output_shape = self._shape(self._input), self._shape(self._output)
        self.batch = self._input_shape[0]
        self.memory_bytes = int(self._engine.device_memory_size_v2)
        self._memory: Any = None
        self._tiles: Any = None
        self._logits: Any = None

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
        logits: FloatArray = self._logits[:count]
        return logits

    def release(self) -> None:
        """Give back to CuPy's pool what only running needs; the next run takes it again."""
        self._memory = self._tiles = self._logits = None

    def layer_information(self) -> str:
        """Return TensorRT's own description of the engine's layers, as JSON; of some engines it has none."""
        inspector = self._engine.create_engine_inspector()
        return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON)) if inspector else ""

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
