"""The cudnn backend without a GPU: its layout in NumPy, its kernels compiled for the CPU, cuDNN stood in for."""

import shutil
import sys
from math import prod

import numpy as np
import onnxruntime
import pytest

from flare_runtime.backends.cudnn import network
from flare_runtime.backends.cudnn.layout import Place, lay_out
from flare_runtime.backends.cudnn.steps import Norm, read_steps
from flare_runtime.errors import BundleError, DeviceError, LostDeviceError
from flare_runtime.model.onnx_graph import read_graph
from tests.runtime.emulated_gpu import cudnn as stand_in
from tests.runtime.emulated_gpu.device import EmulatedDevice
from tests.runtime.onnx_networks import SUPPORTED, unsupported

UNSUPPORTED = unsupported()


@pytest.fixture
def backend(monkeypatch):
    """The module, on the stand-in for cuDNN."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    monkeypatch.setitem(sys.modules, "cudnn", stand_in)
    return network


def layout_of(onnx):
    return lay_out(read_steps(read_graph(onnx)))


def tile_and_logits(onnx, seed=0):
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    tile = np.random.default_rng(seed).standard_normal(session.get_inputs()[0].shape).astype(np.float32)
    return tile, session.run(None, {"tiles": tile})[0]


def view(block, place):
    """Return the part of an array, which stands for the block, that a tensor is."""
    *size, channels = place.shape
    first = place.offset
    span = (prod(size) - 1) * place.pitch + channels
    inside = np.lib.stride_tricks.as_strided(
        block[first : first + span],
        (prod(size), channels),
        (place.pitch * block.itemsize, block.itemsize),
    )
    return inside, place.shape


def get(block, place):
    inside, shape = view(block, place)
    return inside.reshape(shape).copy()


def put(block, place, values):
    inside, _ = view(block, place)
    inside[...] = values.reshape(inside.shape)


def run_layout(layout, tile):
    """Compute a layout's steps in float32, on a block of NaNs: what is read has to have been written, and not over."""
    block = np.full(layout.size, np.nan, np.float32)
    spare = layout.source.shape[3] - tile.shape[1]
    put(block, layout.source, np.pad(np.moveaxis(tile[0], 0, -1), [(0, 0)] * 3 + [(0, spare)]))
    for placed in layout.steps:
        step = placed.step
        x, *added = (get(block, place) for place in placed.reads)
        x = np.pad(x, [*zip(step.pads[:3], step.pads[3:], strict=True), (0, 0)])
        raw = np.zeros(placed.raw.shape, np.float32)
        for tap in np.ndindex(step.filters.shape[1:4]):
            ends = (
                slice(t, t + (side - 1) * by + 1, by)
                for t, side, by in zip(tap, raw.shape[:3], step.stride, strict=True)
            )
            raw += x[tuple(ends)] @ step.filters[(slice(None), *tap)].T
        put(block, placed.raw, raw)
        scale, shift = 1.0, step.bias
        if step.norm:
            mean, variance = raw.mean((0, 1, 2), dtype=np.float64), raw.var((0, 1, 2), dtype=np.float64)
            scale = step.norm.gamma / np.sqrt(variance + step.norm.epsilon)
            shift = step.norm.beta - mean * scale
        y = raw.reshape(*raw.shape[:3], *step.up, -1).transpose(0, 3, 1, 4, 2, 5, 6)
        y = y.reshape(placed.writes[0].shape) * scale + shift + sum(added)
        y = np.where(y < 0, y * step.slope, y)
        for place in placed.writes:
            put(block, place, y)
    logits = get(block, layout.features) @ layout.head.filters[:, 0, 0, 0].T + layout.head.bias
    return np.moveaxis(logits, -1, 0)[None]


@pytest.mark.parametrize("make", SUPPORTED.values(), ids=SUPPORTED)
def test_the_layout_computes_the_network(make):
    onnx = make()
    tile, logits = tile_and_logits(onnx)
    np.testing.assert_allclose(run_layout(layout_of(onnx), tile), logits, atol=1e-4)


@pytest.mark.parametrize("processors", [1, 5])
@pytest.mark.parametrize("make", SUPPORTED.values(), ids=SUPPORTED)
def test_the_engine_computes_the_network_in_float16(backend, make, processors):
    onnx = make()
    layout, device = layout_of(onnx), EmulatedDevice(processors)
    network = backend.CudnnNetwork(layout, backend.CudnnRuntime(device, layout.logits[0], layout.block_bytes))
    (first, expected), (second, _) = (tile_and_logits(onnx, seed) for seed in (0, 1))
    logits = device.download(network.run(device.upload(first)))
    assert np.abs(logits - expected).max() < 0.01 * np.abs(expected).max()
    network.run(device.upload(second))
    np.testing.assert_array_equal(device.download(network.run(device.upload(first))), logits)


@pytest.mark.parametrize(
    ("voxels", "channels", "mean", "deviation"),
    [(40_000, 8, 100, 0.5), (1331, 24, 3, 1), (245, 320, 0, 0.01), (7, 40, 9, 1)],
)
def test_norms_are_exact_where_the_mean_is_large_and_the_first_voxel_odd(backend, voxels, channels, mean, deviation):
    rng = np.random.default_rng(0)
    values = (mean + deviation * rng.standard_normal((voxels, channels))).astype(np.float16)
    values[0] += np.float16(8 * deviation)
    gamma, beta = rng.uniform(0.5, 1.5, channels).astype(np.float32), rng.uniform(-1, 1, channels).astype(np.float32)
    device = EmulatedDevice(16)
    runtime = backend.CudnnRuntime(device, 2, values.nbytes)
    np.ndarray.view(runtime._block, np.ndarray)[:] = values.reshape(-1).view(np.uint8)
    network = object.__new__(backend.CudnnNetwork)
    network._runtime, network._xp = runtime, device.xp
    scale, shift = device.xp.empty((2, channels), np.float32)
    place = Place((1, 1, voxels, channels), channels, 0)
    for launch in network._norm(Norm(gamma, beta, 1e-5), place, scale, shift):
        launch()
    exact = values.astype(np.float64)
    expected = gamma / np.sqrt(exact.var(axis=0) + 1e-5)
    np.testing.assert_allclose(scale, expected, rtol=2e-6)
    np.testing.assert_allclose(shift, beta - exact.mean(axis=0) * expected, rtol=1e-5, atol=1e-4)


def test_networks_of_one_layout_share_their_memory(backend):
    onnx = SUPPORTED["plain_unet"]()
    layout, device = layout_of(onnx), EmulatedDevice()
    runtime = backend.CudnnRuntime(device, layout.logits[0], layout.block_bytes)
    first, second = (backend.CudnnNetwork(layout, runtime) for _ in range(2))
    tile, _ = tile_and_logits(onnx)
    logits = device.download(first.run(device.upload(tile)))
    second.run(device.upload(-tile))
    np.testing.assert_array_equal(device.download(first.run(device.upload(tile))), logits)


def test_a_plan_of_cudnn_that_fails_is_left_for_the_next(backend, monkeypatch):
    onnx = SUPPORTED["plain_unet"]()
    layout, device = layout_of(onnx), EmulatedDevice()
    tile, expected = tile_and_logits(onnx)
    monkeypatch.setattr(stand_in, "FAILING", {0, 1})
    network = backend.CudnnNetwork(layout, backend.CudnnRuntime(device, layout.logits[0], layout.block_bytes))
    assert np.abs(network.run(device.upload(tile)) - expected).max() < 0.01 * np.abs(expected).max()
    monkeypatch.setattr(stand_in, "FAILING", {0, 1, 2})
    with pytest.raises(LostDeviceError, match="cuDNN failed on cuda:0: this plan fails"):
        network.run(device.upload(tile))
    with pytest.raises(DeviceError, match=r"cuDNN has no plan for the convolution of .* this plan fails"):
        backend.CudnnNetwork(layout, backend.CudnnRuntime(device, layout.logits[0], layout.block_bytes))


@pytest.mark.parametrize("onnx", UNSUPPORTED.values(), ids=UNSUPPORTED)
def test_another_kind_of_network_is_refused(onnx):
    with pytest.raises(DeviceError, match=r"the cudnn backend cannot run this network \(.*\); use --backend onnx"):
        layout_of(onnx)


def test_a_file_that_is_cut_off_is_refused():
    onnx = SUPPORTED["odd"]()
    for length in (1, len(onnx) // 2, len(onnx) - 1):
        with pytest.raises(BundleError, match="not an ONNX file"):
            read_graph(onnx[:length])
