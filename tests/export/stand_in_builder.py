"""What stands in for TensorRT where it builds: engines that hold the ONNX network, and how they were asked for.

Networks, the parser, flags and the logger are TensorRT for RTX's own, whose builder makes no engine of TensorRT.
"""

import json
from functools import partial
from types import SimpleNamespace

import tensorrt_rtx

from tests.runtime.stand_in_tensorrt import engine_bytes, stand_in_module

_OWN = ("ILogger", "NetworkDefinitionCreationFlag", "OnnxParserFlag", "BuilderFlag", "ProfilingVerbosity")


class _Config:
    """A builder's configuration; timings are `timings of VERSION` followed by a letter a build."""

    profiling_verbosity = tensorrt_rtx.ProfilingVerbosity.LAYER_NAMES_ONLY

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
        self._builder = tensorrt_rtx.Builder(logger)
        if module.broken:
            logger.log(logger.ERROR, "CUDA driver version is insufficient")

    def create_network(self, flags):
        assert not self._module.broken, "Segmentation fault"
        return self._builder.create_network(flags)

    def create_builder_config(self):
        return _Config(self._module.__version__)

    def build_serialized_network(self, network, config):
        self._module.asked = config
        if self._module.fails:
            self._logger.log(self._logger.ERROR, "no tactic was found")
            return None
        if config.timings is not None:
            config.timings += b"+"
        batch, channels, *patch = network.get_input(0).shape
        layer = {"Name": "conv", "LayerType": "CaskConvolution", "Inputs": [{"Datatype": self._module.layers}]}
        return engine_bytes(
            batch,
            channels,
            patch,
            layers=json.dumps({"Layers": [layer]}),
            onnx=self._module.parsed,
            version_compatible=tensorrt_rtx.BuilderFlag.VERSION_COMPATIBLE in config.flags,
        )


def builder_module(version="11.4.0.106"):
    """Return a module with a runtime and a builder; `asked` is the configuration of the last build.

    `fails` makes builds fail, `broken` the builder unusable, `layers` is the type that engines say their layers have.
    """
    module = stand_in_module(version=version)
    module.fails, module.broken, module.layers, module.asked = False, False, "Half", None

    class Parser(tensorrt_rtx.OnnxParser):
        def parse(self, data):
            module.parsed = data
            return super().parse(data)

    module.Builder, module.OnnxParser = partial(_Builder, module), Parser
    module.MemoryPoolType = tensorrt_rtx.MemoryPoolType
    for name in _OWN:
        setattr(module, name, getattr(tensorrt_rtx, name))
    return module
