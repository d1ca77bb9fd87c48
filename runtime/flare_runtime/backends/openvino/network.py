"""OpenVINO on the CPU: the default backend, in float32, 8-bit integers or, where the CPU has it, bfloat16."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flare_runtime.backends.engine import Choice, Compile, first_stage_bytes
from flare_runtime.backends.ensemble import joined
from flare_runtime.backends.openvino.graph import (
    Mark,
    float32_mark,
    keep_first_convolutions,
    split_concatenations,
    sum_norms_by_plane,
)
from flare_runtime.backends.openvino.int8 import ActivationRange, cpu_has_int8, decode_ranges, quantise
from flare_runtime.backends.openvino.upsampling import merge_upsampling
from flare_runtime.compute.arrays import FloatArray
from flare_runtime.compute.device import Device
from flare_runtime.compute.network import Network
from flare_runtime.errors import BundleError, DeviceError, first_line
from flare_runtime.files.cache_folder import cache_folder
from flare_runtime.model.manifest import Manifest
from flare_runtime.options import Precision

# What is computed in where nothing else is said: with int8, all but the convolutions.
_TYPES = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
# What /proc/cpuinfo calls the arithmetic in bfloat16 that OpenVINO asks for.
_BF16 = {"avx512_bf16", "avx_ne_convert"}


def cpu_lists_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the system lists bfloat16 among what this CPU can do.

    Loading OpenVINO to ask it, as `cpu_has_bf16` does, takes longer; that is done where the system does not say.
    """
    try:
        return not _BF16.isdisjoint(cpuinfo.read_text(encoding="utf-8", errors="replace").split())
    except OSError:
        return cpu_has_bf16()


def cpu_has_bf16() -> bool:
    """Whether OpenVINO can compute in bfloat16 on this CPU."""
    return "BF16" in open_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenVINONetwork:
    """One ONNX network compiled for the CPU.

    Args:
        onnx: the network.
        precision: `fp32`, `bf16` or `int8`.
        threads: all cores where None.
        ranges: what the convolutions take, for int8.

    Raises:
        DeviceError: where bfloat16 or int8 is asked of a CPU that lacks it.
        BundleError: where the ONNX cannot be compiled, or the ranges do not fit it.
    """

    backend = "openvino"
    device = "cpu"
    batch = 1

    def __init__(
        self,
        onnx: bytes,
        precision: str,
        threads: int | None = None,
        ranges: Mapping[str, ActivationRange] | None = None,
    ) -> None:
        if precision == "bf16" and not cpu_has_bf16():
            raise DeviceError("this CPU has no bfloat16; use --precision fp32")
        if precision == "int8" and not cpu_has_int8():
            raise DeviceError("this CPU has no dot products of 8-bit integers (VNNI); use --precision fp32")
        core = open_core()
        try:
            model = core.read_model(onnx)
            mark = float32_mark(core) if precision == "bf16" else None
            _rewrite(model, precision, mark, ranges or {})
            self._compiled = core.compile_model(model, "CPU", _config(precision, threads))
        except (DeviceError, BundleError, MemoryError):
            raise
        except Exception as error:  # the graph's changes meet what no export of ours holds
            raise BundleError(f"OpenVINO cannot compile the network: {first_line(error)}") from error
        self._request = self._compiled.create_infer_request()
        used = self._compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        self.precision = precision if used == _TYPES[precision] else used

    def run(self, tiles: FloatArray) -> FloatArray:
        """Return the logits; the array is overwritten by the next call."""
        outputs = self._request.infer({0: tiles}, share_inputs=True, share_outputs=True)
        logits: FloatArray = outputs[0]
        return logits

    def release(self) -> None:
        """Give back the memory between layers, most of what a run takes; the next run takes it again."""
        self._compiled.release_memory()


def open_networks(choice: Choice) -> Compile:
    """Read the networks, and what they need for int8, and return what compiles them.

    Raises:
        BundleError: where a file is missing or was changed.
    """
    models, ranges = choice.read_networks(), _ranges_of(choice)

    def compiled(_device: Device) -> Network:
        precision: str = choice.precision
        if precision == "bf16" and choice.options.precision == "auto" and not cpu_has_bf16():
            precision = "fp32"
        threads = choice.options.threads
        members = [OpenVINONetwork(model, precision, threads, own) for model, own in zip(models, ranges, strict=True)]
        models.clear()  # the engine has copies of its own
        return joined(members)

    return compiled


def running_bytes(manifest: Manifest, precision: Precision) -> int:
    """Estimate what one network takes while it runs in addition to its weights.

    It is two and a quarter tensors of the first stage in float32, or one with two of half the size in bfloat16.
    """
    return first_stage_bytes(manifest, 4 + 2 + 2 if precision == "bf16" else 2 * 4 + 1)


def open_core() -> Any:
    """Return an `openvino.Core`, imported when it is first needed."""
    from openvino import Core

    return Core()


def _ranges_of(choice: Choice) -> list[Mapping[str, ActivationRange] | None]:
    """Return what each fold's network needs for int8, None where it is to run in something else."""
    if choice.precision != "int8":
        return [None] * len(choice.networks)
    bundle, by_fold = choice.bundle, {file.fold: file for file in choice.bundle.activations()}
    files = [by_fold[network.fold] for network in choice.networks if network.fold in by_fold]
    if len(files) < len(choice.networks):
        raise BundleError(
            f"{bundle.path.name}: {len(files)} of {len(choice.networks)} networks can run in int8; add what it takes: "
            f"flare-export int8 {bundle.path} --calibrate CASES"
        )
    return [decode_ranges(bundle.read(file)) for file in files]


def _rewrite(model: Any, precision: str, mark: Mark | None, ranges: Mapping[str, ActivationRange]) -> None:
    """Change the graph, in place, to what OpenVINO computes well in a precision."""
    if precision == "int8":
        quantise(model, ranges)
    else:
        split_concatenations(model, mark)
    if precision == "fp32":
        merge_upsampling(model)
    sum_norms_by_plane(model, mark)
    if mark is not None:
        keep_first_convolutions(model, mark)


def _config(precision: str, threads: int | None) -> dict[str, Any]:
    """Return the options of OpenVINO's CPU plugin."""
    config: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": _TYPES[precision],
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        # Pinned workers share cores with BLAS and stall both: preprocessing took twelve times as long.
        "ENABLE_CPU_PINNING": False,
    }
    if precision == "bf16":
        # Its code generator would gather the norms with what is kept in float32, and round in a pass of its own.
        config["SNIPPETS_MODE"] = "DISABLE"
    if cache := cache_folder("openvino"):
        config["CACHE_DIR"] = str(cache)
    if threads is not None:
        config["INFERENCE_NUM_THREADS"] = threads
    return config
