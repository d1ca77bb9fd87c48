"""TensorRT's builder: a float16 network becomes an engine, and on its GPU one that is ready to be verified."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flare_export.engine.precision import Layer, check_layers, is_convolution, kind_of
from flare_export.errors import ModelError
from flare_export.graph.batched_graph import with_batch
from flare_runtime.backends.tensorrt.library import TENSORRT, Log, Package
from flare_runtime.backends.tensorrt.network import TensorRTNetwork
from flare_runtime.compute.arrays import FloatArray
from flare_runtime.compute.device import CudaDevice
from flare_runtime.files.cache_folder import read_private, write_private

if TYPE_CHECKING:
    import tensorrt as trt


@dataclass(frozen=True)
class BuildOptions:
    """How engines are built.

    Attributes:
        workspace_mib: bounds the scratch memory of a layer; None leaves it to TensorRT.
        version_compatible: whether later versions of one major version, and the lean runtime, can run the engine.
        timing_cache: the file of the timings of earlier builds on this GPU; None keeps none.
        target: of a portable engine, such as `sm89`; others are for the GPU that builds them.
    """

    workspace_mib: int | None = None
    version_compatible: bool = False
    timing_cache: Path | None = None
    target: str | None = None


@dataclass(frozen=True)
class SerializedEngine:
    """An engine's bytes, and what the builder of a portable one said meanwhile, as it is the only one to know."""

    engine: bytes
    details: tuple[str, ...]


def timings_name(device: CudaDevice) -> str:
    """Return the name of the file of a GPU's timings."""
    return re.sub(r"[^0-9A-Za-z.]+", "-", f"{device.gpu_name} {TENSORRT.version()}.timings")


class LoadedEngine:
    """An engine just built, on its GPU, that takes and gives arrays of the host.

    Attributes:
        engine: its bytes.
        memory_bytes: what a run takes beside the weights, the tiles and the logits.
    """

    def __init__(self, engine: bytes, device: CudaDevice, *, version_compatible: bool) -> None:
        self.engine = engine
        self._device = device
        self._network = TensorRTNetwork(TENSORRT, engine, device, version_compatible=version_compatible)
        self.memory_bytes = self._network.memory_bytes

    def layer_information(self) -> str:
        """Return TensorRT's description of the layers, as JSON."""
        return self._network.layer_information()

    def run(self, tiles: FloatArray) -> FloatArray:
        """Return the logits (n, outputs, z, y, x) of `tiles` (n, channels, z, y, x)."""
        with self._device.active():
            return self._device.download(self._network.run(self._device.upload(tiles)))


class TensorRTBuilder:
    """Builds engines for one GPU.

    Args:
        device: the GPU.
        options: how.
    """

    def __init__(self, device: CudaDevice, options: BuildOptions) -> None:
        self._device = device
        self._options = options

    def __call__(self, onnx: bytes, batch: int) -> LoadedEngine:
        """Build an engine that takes `batch` tiles.

        Args:
            onnx: the float16 network, whose types are those of the engine.
            batch: the number of tiles.

        Raises:
            ModelError: where TensorRT cannot read the network.
            DisagreementError: where what it read is not float16.
            DeviceError: where it cannot build.
        """
        with self._device.active():
            built = build_engine(TENSORRT, with_batch(onnx, batch), self._options)
        return LoadedEngine(built.engine, self._device, version_compatible=self._options.version_compatible)


def build_engine(package: Package, onnx: bytes, options: BuildOptions) -> SerializedEngine:
    """Build an engine; of a portable one no GPU is asked.

    Args:
        package: that builds.
        onnx: the float16 network, whose types are those of the engine.
        options: how.

    Raises:
        ModelError: where TensorRT cannot read the network.
        DisagreementError: where what it read is not float16.
        DeviceError: where it cannot build.
    """
    if TYPE_CHECKING:
        import tensorrt as trt
    else:
        trt = package.load()
    log = Log(package, detailed=package.portable)
    builder = log.create(trt.Builder, "cannot build here")
    # TensorRT 11 knows no other networks; before it, types were only hints without this flag.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log.logger)
    parser.set_flag(trt.OnnxParserFlag.NATIVE_INSTANCENORM)  # the plugin in its place runs in no lean runtime
    if not parser.parse(onnx):
        raise ModelError(f"{package.title} {package.version()} cannot read the network: {_reason(parser)}")
    check_layers(_layers(network))
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # or the engine does not tell its types
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.target:
        _set_target(package, config, options.target)
    elif options.timing_cache:
        _set_timings(config, options.timing_cache)
    else:
        config.set_flag(trt.BuilderFlag.DISABLE_TIMING_CACHE)
    built = log.require(builder.build_serialized_network(network, config), "could not build the engine")
    if options.timing_cache:
        write_private(options.timing_cache, bytes(config.get_timing_cache().serialize()))
    return SerializedEngine(bytes(built), tuple(log.details))


def _reason(parser: "trt.OnnxParser") -> str:
    if not parser.num_errors:
        return "no reason given"
    error = parser.get_error(0)
    return f"{error.desc()} ({error.node_operator()} {error.node_name()})"


def _set_target(package: Package, config: Any, target: str) -> None:
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(package.load().ComputeCapability, target.upper()), 0)


def _set_timings(config: "trt.IBuilderConfig", path: Path) -> None:
    try:
        earlier = read_private(path)
    except OSError:
        earlier = b""
    # Those of another version or GPU are not taken, and the build begins with none.
    if not config.set_timing_cache(config.create_timing_cache(earlier), ignore_mismatch=False):
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)


def _layers(network: "trt.INetworkDefinition") -> list[Layer]:
    """Return the convolutions of a network that is to be built."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    return [
        Layer(layer.name, convolves=True, inputs=(kind_of(layer.get_input(0).dtype.name),))
        for layer in layers
        if is_convolution(layer.type.name)
    ]
