"""TensorRT's backend around TensorRT itself, which a stand-in with the same calls takes the place of.

A test whose name says `wiring` shows that calls and values reach the stand-in and come back from it, no more: that
TensorRT takes such calls, the tests marked `tensorrt` show.
"""

import gc
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flare_runtime.backends.engine import AbsentEngineError
from flare_runtime.backends.selection import choose, read_network
from flare_runtime.backends.tensorrt import network as tensorrt_network
from flare_runtime.backends.tensorrt.cache import EngineCache, EngineKey
from flare_runtime.backends.tensorrt.library import TENSORRT
from flare_runtime.errors import DeviceError
from flare_runtime.model.bundle import Bundle
from flare_runtime.options import RunOptions
from flare_runtime.pipeline.gpu_memory import CONTEXT_MIB, MIB
from tests.runtime.manifests import make_manifest
from tests.runtime.stand_in_tensorrt import (
    RECORD,
    BrokenRuntime,
    DeviceArray,
    StandInDevice,
    engine_bytes,
    stand_in_module,
)

PATCH = (4, 4, 4)


def load(monkeypatch, **modules):
    """Return the backend beside the given TensorRT and no other."""
    for name in ("tensorrt", "tensorrt_lean"):
        monkeypatch.setitem(sys.modules, name, modules.get(name))
    return tensorrt_network


@pytest.fixture
def backend(monkeypatch):
    return load(monkeypatch, tensorrt=stand_in_module())


@pytest.fixture
def device():
    return StandInDevice()


@pytest.fixture
def network(backend, device):
    return backend.TensorRTNetwork(TENSORRT, engine_bytes(batch=3), device)


def tiles(device, count, channels=1):
    values = np.random.default_rng(count).standard_normal((count, channels, *PATCH)).astype(np.float32)
    return values, device.upload(values)


def logits_of(values):
    return np.concatenate([-3 * values[:, :1], 3 * values[:, :1]], axis=1)


def test_wiring_what_a_network_says_of_itself(network):
    assert (network.backend, network.device, network.precision) == ("tensorrt", "cuda:0", "fp16")
    assert (network.batch, network.memory_bytes) == (3, 1000)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_whole_and_partial_batches_give_each_tile_its_own_logits(network, device, count):
    values, given = tiles(device, count)
    logits = network.run(given)
    assert logits.shape == (count, 2, *PATCH)
    np.testing.assert_array_equal(logits, logits_of(values))
    np.testing.assert_array_equal(given, values)


def test_a_partial_batch_after_a_whole_one_is_its_own(network, device):
    for count in (3, 1, 2, 3, 1):
        values, given = tiles(device, count)
        np.testing.assert_array_equal(network.run(given), logits_of(values))


@pytest.mark.parametrize("kind", ["strided", "unaligned", "double"])
def test_tiles_that_tensorrt_cannot_read_as_they_lie_are_copied(network, device, kind):
    values, given = tiles(device, 3)
    if kind == "strided":
        given = np.repeat(given, 2, axis=-1)[..., ::2]
        assert not given.flags.c_contiguous
    elif kind == "unaligned":
        block = device.upload(np.zeros(values.size + 1, np.float32))[1:]
        block[:] = values.ravel()
        given = block.reshape(values.shape)
        assert given.data.ptr % 256
    else:
        given = values.astype(np.float64).view(DeviceArray)
    np.testing.assert_array_equal(network.run(given), logits_of(values))


def test_the_logits_memory_is_used_again(network, device):
    _, given = tiles(device, 3)
    first = network.run(given)
    taken = list(device.taken)
    second = network.run(given)
    assert first.data.ptr == second.data.ptr
    assert device.taken == taken


def test_memory_is_taken_by_the_first_run_and_given_back_by_release(network, device):
    values, given = tiles(device, 3)
    before = list(device.taken)
    network.run(given)
    taken = device.taken[len(before) :]
    assert taken == [1000, 3 * 2 * 64 * 4]
    network.release()
    assert [value for value in vars(network).values() if isinstance(value, np.ndarray)] == []
    np.testing.assert_array_equal(network.run(given), logits_of(values))
    assert device.taken[len(before) + 2 :] == taken


def test_an_engine_that_needs_no_memory_runs(backend, device):
    values, given = tiles(device, 2)
    network = backend.TensorRTNetwork(TENSORRT, engine_bytes(memory=0), device)
    np.testing.assert_array_equal(network.run(given), logits_of(values))


@pytest.mark.parametrize("shape", [(4, 1, 4, 4, 4), (0, 1, 4, 4, 4), (3, 2, 4, 4, 4), (3, 1, 4, 4, 8)])
def test_tiles_that_the_engine_does_not_take_never_reach_it(network, device, shape):
    with pytest.raises(ValueError, match="takes up to 3 tiles"):
        network.run(device.upload(np.zeros(shape, np.float32)))


def test_an_engine_that_tensorrt_does_not_take_is_a_device_error(backend, device):
    with pytest.raises(DeviceError, match=r"11\.4\.0\.106 does not take the engine: the magic tag does not match$"):
        backend.TensorRTNetwork(TENSORRT, b"of another version", device)


def test_a_driver_that_tensorrt_does_not_like_is_a_device_error_and_no_crash(monkeypatch, device):
    module = stand_in_module()
    module.Runtime = BrokenRuntime
    backend = load(monkeypatch, tensorrt=module)
    with pytest.raises(DeviceError, match="cannot use cuda:0: CUDA initialization failure; CUDA driver version is ins"):
        backend.TensorRTNetwork(TENSORRT, engine_bytes(), device)
    gc.collect()
    assert not BrokenRuntime.deleted


def test_wiring_of_the_leave_to_run_code_inside_an_engine(backend, device):
    engine = engine_bytes(version_compatible=True)
    with pytest.raises(DeviceError, match="does not take"):
        backend.TensorRTNetwork(TENSORRT, engine, device)
    assert backend.TensorRTNetwork(TENSORRT, engine, device, version_compatible=True).batch == 2


def test_a_run_that_fails_is_a_device_error(backend, device):
    _, given = tiles(device, 2)
    network = backend.TensorRTNetwork(TENSORRT, engine_bytes(factor=None), device)
    with pytest.raises(DeviceError, match=r"could not run 2 tile\(s\) on cuda:0"):
        network.run(given)


@pytest.mark.parametrize(("layers", "text"), [('{"Layers": []}', '{"Layers": []}'), (None, "")])
def test_wiring_of_what_tensorrt_says_of_the_layers(backend, device, layers, text):
    assert backend.TensorRTNetwork(TENSORRT, engine_bytes(layers=layers), device).layer_information() == text


def test_without_tensorrt_one_line_says_what_to_install(monkeypatch):
    with pytest.raises(DeviceError, match=r"pip install '\.\[tensorrt\]'") as caught:
        load(monkeypatch).TensorRTNetwork(TENSORRT, engine_bytes(), StandInDevice())
    assert "\n" not in str(caught.value)


def test_the_lean_runtime_is_taken_where_there_is_no_other(monkeypatch):
    lean = stand_in_module("tensorrt_lean", "11.3.0.99")
    load(monkeypatch, tensorrt_lean=lean)
    assert TENSORRT.is_lean()
    load(monkeypatch, tensorrt=stand_in_module(), tensorrt_lean=lean)
    assert (TENSORRT.is_lean(), TENSORRT.version()) == (False, "11.4.0.106")


# --- engines of a bundle


def networks_of(bundle, device, **options):
    """Return what runs the engines that there are of a bundle."""
    found = tensorrt_network.find_engines(TENSORRT, bundle, device, **options)
    return [tensorrt_network.load_engine(TENSORRT, engine, device) for engine in found]


@pytest.fixture
def bundle(tmp_path):
    files = [
        {"name": f"{fold}.onnx", "role": "network", "sha256": fold * 64, "bytes": 1, "precision": "fp16", "fold": fold}
        for fold in "01"
    ]
    return Bundle(tmp_path / "bundle", make_manifest(patch=list(PATCH), files=files), "0" * 64)


@pytest.fixture
def cache(backend, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return EngineCache(backend.cache_folder("tensorrt"))


def keep(cache, backend, device, fold, batch=2, **options):
    card = (device.gpu_name, device.compute_capability)
    key = EngineKey.of(TENSORRT, fold * 64, card, PATCH, batch, **options)
    return cache.find_or_build(key, lambda: (engine_bytes(batch, factor=float(fold) + 1), RECORD))


def test_wiring_of_gpu_and_version_into_the_key(backend):
    key = EngineKey.of(TENSORRT, "0" * 64, ("NVIDIA Stand-in", "9.0"), PATCH, 2)
    assert (key.gpu, key.compute_capability, key.tensorrt) == ("NVIDIA Stand-in", "9.0", "11.4.0.106")
    assert key.name.startswith("tensorrt-11.4.0.106-sm90-batch2-")


def test_a_bundles_engines_are_loaded_fold_by_fold(bundle, backend, cache, device):
    assert networks_of(bundle, device) == []
    keep(cache, backend, device, "1")
    assert networks_of(bundle, device) == []  # of one fold alone
    keep(cache, backend, device, "0")
    networks = networks_of(bundle, device)
    values, given = tiles(device, 1)
    for factor, network in enumerate(networks, start=1):
        np.testing.assert_array_equal(network.run(given)[:, 1:], factor * values)
    assert [network.batch for network in networks] == [2, 2]


def test_a_bound_of_memory_is_kept(bundle, backend, cache, device):
    for fold in "01":
        keep(cache, backend, device, fold)
    assert len(networks_of(bundle, device, memory_bytes=2000)) == 2
    told = []
    assert networks_of(bundle, device, memory_bytes=1999, report=told.append) == []
    assert len(told) == 1


def test_the_lean_runtime_finds_compatible_engines_of_earlier_versions(bundle, backend, cache, device, monkeypatch):
    for fold in "01":
        keep(cache, backend, device, fold)
        keep(cache, backend, device, fold, batch=1, version_compatible=True)
    load(monkeypatch, tensorrt_lean=stand_in_module("tensorrt_lean", "11.5.0.1"))
    assert [network.batch for network in networks_of(bundle, device)] == [1, 1]


def test_an_engine_inside_a_bundle_is_never_taken(bundle, backend, cache, device):
    bundle.path.mkdir()
    for fold in "01":
        path = keep(cache, backend, device, fold).path
        path.rename(bundle.path / path.name)
    assert networks_of(bundle, device) == []


def test_without_a_private_folder_there_are_no_engines(bundle, backend, cache, device):
    for fold in "01":
        path = keep(cache, backend, device, fold).path
    path.parent.chmod(0o777)
    told = []
    assert networks_of(bundle, device, report=told.append) == []
    assert told == ["there is no private cache folder, so no TensorRT engine"]


def opened(bundle, device, mib=4096):
    choice = choose(bundle, RunOptions("cuda:0", "tensorrt", gpu_memory_mib=mib))
    return read_network(choice)(device)


def test_engines_are_opened_within_the_memory_that_is_allowed(bundle, backend, cache, device):
    for fold in "01":
        keep(cache, backend, device, fold)
    network = opened(bundle, device)
    assert (network.backend, network.precision, network.batch) == ("tensorrt", "fp16", 2)
    values, given = tiles(device, 2)
    np.testing.assert_array_equal(network.run(given)[:, 1:], 1.5 * values)  # the mean of 1 and 2 times
    # Two engines of 1,000 bytes in the pool; CUDA and the weights, 2 bytes for each of 1,000 parameters, beside it.
    outside = CONTEXT_MIB * MIB + 2 * 2 * 1000
    assert (network.budget.engine.outside_bytes, network.budget.engine.pool_bytes) == (outside, 2000)
    assert device.limit == network.budget.pool_bytes == 4096 * MIB - outside
    with pytest.raises(DeviceError, match="engines of batch 2 are not used: they take 2,000 bytes of 0; build one"):
        opened(bundle, device, 640)


def test_without_engines_a_line_says_why_and_how_to_build_them(bundle, backend, cache, device):
    with pytest.raises(AbsentEngineError, match=r"no TensorRT engine of bundle for NVIDIA Stand-in can be used; build"):
        opened(bundle, device)
    path = keep(cache, backend, device, "0").path
    path.write_bytes(path.read_bytes()[:-1])
    keep(cache, backend, device, "1")
    with pytest.raises(DeviceError, match=r"can be used: .* cut short.*; build one: flare-export trt ") as caught:
        opened(bundle, device)
    assert not isinstance(caught.value, AbsentEngineError)  # `auto` says so


def test_a_bundle_without_float16_network_has_no_engines(backend, device, tmp_path):
    assert networks_of(Bundle(tmp_path, make_manifest(), "0" * 64), device) == []


REAL = """
import gc, sys
from flare_runtime.backends.tensorrt.library import RTX, TENSORRT
from flare_runtime.backends.tensorrt.network import TensorRTNetwork
from flare_runtime.errors import DeviceError
from tests.runtime.stand_in_tensorrt import StandInDevice
try:
    TensorRTNetwork({"tensorrt_lean": TENSORRT, "tensorrt_rtx": RTX}[sys.argv[1]], b"no engine", StandInDevice())
except DeviceError as error:
    print(str(error))
gc.collect()
"""


@pytest.mark.parametrize("module", ["tensorrt_lean", "tensorrt_rtx"])
def test_a_real_runtime_refuses_with_a_reason_and_no_crash(module):
    # With a GPU it does not take the engine; without one it cannot be used at all, the lean one not even deleted.
    pytest.importorskip(module)
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", REAL, module]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(r"TensorRT (for RTX )?\S+ (cannot use cuda:0|does not take the engine): .+\n", result.stdout)
