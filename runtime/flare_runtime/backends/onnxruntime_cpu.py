"""ONNX Runtime on the CPU: an independent engine to compare with, and a fallback where OpenVINO does not run."""

from flare_runtime.backends.engine import AbsentEngineError, Choice, Compile
from flare_runtime.backends.ensemble import joined
from flare_runtime.compute.arrays import FloatArray
from flare_runtime.compute.device import Device
from flare_runtime.compute.network import Network
from flare_runtime.errors import BundleError, first_line, install_hint


class OnnxRuntimeNetwork:
    """One ONNX network on ONNX Runtime's CPU provider, which computes float16 ones in float32 and rounds between.

    Args:
        onnx: the network.
        precision: what its tensors are.
        threads: for the network; None leaves it to ONNX Runtime.

    Raises:
        DeviceError: where onnxruntime is not installed.
        BundleError: where the ONNX cannot be loaded.
    """

    backend = "onnxruntime"
    device = "cpu"
    batch = 1

    def __init__(self, onnx: bytes, precision: str = "fp32", threads: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise AbsentEngineError(f"onnxruntime is not installed; {install_hint('ort')}") from error
        options = onnxruntime.SessionOptions()
        # From the second run on it would take one block for all tensors, beside what the first run took for each.
        options.enable_mem_pattern = False
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise BundleError(f"ONNX Runtime cannot load the network: {first_line(error)}") from error
        self.precision = precision
        self._input = self._session.get_inputs()[0].name

    def run(self, tiles: FloatArray) -> FloatArray:
        """Return the logits in new memory."""
        logits: FloatArray = self._session.run(None, {self._input: tiles})[0]
        return logits

    def release(self) -> None:
        """Keep the memory: ONNX Runtime's arena cannot be emptied from outside."""


def open_networks(choice: Choice) -> Compile:
    """Read the networks and return what compiles them.

    Raises:
        BundleError: where a file is missing or was changed.
    """
    models = choice.read_networks()

    def compiled(_device: Device) -> Network:
        members = [OnnxRuntimeNetwork(model, choice.precision, choice.options.threads) for model in models]
        models.clear()  # the engine has copies of its own
        return joined(members)

    return compiled
