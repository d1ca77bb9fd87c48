"""What stands in for TensorRT's builder: engines that hold the ONNX network, and how they were asked for."""

import json
from enum import IntEnum
from functools import partial
from types import SimpleNamespace

import onnx

from tests.runtime.stand_in_tensorrt import engine_bytes, stand_in_module

_TYPES = {onnx.TensorProto.FLOAT16: "HALF", onnx.TensorProto.FLOAT: "FLOAT"}


class Flag(IntEnum):
    STRONGLY_TYPED, NATIVE_INSTANCENORM, VERSION_COMPATIBLE, DISABLE_TIMING_CACHE = range(3, 7)


class LayerType(IntEnum):
    CONVOLUTION, DECONVOLUTION, NORMALIZATION = range(3)


_KINDS = {"Conv": LayerType.CONVOLUTION, "ConvTranspose": LayerType.DECONVOLUTION}


class _Layer:
    def __init__(self, name, kind, dtype):
        self.name, self.type = name, kind
        self._dtype = dtype

    def get_input(self, index):
        assert index == 0
        return SimpleNamespace(dtype=SimpleNamespace(name=self._dtype))


class _Network:
    def __init__(self):
        self.onnx = b""
        self.layers = []

    @property
    def num_layers(self):
        return len(self.layers)

    def get_layer(self, index):
        return self.layers[index]

    def read(self, data):
        self.onnx = data
        graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(data)).graph
        types = {value.name: _TYPES[value.type.tensor_type.elem_type] for value in (*graph.input, *graph.value_info)}
        for node in graph.node:
            tensor = SimpleNamespace(dtype=SimpleNamespace(name=types[node.input[0]]))
            kind = _KINDS.get(node.op_type, LayerType.NORMALIZATION)
            self.layers.append(
                SimpleNamespace(name=node.name, type=kind, get_input=lambda _index, tensor=tensor: tensor)
            )


class _Parser:
    def __init__(self, network, _logger):
        self._network = network
        self._flags = []
        self.num_errors = 0

    def set_flag(self, flag):
        self._flags.append(flag)

    def parse(self, data):
        assert self._flags == [Flag.NATIVE_INSTANCENORM]
        try:
            self._network.read(data)
        except KeyError:
            self.num_errors = 1
        return not self.num_errors

    def get_error(self, _index):
        return SimpleNamespace(desc=lambda: "a type it does not know")


class _Config:
    """A builder's configuration; timings are `timings of VERSION` followed by a letter a build."""

    profiling_verbosity = "layer names only"

    def __init__(self, version):
        self.flags, self.limits = [], {}
        self._own = f"timings of {version}".encode()
        self.timings = None

    def set_flag(self, flag):
        self.flags.append(flag)

    def set_memory_pool_limit(self, pool, size):
        self.limits[pool] = size

    def create_timing_cache(self, data):
        return data or self._own

    def set_timing_cache(self, cache, ignore_mismatch):
        assert not ignore_mismatch
        if not cache.startswith(self._own):
            return False
        self.timings = cache
        return True

    def get_timing_cache(self):
        return SimpleNamespace(serialize=lambda: self.timings)


class _Builder:
    def __init__(self, module, logger):
        self._module, self._logger = module, logger
        if module.broken:
            logger.log(logger.ERROR, "CUDA driver version is insufficient")

    def create_network(self, flags):
        assert not self._module.broken, "Segmentation fault"
        assert flags == 1 << Flag.STRONGLY_TYPED
        return _Network()

    def create_builder_config(self):
        return _Config(self._module.__version__)

    def build_serialized_network(self, network, config):
        self._module.asked = config
        if self._module.fails:
            self._logger.log(self._logger.ERROR, "no tactic was found")
            return None
        if config.timings is not None:
            config.timings += b"+"
        batch, channels, *patch = (
            side.dim_value for side in onnx.load_from_string(network.onnx).graph.input[0].type.tensor_type.shape.dim
        )
        layer = {"Name": "conv", "LayerType": "CaskConvolution", "Inputs": [{"Datatype": self._module.layers}]}
        return engine_bytes(
            batch,
            channels,
            patch,
            layers=json.dumps({"Layers": [layer]}),
            onnx=network.onnx,
            version_compatible=Flag.VERSION_COMPATIBLE in config.flags,
        )


def builder_module(version="11.4.0.106"):
    """Return a module with a runtime and a builder; `asked` is the configuration of the last build.

    `fails` makes builds fail, `broken` the builder unusable, `layers` is the type that engines say their layers have.
    """
    module = stand_in_module(version=version)
    module.fails, module.broken, module.layers, module.asked = False, False, "Half", None

    module.Builder = partial(_Builder, module)
    module.OnnxParser = _Parser
    module.NetworkDefinitionCreationFlag = module.OnnxParserFlag = module.BuilderFlag = Flag
    module.LayerType = LayerType
    module.ProfilingVerbosity = SimpleNamespace(DETAILED="detailed")
    module.MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")
    module.IBuilderConfig, module.INetworkDefinition = _Config, _Network
    return module
