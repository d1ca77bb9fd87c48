"""The builder of TensorRT for a GPU, and the whole command, with stand-ins for its engines and the GPU.

A test whose name says `wiring` shows that calls and values reach the stand-in and come back from it, no more: that
TensorRT takes such calls, the tests marked `tensorrt` show. What parses, types and inspects is TensorRT for RTX's own,
which `test_rtx_engines.py` builds with.
"""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("tensorrt_rtx")

import tensorrt_rtx as rtx

from flare_export import cli
from flare_export.engine import builder
from flare_runtime.backends.onnxruntime_cpu import OnnxRuntimeNetwork
from flare_runtime.backends.tensorrt.library import TENSORRT
from flare_runtime.backends.tensorrt.network import find_engines, load_engine
from flare_runtime.compute import device as devices
from flare_runtime.errors import DeviceError
from flare_runtime.model.bundle import Bundle
from tests.export.stand_in_builder import builder_module
from tests.runtime.stand_in_tensorrt import StandInDevice

Flag = rtx.BuilderFlag


def use(monkeypatch, module):
    """Put `module` in TensorRT's place and return what builds with it."""
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    return builder


@pytest.fixture
def tensorrt():
    return builder_module()


@pytest.fixture
def engines(monkeypatch, tensorrt):
    return use(monkeypatch, tensorrt)


@pytest.fixture
def bundle(tiny_bundle):
    return Bundle.open(tiny_bundle)


@pytest.fixture
def half(bundle):
    return bundle.read(bundle.networks("fp16")[0])


def build(engines, onnx, batch=2, **options):
    return engines.TensorRTBuilder(StandInDevice(), engines.BuildOptions(**options))(onnx, batch)


def test_wiring_of_a_whole_batch_through_an_engine(engines, half):
    built = build(engines, half, 3)
    tiles = np.random.default_rng(0).standard_normal((3, 1, 16, 16, 16)).astype(np.float32)
    expected = [OnnxRuntimeNetwork(half, threads=1).run(tile[None]) for tile in tiles]
    np.testing.assert_allclose(built.run(tiles), np.concatenate(expected), atol=1e-3)
    assert built.memory_bytes == 1000


def test_wiring_of_options_to_the_builder(engines, half, tensorrt):
    build(engines, half)
    assert tensorrt.asked.profiling_verbosity == rtx.ProfilingVerbosity.DETAILED
    assert (tensorrt.asked.flags, tensorrt.asked.limits) == ([Flag.DISABLE_TIMING_CACHE], {})
    build(engines, half, workspace_mib=64, version_compatible=True)
    assert tensorrt.asked.limits == {rtx.MemoryPoolType.WORKSPACE: 64 << 20}
    assert Flag.VERSION_COMPATIBLE in tensorrt.asked.flags


def test_a_build_that_fails_is_a_device_error(engines, half, tensorrt):
    tensorrt.fails = True
    with pytest.raises(DeviceError, match=r"11\.4\.0\.106 could not build the engine: no tactic was found$"):
        build(engines, half)


def test_a_driver_that_tensorrt_does_not_like_is_a_device_error_and_no_crash(engines, half, tensorrt):
    tensorrt.broken = True
    with pytest.raises(DeviceError, match="cannot build here: CUDA driver version is insufficient"):
        build(engines, half)


def test_timings_are_kept_and_used_again(engines, half, tensorrt, tmp_path):
    path = tmp_path / "timings"
    build(engines, half, timing_cache=path)
    assert path.read_bytes() == b"timings of 11.4.0.106+"
    assert path.stat().st_mode & 0o777 == 0o600
    build(engines, half, timing_cache=path)
    assert path.read_bytes() == b"timings of 11.4.0.106++"
    assert Flag.DISABLE_TIMING_CACHE not in tensorrt.asked.flags


@pytest.mark.parametrize(("content", "mode"), [(b"timings of 10.16", 0o600), (b"timings of 11.4.0.106+", 0o666)])
def test_timings_of_another_version_or_that_others_could_write_are_not_used(engines, half, tmp_path, content, mode):
    path = tmp_path / "timings"
    path.write_bytes(content)
    path.chmod(mode)
    build(engines, half, timing_cache=path)
    assert path.read_bytes() == b"timings of 11.4.0.106+"


def test_timings_are_kept_apart_by_gpu_and_version(engines):
    assert engines.timings_name(StandInDevice()) == "NVIDIA-Stand-in-11.4.0.106.timings"


# --- the whole command


@pytest.fixture
def machine(engines, monkeypatch, tmp_path):
    """A machine with one GPU and an empty cache."""
    monkeypatch.setattr(devices, "CudaDevice", StandInDevice)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "flare-lite" / "tensorrt"


def test_wiring_of_the_command_to_what_the_runtime_then_finds(machine, bundle, half, capsys):
    assert cli.main(["trt", str(bundle.path), "--batch", "1", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8
    assert all(line.startswith("network.fp16.onnx, batch ") for line in lines)
    assert sorted(path.suffix for path in machine.iterdir()) == [".engine", ".engine", ".lock", ".lock", ".timings"]
    device = StandInDevice()
    (network,) = [load_engine(TENSORRT, found, device) for found in find_engines(TENSORRT, bundle, device)]
    assert network.batch == 3
    tile = np.random.default_rng(0).standard_normal((1, 1, 16, 16, 16)).astype(np.float32)
    expected = OnnxRuntimeNetwork(half, threads=1).run(tile)
    np.testing.assert_allclose(network.run(device.upload(tile)), expected, atol=1e-3)


def test_a_second_command_builds_nothing(machine, bundle, tensorrt, capsys):
    assert cli.main(["trt", str(bundle.path)]) == 0
    tensorrt.fails = True
    capsys.readouterr()
    assert cli.main(["trt", str(bundle.path)]) == 0
    assert "already built" in capsys.readouterr().out
    assert cli.main(["trt", str(bundle.path), "--rebuild"]) == 5


def test_a_refused_engine_ends_the_command_and_is_not_kept(machine, bundle, tensorrt, capsys):
    tensorrt.layers = "Float"
    assert cli.main(["trt", str(bundle.path)]) == 3
    error = capsys.readouterr().err
    assert error.startswith("flare-export trt: 1 of 1 convolutions compute in float32")
    assert error.count("\n") == 1
    assert not list(machine.glob("*.engine"))


def test_wiring_of_the_commands_options_to_the_builder(machine, bundle, tensorrt):
    arguments = ["--workspace-mib", "5", "--version-compatible", "--no-timing-cache", "--device", "cuda:1"]
    assert cli.main(["trt", str(bundle.path), *arguments]) == 0
    assert tensorrt.asked.limits == {rtx.MemoryPoolType.WORKSPACE: 5 << 20}
    assert tensorrt.asked.flags == [Flag.VERSION_COMPATIBLE, Flag.DISABLE_TIMING_CACHE]
    assert not list(machine.glob("*.timings"))


def test_the_cpu_is_no_device_for_tensorrt(machine, bundle, capsys):
    assert cli.main(["trt", str(bundle.path), "--device", "cpu"]) == 2
    assert "is no GPU" in capsys.readouterr().err


def test_without_a_private_cache_nothing_is_built(machine, bundle, tensorrt, capsys):
    machine.mkdir(parents=True)
    machine.chmod(0o777)
    assert cli.main(["trt", str(bundle.path)]) == 6
    assert "XDG_CACHE_HOME" in capsys.readouterr().err
    assert tensorrt.asked is None


def test_the_command_needs_no_torch(machine, bundle, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("flare_export.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert importlib.import_module("flare_export.cli").main(["trt", str(bundle.path)]) == 0


def test_wiring_of_the_lean_runtime_to_what_was_built_compatible(machine, bundle, monkeypatch):
    assert cli.main(["trt", str(bundle.path), "--version-compatible"]) == 0
    lean = builder_module("11.6.0.1")
    lean.__name__ = "tensorrt_lean"
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_lean", lean)
    assert TENSORRT.is_lean()
    assert len(find_engines(TENSORRT, bundle, StandInDevice())) == 1
    with pytest.raises(DeviceError, match="builds none"):
        TENSORRT.check_builder()
    assert not [path for path in Path(bundle.path).iterdir() if path.suffix == ".engine"]
