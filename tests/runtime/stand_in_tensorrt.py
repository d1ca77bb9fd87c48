"""What stands in for TensorRT and a GPU: the calls of the real API on NumPy arrays, by their addresses.

An "engine" is JSON: the shapes of its ends, and a factor; its logits are the first channel times the factor, negated
and as it is. Or it holds an ONNX network, which ONNX Runtime runs. What TensorRT demands of its caller is checked, its
memory and the addresses above all.
"""

import base64
import ctypes
import json
from contextlib import contextmanager
from enum import Enum
from types import ModuleType, SimpleNamespace

import numpy as np

from flare_runtime.backends.onnxruntime_cpu import OnnxRuntimeNetwork
from flare_runtime.backends.tensorrt.cache import EngineRecord

RECORD = EngineRecord(
    reference="onnxruntime 1.32 fp32",
    subject="case",
    tiles=4,
    voxel_agreement=0.99999,
    dice=0.9998,
    foreground_voxels=1234,
    max_logit_difference=0.02,
    relative_error=0.001,
    memory_bytes=1000,
)


def engine_bytes(batch=2, channels=1, patch=(4, 4, 4), factor=3.0, memory=1000, layers="{}", onnx=b"", **others):
    """Return a serialized engine."""
    content = {
        "tiles": [batch, channels, *patch],
        "logits": [batch, 2, *patch],
        "factor": factor,
        "memory": memory,
        "layers": layers,
        "onnx": base64.b64encode(onnx).decode(),
        **others,
    }
    return json.dumps(content).encode()


# Of the memory that was given out last at an address.
_SIZES = {}


class DeviceArray(np.ndarray):
    """An array that has its address where CuPy's have it."""

    @property
    def data(self):
        return SimpleNamespace(ptr=self.ctypes.data)


def _aligned(size):
    block = np.empty(size + 256, np.uint8).view(DeviceArray)
    start = -block.data.ptr % 256
    return block[start : start + size]


class StandInDevice:
    """A `CudaDevice` of the host's memory; it counts the bytes that `xp` holds and gives in `taken`."""

    is_gpu = True
    gpu_name, compute_capability, driver = "NVIDIA Stand-in", "9.0", 13000

    def __init__(self, index=0):
        self.name, self.index = f"cuda:{index}", index
        self.stream = SimpleNamespace(ptr=77)
        self.taken = []
        self.limit = None
        self.xp = SimpleNamespace(
            __version__="stand-in",
            cuda=SimpleNamespace(alloc=self._alloc),
            empty=self._empty,
            zeros=self._zeros,
            ascontiguousarray=self._ascontiguousarray,
        )

    def _alloc(self, size):
        self.taken.append(size)
        block = _aligned(size)
        _SIZES[block.data.ptr] = size
        return SimpleNamespace(ptr=block.data.ptr if size else 0, block=block)

    def _ascontiguousarray(self, array, dtype):
        if array.flags.c_contiguous and array.dtype == dtype:
            return array
        copy = self._empty(array.shape, dtype)
        copy[:] = array
        return copy

    def _empty(self, shape, dtype):
        return self._alloc(int(np.prod(shape)) * np.dtype(dtype).itemsize).block.view(dtype).reshape(shape)

    def _zeros(self, shape, dtype):
        array = self._empty(shape, dtype)
        array[:] = 0
        return array

    def upload(self, array):
        uploaded = self._empty(array.shape, array.dtype)
        uploaded[:] = array
        return uploaded

    def download(self, array):
        return np.array(array)

    @contextmanager
    def active(self):
        yield

    def limit_memory(self, size):
        self.limit = size


class TensorIOMode(Enum):
    NONE, INPUT, OUTPUT = range(3)


class ExecutionContextAllocationStrategy(Enum):
    STATIC, ON_PROFILE_CHANGE, USER_MANAGED = range(3)


class _Logger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = Severity = range(5)


class _Runtime:
    def __init__(self, logger):
        self._logger = logger
        self.engine_host_code_allowed = False
        logger.log(logger.WARNING, "a warning")

    def deserialize_cuda_engine(self, engine):
        try:
            content = json.loads(engine)
        except ValueError:
            self._logger.log(self._logger.ERROR, "the magic tag does not match\nand more")
            return None
        if content.get("version_compatible") and not self.engine_host_code_allowed:
            return None
        return _Engine(content)


class _Engine:
    num_io_tensors = 2

    def __init__(self, content):
        self.content = content
        self.device_memory_size_v2 = content["memory"]

    def get_tensor_name(self, index):
        return ("logits", "tiles")[index]  # in no order to rely on

    def get_tensor_mode(self, name):
        return TensorIOMode.INPUT if name == "tiles" else TensorIOMode.OUTPUT

    def get_tensor_shape(self, name):
        return tuple(self.content[name])

    def create_execution_context(self, how):
        strategy = how.strategy if isinstance(how, _RuntimeConfig) else how
        assert strategy is ExecutionContextAllocationStrategy.USER_MANAGED
        if isinstance(how, _RuntimeConfig):
            how.cache.kernels = how.cache.kernels or b"kernels of " + self.content["onnx"][-20:].encode()
        return _Context(self)

    def create_runtime_config(self):
        return _RuntimeConfig()

    def create_engine_inspector(self):
        if self.content["layers"] is None:
            return None
        return SimpleNamespace(get_engine_information=lambda _format: self.content["layers"])


class _RuntimeCache:
    """Kernels of another driver begin with another word."""

    kernels = b""

    def deserialize(self, kernels):
        if not kernels.startswith(b"kernels of "):
            return False
        self.kernels = kernels
        return True

    def serialize(self):
        return self.kernels


class _RuntimeConfig:
    def set_execution_context_allocation_strategy(self, strategy):
        self.strategy = strategy

    def create_runtime_cache(self):
        return _RuntimeCache()

    def set_runtime_cache(self, cache):
        self.cache = cache


class _Context:
    def __init__(self, engine):
        self.engine = engine
        self.addresses = {}
        self.memory = None

    def set_device_memory(self, memory, size):
        assert memory % 256 == 0
        assert size >= self.engine.device_memory_size_v2
        self.memory = memory

    def set_tensor_address(self, name, address):
        assert address % 256 == 0
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream):
        assert stream == 77
        assert self.memory
        content = self.engine.content
        if content["factor"] is None:
            return False
        tiles, logits = (_array_at(self.addresses[name], content[name]) for name in ("tiles", "logits"))
        if content["onnx"]:
            logits[:] = OnnxRuntimeNetwork(base64.b64decode(content["onnx"]), threads=1).run(tiles)
        else:
            logits[:, 0], logits[:, 1] = -content["factor"] * tiles[:, 0], content["factor"] * tiles[:, 0]
        return True


class BrokenRuntime:
    """As the real one is where the driver is too old for TensorRT: an object that must not be used."""

    def __init__(self, logger):
        logger.log(logger.ERROR, "CUDA initialization failure")
        logger.log(logger.INTERNAL_ERROR, "CUDA driver version is insufficient")

    deleted = 0

    def __setattr__(self, _name, _value):
        raise AssertionError("Segmentation fault")

    def __del__(self):
        BrokenRuntime.deleted += 1


def _array_at(address, shape):
    assert _SIZES[address] >= 4 * np.prod(shape), "TensorRT would read or write beyond the memory"
    values = (ctypes.c_float * int(np.prod(shape))).from_address(address)
    return np.ctypeslib.as_array(values).reshape(shape)


def stand_in_module(name="tensorrt", version="11.4.0.106"):
    """Return a module to take TensorRT's place in `sys.modules`."""
    module = ModuleType(name)
    module.__version__ = version
    module.ILogger = _Logger
    module.Runtime = _Runtime
    module.TensorIOMode = TensorIOMode
    module.ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy
    module.LayerInformationFormat = SimpleNamespace(JSON="json")
    return module
