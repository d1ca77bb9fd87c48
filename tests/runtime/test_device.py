"""Which device a name means, and what is said where it is not to be had."""

import importlib.util
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest

from flare_runtime.backends.selection import choose
from flare_runtime.compute.device import HOST, open_device, resolve
from flare_runtime.errors import DeviceError, UsageError
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
    monkeypatch.setattr("flare_runtime.backends.engine.distribution", distribution)
    monkeypatch.setattr("flare_runtime.compute.device.Path.exists", lambda _path: driver)
    assert choose(memory_bundle()).device == device


def test_the_host_moves_nothing():
    array = np.arange(3)
    assert open_device("cpu") is HOST
    assert not HOST.is_gpu
    assert HOST.upload(array) is array
    assert HOST.download(array) is array


@pytest.mark.skipif(importlib.util.find_spec("cupy") is not None, reason="cupy is installed")
def test_without_cupy_a_gpu_is_a_device_error_that_says_what_to_install():
    with pytest.raises(DeviceError, match=r"pip install '\.\[gpu\]' in the folder of flare-lite, or use --device cpu"):
        open_device("cuda:0")
