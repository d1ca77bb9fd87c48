"""Which device a name means, and what is said where it is not to be had."""

import importlib.util
import sys
from contextlib import contextmanager, nullcontext
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import numpy as np
import pytest

from flare_runtime.backends.selection import choose
from flare_runtime.compute.device import HOST, as_gpu, open_device, resolve
from flare_runtime.errors import DeviceError, GpuMemoryError, UsageError
from tests.runtime.manifests import memory_bundle


@pytest.mark.parametrize(
    ("name", "device"), [("cpu", "cpu"), ("cuda", "cuda:0"), ("cuda:0", "cuda:0"), ("cuda:12", "cuda:12")]
)
def test_names_of_devices(name, device):
    assert resolve(name) == device


@pytest.mark.parametrize("name", ["gpu", "", "cuda:", "cuda:-1", "cuda:x", "CPU", "cuda:0 "])
def test_other_names_are_usage_errors(name):
    with pytest.raises(UsageError, match=r"choose one of auto, cpu, cuda:0, cuda:1, \.\.\."):
        resolve(name)


@pytest.mark.parametrize(
    ("driver", "installed", "device"),
    [
        (True, {"cupy", "onnxruntime-gpu"}, "cuda:0"),
        (False, {"cupy", "onnxruntime-gpu"}, "cpu"),
        (True, {"onnxruntime-gpu"}, "cpu"),
        (True, {"cupy", "tensorrt"}, "cuda:0"),
        (True, {"cupy", "tensorrt_lean"}, "cuda:0"),
        (True, {"cupy"}, "cpu"),
    ],
)
def test_auto_is_a_gpu_only_where_all_it_takes_is_there(monkeypatch, driver, installed, device):
    def distribution(name):
        if name not in installed:
            raise PackageNotFoundError(name)

    monkeypatch.setattr("flare_runtime.compute.device.find_spec", lambda name: name in installed)
    monkeypatch.setattr("flare_runtime.backends.engine.find_spec", lambda name: name in installed)
    monkeypatch.setattr("importlib.metadata.distribution", distribution)
    monkeypatch.setattr("flare_runtime.compute.device.Path.exists", lambda _path: driver)
    assert choose(memory_bundle()).device == device


def test_the_host_moves_nothing():
    array = np.arange(3)
    assert open_device("cpu") is HOST
    assert not HOST.is_gpu
    assert HOST.upload(array) is array
    assert HOST.download(array) is array


@pytest.mark.skipif(importlib.util.find_spec("cupy") is not None, reason="cupy is installed")
def test_a_cupy_that_finds_no_folder_to_write_to_is_a_device_error(monkeypatch, tmp_path):
    (tmp_path / "cupy.py").write_text("raise OSError(30, 'Read-only file system', '/home')", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    with pytest.raises(DeviceError, match=r"Read-only file system: '/home'\); set CUPY_CACHE_DIR to a folder"):
        open_device("cuda:0")


def test_without_cupy_a_gpu_is_a_device_error_that_says_what_to_install():
    with pytest.raises(DeviceError, match=r"pip install '\.\[gpu\]' in the folder of flare-lite, or use --device cpu"):
        open_device("cuda:0")


class Pool:
    """What stands in for a `cupy.cuda.MemoryPool`."""

    def __init__(self):
        self.limit, self.freed = 0, False

    def malloc(self, size):
        return self

    def set_limit(self, size):
        self.limit = size

    def total_bytes(self):
        return 0

    def free_all_blocks(self):
        self.freed = True


@pytest.fixture
def cupy(monkeypatch):
    """What stands in for CuPy, with its current allocator: it shows the wiring alone."""
    default = Pool()

    @contextmanager
    def using_allocator(malloc):
        before, cuda.allocator = cuda.allocator, malloc
        try:
            yield
        finally:
            cuda.allocator = before

    class Error(Exception):
        pass

    runtime = SimpleNamespace(
        CUDARuntimeError=Error,
        getDeviceCount=lambda: 1,
        getDeviceProperties=lambda _index: {"name": b"a GPU", "major": 9, "minor": 0},
        driverGetVersion=lambda: 13000,
        memGetInfo=lambda: (1, 1),
    )
    cuda = SimpleNamespace(
        runtime=runtime,
        driver=SimpleNamespace(CUDADriverError=Error),
        cublas=SimpleNamespace(CUBLASError=Error),
        memory=SimpleNamespace(OutOfMemoryError=MemoryError),
        Device=lambda _index: nullcontext(),
        Stream=lambda non_blocking: nullcontext(),
        MemoryPool=Pool,
        using_allocator=using_allocator,
        allocator=default.malloc,
    )
    module = SimpleNamespace(cuda=cuda, get_default_memory_pool=lambda: default)
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


def test_a_gpus_memory_is_bounded_for_its_device_alone(cupy):
    first, second = open_device("cuda:0"), open_device("cuda:0")
    first.limit_memory(100)
    second.limit_memory(200)
    first.release()
    assert (first.pool.limit, second.pool.limit, cupy.get_default_memory_pool().limit) == (100, 200, 0)
    assert (first.pool.freed, second.pool.freed, cupy.get_default_memory_pool().freed) == (True, False, False)


def test_arrays_are_the_devices_only_while_it_is_active(cupy):
    first, second = open_device("cuda:0"), open_device("cuda:0")
    with first.active():
        assert cupy.cuda.allocator(1) is first.pool
        with second.active():
            assert cupy.cuda.allocator(1) is second.pool
        assert cupy.cuda.allocator(1) is first.pool
        with pytest.raises(GpuMemoryError), second.active():
            raise MemoryError
        assert cupy.cuda.allocator(1) is first.pool
    assert cupy.cuda.allocator(1) is cupy.get_default_memory_pool()


def test_what_the_first_case_would_wait_for_is_loaded_beforehand(cupy):
    device, products = open_device("cuda:0"), []
    cupy.zeros = np.zeros
    cupy.matmul = lambda *given: products.append((cupy.cuda.allocator(1) is device.pool, np.matmul(*given)))
    device.stream.synchronize = lambda: products.append("waited")
    device.warm_up()
    (on_the_device, product), waited = products
    assert on_the_device
    assert product.dtype == np.float32
    assert waited == "waited"


def test_only_a_gpu_is_taken_for_one(cupy):
    device = open_device("cuda:0")
    assert as_gpu(device) is device
    with pytest.raises(UsageError, match="cpu is no GPU; give cuda:0"):
        as_gpu(HOST)
