"""ONNX Runtime on a GPU: tiles and logits stay in the GPU's memory, all work is on the device's stream."""

import logging
from typing import Any

import numpy as np

from flare_runtime.backends.engine import AbsentEngineError, Choice, Compile, first_stage_bytes
from flare_runtime.backends.gpu import GpuNetwork, share_out
from flare_runtime.backends.gpu_key import GpuEngineKey
from flare_runtime.compute.arrays import FloatArray
from flare_runtime.compute.device import CudaDevice, Device, as_gpu
from flare_runtime.compute.network import Network
from flare_runtime.errors import BundleError, DeviceError, GpuMemoryError, LostDeviceError, first_line, install_hint
from flare_runtime.model.manifest import Manifest
from flare_runtime.pipeline.gpu_memory import CONTEXT_MIB, MIB

_LOG = logging.getLogger(__name__)
_PROVIDER = "CUDAExecutionProvider"
# Its own lines go to the terminal alone, and say errors of what it tries before what works.
_WARNINGS, _SILENCE = 2, 4
# What CUDA and what the arena with its limit say.
_OUT_OF_MEMORY = ("allocate memory", "smaller than requested")
_BROKEN = ("InvalidProtobuf", "InvalidGraph", "InvalidArgument", "NotImplemented", "NoModel")
# CUDA's share at the least: what ONNX Runtime's arena may take is not cut short by it.
_SMALL_CONTEXT_BYTES = 300 * MIB
# What the arena takes for each feature of the first stage and voxel of the patch, in bytes: on an H200 it was 24.7 in
# float16, whose norms are cast to float32 and back, and 21.2 in float32.
_ARENA_BYTES = {"fp16": 26, "fp32": 23}


class OnnxRuntimeCudaNetwork:
    """One ONNX network on ONNX Runtime's CUDA provider.

    Args:
        onnx: the network, which takes one tile.
        precision: what its tensors are; tiles and logits are float32 in any case.
        manifest: of the bundle it comes from.
        device: where it runs.
        memory_bytes: bounds the provider's arena.

    Raises:
        DeviceError: where onnxruntime is not installed, or has no CUDA provider that works with this memory.
        BundleError: where the ONNX cannot be loaded.
    """

    backend = "onnxruntime"
    batch = 1

    def __init__(self, onnx: bytes, precision: str, manifest: Manifest, device: CudaDevice, memory_bytes: int) -> None:
        onnxruntime = _load()
        if _PROVIDER not in onnxruntime.get_available_providers():
            raise DeviceError(
                f"the installed onnxruntime has no CUDA; pip uninstall onnxruntime, {install_hint('gpu')}"
            )
        if hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()  # finds the CUDA libraries that pip installed
        severity = _WARNINGS if _LOG.isEnabledFor(logging.INFO) else _SILENCE
        onnxruntime.set_default_logger_severity(severity)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = severity
        # From the second run on a pattern takes a block for all tensors, beside those of the first: 1.6 GB more.
        options.enable_mem_pattern = False
        try:
            self._session = onnxruntime.InferenceSession(
                onnx,
                options,
                providers=[(_PROVIDER, _options(device, memory_bytes)), "CPUExecutionProvider"],
                enable_fallback=0,
            )
        except Exception as error:
            kind = BundleError if type(error).__name__ in _BROKEN else DeviceError
            raise kind(f"ONNX Runtime cannot load the network: {first_line(error)}") from error
        # Where CUDA's libraries cannot be loaded it says so in its log and goes on with the CPU alone.
        if self._session.get_providers()[0] != _PROVIDER:
            raise DeviceError("ONNX Runtime cannot use CUDA here (--verbose shows why); use --device cpu")
        self._run_options = onnxruntime.RunOptions()
        self._run_options.log_severity_level = severity
        self._run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        self.device, self.precision = device.name, precision
        self._device = device
        self._input = self._session.get_inputs()[0].name
        self._output = self._session.get_outputs()[0].name
        self._shape = (1, manifest.network.outputs, *manifest.patch)
        self._logits: Any = None

    def run(self, tiles: FloatArray) -> FloatArray:
        """Return the logits (1, outputs, z, y, x) of `tiles` (1, channels, z, y, x), both on the GPU.

        They are overwritten by the next call.

        Raises:
            GpuMemoryError: where the provider's arena is too small.
            LostDeviceError: where CUDA fails otherwise.
        """
        if self._logits is None:
            self._logits = self._device.xp.empty(self._shape, np.float32)
        binding = self._session.io_binding()
        place = {"device_type": "cuda", "device_id": self._device.index, "element_type": np.float32}
        binding.bind_input(self._input, shape=tiles.shape, buffer_ptr=_address(tiles), **place)
        binding.bind_output(self._output, shape=self._shape, buffer_ptr=_address(self._logits), **place)
        try:
            self._session.run_with_iobinding(binding, self._run_options)
        except Exception as error:
            message = first_line(error)
            if any(text in str(error) for text in _OUT_OF_MEMORY):
                raise GpuMemoryError(message) from error
            raise LostDeviceError(f"ONNX Runtime failed on {self.device}: {message}") from error
        logits: FloatArray = self._logits
        return logits

    def release(self) -> None:
        """Give the logits' memory back; the provider keeps its arena for the next case."""
        self._logits = None


def open_networks(choice: Choice) -> Compile:
    """Return what reads and compiles the networks."""

    def compiled(device: Device) -> Network:
        gpu, count = as_gpu(device), len(choice.networks)
        version = f"ONNX Runtime {_load().__version__}"
        key = GpuEngineKey.of(choice.bundle, gpu, "onnxruntime", version, choice.precision)
        estimate = CONTEXT_MIB * MIB + count * arena_and_weights_bytes(choice.bundle.manifest, choice.precision)
        # An estimate may be short; half of all is left to the arena then.
        budget = share_out(choice, gpu, key, max(estimate, choice.options.gpu_memory_mib * MIB // 2))
        share = (budget.engine.outside_bytes - _SMALL_CONTEXT_BYTES) // count
        members = [
            OnnxRuntimeCudaNetwork(model, choice.precision, choice.bundle.manifest, gpu, share)
            for model in choice.read_networks()
        ]
        return GpuNetwork(members, gpu, budget, key)

    return compiled


def arena_and_weights_bytes(manifest: Manifest, precision: str) -> int:
    """Estimate what one network takes of a GPU's memory: the arena while it runs, and its weights twice."""
    weights = manifest.network.parameters * (2 if precision == "fp16" else 4)
    return first_stage_bytes(manifest, _ARENA_BYTES[precision]) + 2 * weights


def _load() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise AbsentEngineError(f"onnxruntime is not installed; {install_hint('gpu')}") from error
    return onnxruntime


def _options(device: CudaDevice, memory_bytes: int) -> dict[str, str]:
    return {
        "device_id": str(device.index),
        "user_compute_stream": str(device.stream.ptr),
        "do_copy_in_default_stream": "1",
        "gpu_mem_limit": str(memory_bytes),
        "arena_extend_strategy": "kSameAsRequested",
        # Trying every algorithm takes seconds at the first tile, and memory.
        "cudnn_conv_algo_search": "HEURISTIC",
        "use_tf32": "0",
    }


def _address(array: Any) -> int:
    return int(array.data.ptr)
