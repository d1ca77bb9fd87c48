"""Engines of TensorRT for RTX from the cache to their first use, with TensorRT's runtime and the GPU stood in for."""

import sys
from contextlib import contextmanager

import numpy as np
import pytest

from flare_runtime.backends import first_use
from flare_runtime.backends.engine import AbsentEngineError
from flare_runtime.backends.onnxruntime_cpu import OnnxRuntimeNetwork
from flare_runtime.backends.selection import choose, read_network
from flare_runtime.backends.tensorrt.cache import EngineCache, EngineInspection, EngineKey
from flare_runtime.backends.tensorrt.kernels import KernelCache
from flare_runtime.backends.tensorrt.library import RTX
from flare_runtime.errors import DeviceError, LostDeviceError
from flare_runtime.files.cache_folder import cache_folder
from flare_runtime.model.bundle import Bundle
from flare_runtime.options import RunOptions
from flare_runtime.pipeline.gpu_memory import CONTEXT_MIB, MIB
from tests.runtime.stand_in_tensorrt import StandInDevice, engine_bytes, stand_in_module

INSPECTION = EngineInspection(
    layers=9, convolutions=4, inputs=("tiles",), outputs=("logits",), weights_bytes=10, memory_bytes=1000
)


@pytest.fixture(autouse=True)
def runtime(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", stand_in_module("tensorrt_rtx", "1.7.1.116"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture(scope="module")
def bundle(tiny_bundle):
    return Bundle.open(tiny_bundle)


@pytest.fixture
def half(bundle):
    return bundle.read(bundle.networks("fp16")[0])


def card(name="NVIDIA GeForce RTX 4090", compute_capability="8.9"):
    device = StandInDevice()
    device.gpu_name, device.compute_capability = name, compute_capability
    return device


def keep(bundle, onnx=b"", factor=3.0):
    """Put an engine of sm89 into the cache: the network, or else logits that are the tile times the factor."""
    (file,) = bundle.networks("fp16")
    key = EngineKey.of(RTX, file.sha256, ("", "8.9"), bundle.manifest.patch, 1)
    engine = engine_bytes(1, 1, bundle.manifest.patch, factor=factor, onnx=onnx)
    return EngineCache(cache_folder("tensorrt")).keep(key, engine, INSPECTION)


def opened(bundle, device):
    return read_network(choose(bundle, RunOptions("cuda:0", "tensorrt-rtx")))(device)


def kernels():
    return list(cache_folder("tensorrt").glob("*.kernels"))


def test_an_engine_is_compared_at_its_first_use_and_computes_what_the_network_does(bundle, half, monkeypatch, caplog):
    keep(bundle, half)
    device = card()
    network = opened(bundle, device)
    assert (network.backend, network.device, network.precision, network.batch) == ("tensorrt-rtx", "cuda:0", "fp16", 1)
    assert "tensorrt-rtx is compared with float32 on the CPU, once" in caplog.text
    tile = np.random.default_rng(0).standard_normal((1, 1, 16, 16, 16)).astype(np.float32)
    expected = OnnxRuntimeNetwork(half, threads=1).run(tile)
    np.testing.assert_allclose(network.run(device.upload(tile)), expected, atol=1e-3)
    monkeypatch.setattr(first_use, "open_network", lambda *_given: pytest.fail("it was compared again"))
    opened(bundle, card())


def test_the_memory_is_planned_with_what_the_builder_said(bundle, half):
    keep(bundle, half)
    memory = opened(bundle, card()).budget.engine
    assert (memory.outside_bytes, memory.pool_bytes) == (CONTEXT_MIB * MIB + 10, 1000)


def test_a_lost_device_is_no_missing_engine(bundle, half):
    keep(bundle, half)
    device = card()

    @contextmanager
    def lost():
        raise LostDeviceError("an illegal memory access")
        yield

    device.active = lost
    with pytest.raises(LostDeviceError):
        opened(bundle, device)


def test_every_card_of_the_kind_runs_it_and_is_compared_by_itself(bundle, half, caplog):
    keep(bundle, half)
    for name in ("NVIDIA GeForce RTX 4090", "NVIDIA L4"):
        caplog.clear()
        assert opened(bundle, card(name)).backend == "tensorrt-rtx"
        assert "is compared with float32" in caplog.text
    assert len(kernels()) == 2


def test_another_file_in_an_engines_place_is_compared_anew(bundle, half):
    keep(bundle, half)
    assert opened(bundle, card()).backend == "tensorrt-rtx"
    keep(bundle)
    with pytest.raises(DeviceError, match="does not compute the same"):
        opened(bundle, card())


def test_an_engine_that_computes_something_else_is_refused_and_stays_so(bundle, monkeypatch):
    keep(bundle)
    for _ in range(2):
        with pytest.raises(DeviceError, match="tensorrt-rtx does not compute the same as float32 here"):
            opened(bundle, card())
        monkeypatch.setattr(first_use, "open_network", lambda *_given: pytest.fail("it was compared again"))


def test_wiring_of_compiled_kernels_to_the_next_process(bundle, half):
    keep(bundle, half)
    opened(bundle, card())
    (path,) = kernels()
    assert path.stat().st_mode & 0o777 == 0o600
    content = path.read_bytes()
    assert content[32:].startswith(b"kernels of ")
    before = path.stat().st_mtime_ns
    device = card()
    opened(bundle, device).run(device.upload(np.zeros((1, 1, 16, 16, 16), np.float32)))
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (content, before)


class Config:
    """What a runtime cache is attached to."""

    def create_runtime_cache(self):
        return self

    def set_runtime_cache(self, cache):
        assert cache is self

    def deserialize(self, kernels):
        self.given = kernels
        return kernels != b"of another driver"

    def serialize(self):
        return b"new"


@pytest.mark.parametrize("spoil", ["damaged", "others", "driver", "none"])
def test_kernels_that_cannot_be_trusted_are_compiled_again(tmp_path, spoil):
    path = tmp_path / "engine.kernels"
    earlier, config = Config(), Config()
    earlier.serialize = lambda: b"of another driver" if spoil == "driver" else b"old"
    if spoil != "none":
        cache = KernelCache(path)
        cache.attach(earlier)
        cache.keep()
    if spoil == "damaged":
        path.write_bytes(path.read_bytes()[:-1])
    if spoil == "others":
        path.chmod(0o666)
    cache = KernelCache(path)
    cache.attach(config)
    assert getattr(config, "given", None) == (b"of another driver" if spoil == "driver" else None)
    cache.keep()
    again = Config()
    KernelCache(path).attach(again)
    assert again.given == b"new"


def test_without_an_engine_a_line_says_how_to_build_one(bundle):
    with pytest.raises(AbsentEngineError, match=r"no TensorRT for RTX engine of tiny for NVIDIA .* --builder rtx$"):
        opened(bundle, card())


def test_a_card_that_it_does_not_support_is_named(bundle, half):
    keep(bundle, half)
    with pytest.raises(AbsentEngineError, match=r"TensorRT for RTX does not support sm90 \(H100, H200\), only"):
        opened(bundle, card("NVIDIA H200", "9.0"))


def test_where_it_is_not_installed_a_line_says_how_to_install_it(bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(AbsentEngineError, match=r"TensorRT for RTX is not installed \(.*\); pip install '\.\[rtx\]'"):
        opened(bundle, card())
