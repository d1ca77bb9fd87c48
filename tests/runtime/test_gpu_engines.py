"""Which engine a GPU takes, checked and measured at its first use: with CuPy and cuDNN stood in for."""

import dataclasses
import logging
import shutil
import sys
from contextlib import contextmanager
from dataclasses import replace
from threading import Event

import numpy as np
import pytest

from flare_runtime import Segmenter, segmenter
from flare_runtime.backends import first_use, onnxruntime_cuda
from flare_runtime.backends.cudnn import network as cudnn_network
from flare_runtime.backends.gpu_key import GpuEngineKey
from flare_runtime.backends.selection import choose, open_network, read_network
from flare_runtime.errors import DeviceError, GpuMemoryError, LostDeviceError
from flare_runtime.files.this_process import process_id
from flare_runtime.model.bundle import Bundle
from flare_runtime.options import RunOptions
from flare_runtime.pipeline.gpu_memory import CONTEXT_MIB, MIB, Placement
from tests.runtime.emulated_gpu import cudnn as stand_in
from tests.runtime.emulated_gpu.device import EmulatedDevice, EmulatedMemory

OPEN_ONNXRUNTIME = onnxruntime_cuda.open_networks
AUTO, CUDNN = (RunOptions("cuda:0", backend, "fp16") for backend in ("auto", "cudnn"))


@pytest.fixture(scope="module")
def bundle(eight_bundle):
    return Bundle.open(eight_bundle)


@pytest.fixture(autouse=True)
def emulation(tmp_path, monkeypatch):
    """The stand-in for cuDNN, an empty cache, and a mark in place of ONNX Runtime."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "cudnn", stand_in)
    monkeypatch.setattr(onnxruntime_cuda, "open_networks", lambda _choice: lambda _device: "ONNX Runtime")


def opened(bundle, options=AUTO, device=None, mib=4096):
    return read_network(choose(bundle, replace(options, gpu_memory_mib=mib)))(device or EmulatedDevice())


def test_what_the_first_case_needs_is_loaded_while_the_network_is_compiled(bundle, monkeypatch):
    warm, device = Event(), EmulatedDevice()
    device.warm_up = warm.set
    monkeypatch.setattr(segmenter, "open_device", lambda _name: device)
    monkeypatch.setattr(segmenter, "read_network", lambda _choice: lambda _device: warm.wait(120) and "the network")
    assert Segmenter.open(choose(bundle, AUTO), wait=False).network == "the network"


def test_a_gpu_that_cannot_be_warmed_up_is_no_error_of_its_own(bundle, monkeypatch):
    device = EmulatedDevice()
    device.warm_up = lambda: (_ for _ in ()).throw(LostDeviceError("gone"))
    monkeypatch.setattr(segmenter, "open_device", lambda _name: device)
    monkeypatch.setattr(segmenter, "read_network", lambda _choice: lambda _device: "the network")
    assert Segmenter.open(choose(bundle, AUTO)).network == "the network"


def never(*_args, **_options):
    raise AssertionError("it was compared again")


def test_cudnn_is_compared_once_and_computes_the_mean_of_the_folds(bundle, monkeypatch, caplog):
    device = EmulatedDevice()
    network = opened(bundle, device=device)
    assert (network.backend, network.device, network.precision, network.batch) == ("cudnn", "cuda:0", "fp16", 1)
    assert "compared with float32 on the CPU, once" in caplog.text
    tile = np.random.default_rng(0).standard_normal((1, 1, 16, 16, 16)).astype(np.float32)
    expected = open_network(bundle, RunOptions(device="cpu", precision="fp32")).run(tile)
    assert np.abs(device.download(network.run(device.upload(tile))) - expected).max() < 0.02 * np.abs(expected).max()
    monkeypatch.setattr(first_use, "open_network", never)
    assert opened(bundle).backend == "cudnn"


@pytest.fixture
def wrong(monkeypatch):
    """A backend that computes another network."""
    right = cudnn_network.CudnnNetwork.run

    def run(self, tiles):
        logits = right(self, tiles)
        logits[:, 0] += 1 + logits.std()
        return logits

    monkeypatch.setattr(cudnn_network.CudnnNetwork, "run", run)


@pytest.mark.usefixtures("wrong")
def test_what_does_not_compute_the_same_is_left_for_onnx_runtime(bundle, monkeypatch, caplog):
    assert opened(bundle) == "ONNX Runtime"
    assert "cudnn is left for another engine: cudnn does not compute the same as float32 here" in caplog.text
    monkeypatch.setattr(first_use, "open_network", never)
    assert opened(bundle) == "ONNX Runtime"
    with pytest.raises(DeviceError, match=r"its scores differ by .* of their deviation, 0.05 is allowed"):
        opened(bundle, CUDNN)


def test_without_a_private_cache_auto_does_not_compare_every_time(bundle, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert opened(bundle) == "ONNX Runtime"
    assert "no private cache folder" in caplog.text
    assert opened(bundle, CUDNN).backend == "cudnn"


def test_a_first_use_that_died_is_not_tried_again_at_once(bundle, monkeypatch):
    fails_with(LostDeviceError("gone"), bundle, monkeypatch, by="999999999")
    assert opened(bundle) == "ONNX Runtime"
    now = first_use.time.time()
    monkeypatch.setattr(first_use.time, "time", lambda: now + 601)
    assert opened(bundle).backend == "cudnn"


def test_a_first_use_that_is_not_over_elsewhere_does_not_lock_others_out(bundle, monkeypatch):
    fails_with(LostDeviceError("gone"), bundle, monkeypatch, by="1")
    assert opened(bundle, CUDNN).backend == "cudnn"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError("full")])
def test_what_ends_a_first_use_but_not_its_process_says_nothing_of_the_engine(bundle, monkeypatch, error):
    fails_with(error, bundle, monkeypatch, by="999999999")
    assert opened(bundle).backend == "cudnn"


def fails_with(error, bundle, monkeypatch, by, device=None, kind=None):
    """Let the first use end with an error, in the process of that number."""

    def run(*_args):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(cudnn_network.CudnnNetwork, "run", run)
        patch.setattr(first_use, "process_id", lambda: f"{process_id().rsplit('/', 2)[0]}/{by}/")
        with pytest.raises(kind or type(error)):
            opened(bundle, device=device)


class LostDevice(EmulatedDevice):
    """A GPU on which an error of CUDA shows only where the device was active, as it does with CuPy."""

    @contextmanager
    def active(self):
        try:
            yield
        except RuntimeError as error:
            raise LostDeviceError(str(error)) from error


def test_an_error_of_cuda_in_the_first_use_speaks_of_the_engine(bundle, monkeypatch):
    error = RuntimeError("an illegal memory access was encountered")
    fails_with(error, bundle, monkeypatch, by="999999999", device=LostDevice(), kind=LostDeviceError)
    assert opened(bundle) == "ONNX Runtime"


def test_too_little_memory_for_the_engine_that_was_asked_for_fails_no_case(bundle, monkeypatch):
    def full(*_args):
        raise GpuMemoryError("1 byte on top of 2")

    monkeypatch.setattr(cudnn_network.CudnnRuntime, "__init__", full)
    with pytest.raises(DeviceError, match=r"out of GPU memory \(1 byte on top of 2\); raise --gpu-memory or use"):
        opened(bundle, CUDNN)
    assert opened(bundle) == "ONNX Runtime"


def test_no_memory_for_the_comparison_says_nothing_of_the_engine(bundle, monkeypatch, caplog):
    with monkeypatch.context() as patch:
        patch.setattr(cudnn_network.CudnnRuntime, "__init__", lambda *_args: (_ for _ in ()).throw(MemoryError("full")))
        with pytest.raises(MemoryError):
            opened(bundle)
    assert opened(bundle).backend == "cudnn"


def test_where_cudnn_has_no_plan_every_run_says_so(bundle, monkeypatch, caplog):
    monkeypatch.setattr(stand_in, "FAILING", {0, 1, 2})
    for _ in range(2):
        caplog.clear()
        assert opened(bundle) == "ONNX Runtime"
        assert "cudnn is left for another engine: cuDNN has no plan for the convolution" in caplog.text


def test_a_network_of_another_kind_is_left_for_onnx_runtime(bundle, monkeypatch, caplog):
    monkeypatch.setattr("flare_runtime.backends.cudnn.steps.GROUP", 16)
    assert opened(bundle) == "ONNX Runtime"
    assert "cudnn is left for another engine: the cudnn backend cannot run this network" in caplog.text


def test_where_cudnn_is_not_installed_auto_says_nothing(bundle, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "cudnn", None)
    assert opened(bundle) == "ONNX Runtime"
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    with pytest.raises(DeviceError, match=r"cuDNN's frontend cannot be used .*; pip install '\.\[gpu\]'"):
        opened(bundle, CUDNN)


def test_the_budget_is_planned_with_what_was_measured(bundle):
    device = EmulatedDevice()
    network = opened(bundle, device=device)
    budget = network.budget
    assert budget.engine.outside_bytes == CONTEXT_MIB * MIB
    assert budget.engine.total_bytes + budget.arrays_bytes == 4096 * MIB
    assert device.limit == budget.pool_bytes == 4096 * MIB - CONTEXT_MIB * MIB
    placement = Placement(True, True, True, 100 * MIB)
    network.memory_mib(placement)
    assert opened(bundle).budget.engine.outside_bytes == 700 * MIB
    # The last run's is planned with, where NVML tells what is this process's.
    for memory in (EmulatedMemory(650), EmulatedMemory(2000, is_exact=False)):
        opened(bundle, device=EmulatedDevice(memory=memory)).memory_mib(placement)
    assert opened(bundle).budget.engine.outside_bytes == 650 * MIB
    # What leaves nothing was another program's in that process.
    opened(bundle, device=EmulatedDevice(memory=EmulatedMemory(9000))).memory_mib(placement)
    assert opened(bundle).budget.engine.outside_bytes == CONTEXT_MIB * MIB


def test_planned_and_measured_memory_are_those_of_the_whole_process(bundle):
    network = opened(bundle)
    placement = Placement(True, True, True, 100 * MIB)
    expected = -(-(network.budget.engine.total_bytes + 100 * MIB) // MIB)
    assert network.memory_mib(placement) == {"planned": expected, "measured": 900}


def test_too_little_memory_is_said_with_what_is_needed(bundle):
    with pytest.raises(
        DeviceError, match=r"--gpu-memory 600 is too little: the network in cudnn needs about 6[56]\d MiB"
    ):
        opened(bundle, CUDNN, mib=600)
    assert opened(bundle, mib=600) == "ONNX Runtime"


def test_the_key_tells_engines_apart(bundle):
    key = GpuEngineKey.of(bundle, EmulatedDevice(), "cudnn", "1", "fp16")
    assert len(key.networks) == 2
    others = {field.name: "other" for field in dataclasses.fields(key)}
    assert all(dataclasses.replace(key, **{name: value}) != key for name, value in others.items())


class RecordedNetwork:
    """A network of ONNX Runtime on a GPU as far as it is told what it may take."""

    backend, device, batch = "onnxruntime", "cuda:0", 1

    def __init__(self, onnx, precision, manifest, device, memory_bytes):
        self.onnx, self.precision, self.memory_bytes = onnx, precision, memory_bytes


@pytest.fixture
def onnxruntime_networks(monkeypatch):
    made = []
    monkeypatch.setattr(
        onnxruntime_cuda, "OnnxRuntimeCudaNetwork", lambda *given: made.append(RecordedNetwork(*given)) or made[-1]
    )
    monkeypatch.setattr(onnxruntime_cuda, "open_networks", OPEN_ONNXRUNTIME)
    return made


@pytest.mark.parametrize(("precision", "mib"), [("fp16", 4096), ("fp32", 2000)])
def test_onnx_runtime_gets_half_of_the_memory_until_its_need_was_measured(bundle, onnxruntime_networks, precision, mib):
    device = EmulatedDevice()
    network = opened(bundle, RunOptions("cuda:0", "onnxruntime", precision), device, mib)
    assert (network.backend, network.precision) == ("onnxruntime", precision)
    files = bundle.networks(precision)
    assert [made.onnx for made in onnxruntime_networks] == [bundle.read(file) for file in files]
    assert network.budget.engine.outside_bytes == mib * MIB // 2
    assert {made.memory_bytes for made in onnxruntime_networks} == {(mib // 2 - 300) * MIB // 2}
    assert device.limit == mib * MIB - mib * MIB // 2
    network.memory_mib(Placement(True, True, True, MIB))
    again = opened(bundle, RunOptions("cuda:0", "onnxruntime", precision), device, mib)
    assert again.budget.engine.outside_bytes == 700 * MIB
    assert onnxruntime_networks[-1].memory_bytes == 400 * MIB // 2


class SwappedBatch:
    """A right network whose second tile of a batch gets the first's logits."""

    batch = 2

    def __init__(self, bundle):
        self._network = open_network(bundle, RunOptions(device="cpu", precision="fp32"))

    def run(self, tiles):
        assert len(tiles) == 2
        return np.repeat(self._network.run(tiles[:1]), 2, axis=0)


def test_every_tile_of_a_batch_is_compared(bundle):
    device = EmulatedDevice()
    use = first_use.FirstUse(bundle, GpuEngineKey.of(bundle, device, "cudnn", "1", "fp16", 2), required=True)
    with pytest.raises(DeviceError, match="does not compute the same"), use.watched(device):
        use.compare(SwappedBatch(bundle), device)
