"""The list of engines: a new engine is a module of its own and an entry here."""

from collections.abc import Iterator

from flare_runtime.backends.engine import Choice, Compile, Engine, has_module, has_package
from flare_runtime.model.manifest import Manifest
from flare_runtime.options import Precision


def _openvino(choice: Choice) -> Compile:
    from flare_runtime.backends.openvino.network import open_networks

    return open_networks(choice)


def _openvino_computes(precision: Precision) -> bool:
    from flare_runtime.backends.openvino import int8, network

    return {"int8": int8.cpu_has_int8, "bf16": network.cpu_lists_bf16}[precision]()


def _openvino_bytes(manifest: Manifest, precision: Precision) -> int:
    from flare_runtime.backends.openvino.network import running_bytes

    return running_bytes(manifest, precision)


def _onnxruntime(choice: Choice) -> Compile:
    from flare_runtime.backends.onnxruntime_cpu import open_networks

    return open_networks(choice)


def _tensorrt(choice: Choice) -> Compile:
    from flare_runtime.backends.tensorrt.library import TENSORRT
    from flare_runtime.backends.tensorrt.network import open_networks

    return open_networks(choice, TENSORRT)


def _tensorrt_rtx(choice: Choice) -> Compile:
    from flare_runtime.backends.tensorrt.library import RTX
    from flare_runtime.backends.tensorrt.network import open_networks

    return open_networks(choice, RTX)


def _cudnn(choice: Choice) -> Compile:
    from flare_runtime.backends.cudnn.opening import open_networks

    return open_networks(choice)


def _onnxruntime_cuda(choice: Choice) -> Compile:
    from flare_runtime.backends.onnxruntime_cuda import open_networks

    return open_networks(choice)


# `auto` takes the first of the CPU; on a GPU it tries them in this order and takes the first that works.
ENGINES: tuple[Engine, ...] = (
    Engine(
        name="openvino",
        on_gpu=False,
        precisions=("fp32", "bf16", "int8"),
        lower=("int8", "bf16"),
        open=_openvino,
        available=lambda: has_module("openvino"),
        computes=_openvino_computes,
        running_bytes=_openvino_bytes,
    ),
    Engine(
        name="onnxruntime",
        on_gpu=False,
        precisions=("fp32", "fp16"),
        open=_onnxruntime,
        available=lambda: has_module("onnxruntime"),
    ),
    Engine(
        name="tensorrt",
        on_gpu=True,
        precisions=("fp16",),
        open=_tensorrt,
        available=lambda: has_module("tensorrt", "tensorrt_lean"),
    ),
    Engine(
        name="cudnn",
        on_gpu=True,
        precisions=("fp16",),
        open=_cudnn,
        available=lambda: has_module("cudnn"),
        stored_in="fp32",
    ),
    Engine(
        name="tensorrt-rtx",
        on_gpu=True,
        precisions=("fp16",),
        open=_tensorrt_rtx,
        available=lambda: has_module("tensorrt_rtx"),
    ),
    Engine(
        name="onnxruntime",
        on_gpu=True,
        precisions=("fp32", "fp16"),
        lower=("fp16",),
        open=_onnxruntime_cuda,
        # Its module has the name of the one without CUDA.
        available=lambda: has_package("onnxruntime-gpu"),
    ),
)


def backend_names() -> tuple[str, ...]:
    """Return the names of all engines, each once."""
    return tuple(dict.fromkeys(engine.name for engine in ENGINES))


def running_bytes(choice: Choice) -> int:
    """Estimate what the networks that an engine of the CPU runs take while they run, in addition to their weights."""
    engine = find_engine(choice.backend, gpu=False)
    assert engine is not None
    return choice.bundle.folds * engine.running_bytes(choice.bundle.manifest, choice.precision)


def engines_on(gpu: bool) -> Iterator[Engine]:
    """Yield the engines of GPUs, or those of the CPU, in the order in which `auto` takes them."""
    return (engine for engine in ENGINES if engine.on_gpu == gpu)


def find_engine(name: str, *, gpu: bool) -> Engine | None:
    """Return the engine of a name on GPUs, or on the CPU; None where it has none there."""
    return next((engine for engine in engines_on(gpu) if engine.name == name), None)
