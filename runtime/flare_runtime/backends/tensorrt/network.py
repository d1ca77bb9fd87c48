"""TensorRT on one GPU: an engine that was built and verified on this machine, with memory from CuPy's pool.

Importing this module raises DeviceError where neither TensorRT nor its lean runtime is installed.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from flare_runtime.backends.tensorrt.cache import CachedEngine, EngineCache, EngineKey
from flare_runtime.compute.arrays import FloatArray, Shape3
from flare_runtime.compute.device import CudaDevice
from flare_runtime.errors import DeviceError, LostDeviceError, install_hint
from flare_runtime.files.cache_folder import cache_folder
from flare_runtime.model.bundle import Bundle


def _load() -> ModuleType:
    problem = ""
    for name in ("tensorrt", "tensorrt_lean"):
        try:
            return import_module(name)
        except (ImportError, OSError) as error:  # also the bindings without the library they load
            problem = problem or str(error).partition("\n")[0]
    raise DeviceError(
        f"TensorRT is not installed ({problem}); {install_hint('tensorrt')}, or tensorrt-lean-cu13, which runs "
        "version-compatible engines but builds none"
    )


if TYPE_CHECKING:
    import tensorrt as trt
else:
    trt = _load()

LEAN = trt.__name__ == "tensorrt_lean"
VERSION = str(vars(trt)["__version__"])
CACHE_NAME = "tensorrt"
# What TensorRT asks of every address.
_ALIGNMENT = 256
_UNUSABLE: list[object] = []

_T = TypeVar("_T")


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
    return EngineKey(onnx_sha256, VERSION, device.gpu_name, device.compute_capability, patch, batch, version_compatible)


def find_engines(
    onnx_sha256: Sequence[str],
    device: CudaDevice,
    patch: Shape3,
    *,
    memory_bytes: int | None = None,
    tell: Callable[[str], None] = lambda _line: None,
) -> list[CachedEngine]:
    """Return one engine for each network, all of the largest batch there is, or none; nothing is ever built here.

    Args:
        onnx_sha256: of the bundle's float16 networks, one per fold.
        device: the GPU.
        patch: the networks' input size, (z, y, x).
        memory_bytes: what the engines may take together to run, beside their weights.
        tell: is told in one line each why something was not taken.
    """
    folder = cache_folder(CACHE_NAME)
    if folder is None:
        tell("there is no private cache folder, so no TensorRT engine")
        return []
    wanted = [engine_key(digest, device, patch, 1) for digest in onnx_sha256]
    return EngineCache(folder, tell).find_runnable(wanted, lean=LEAN, memory_bytes=memory_bytes)


def find_networks(
    bundle: Bundle,
    device: CudaDevice,
    *,
    memory_bytes: int | None = None,
    tell: Callable[[str], None] = lambda _line: None,
) -> list["TensorRTNetwork"]:
    """Load the engines of a bundle's float16 networks, one per fold, or none; see `find_engines`.

    Raises:
        DeviceError: where TensorRT does not take an engine that was built for it.
    """
    digests = [file.sha256 for file in bundle.networks("fp16")]
    engines = find_engines(digests, device, bundle.manifest.patch, memory_bytes=memory_bytes, tell=tell)
    return [TensorRTNetwork(found.engine, device, version_compatible=found.key.version_compatible) for found in engines]


class Log(trt.ILogger):
    """TensorRT's errors: its calls only return None, or an object that must not be touched.

    Attributes:
        errors: in one line each, the latest last.
    """

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.errors: list[str] = []

    def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
        """Keep an error; TensorRT calls this, from any thread."""
        if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
            self.errors.append(msg.partition("\n")[0])

    def failure(self, what: str) -> DeviceError:
        """Return the error that says what TensorRT did not do, and why."""
        return DeviceError(f"TensorRT {VERSION} {what}: {'; '.join(self.errors[-2:]) or 'it does not say why'}")

    def given(self, result: _T | None, what: str) -> _T:
        """Return what TensorRT returned.

        Raises:
            DeviceError: where that is None, which the stubs do not tell of.
        """
        if result is None:
            raise self.failure(what)
        return result

    def made(self, make: Callable[["Log"], _T], what: str) -> _T:
        """Return `make(self)`: TensorRT's runtime or builder.

        Raises:
            DeviceError: where TensorRT complained, as it does of a driver too old for it.
        """
        result = make(self)
        if self.errors:
            # An object around nothing: to use it, or only to delete it, ends the process.
            _UNUSABLE.append(result)
            raise self.failure(what)
        return result


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
            self._runtime = self._log.made(trt.Runtime, f"cannot use {device.name}")
            # A version-compatible engine brings its own runtime, which is code.
            self._runtime.engine_host_code_allowed = version_compatible
            self._engine = self._log.given(self._runtime.deserialize_cuda_engine(engine), "does not take the engine")
            self._context = self._log.given(
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
