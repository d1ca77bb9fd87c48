"""Convolutions of 8-bit integers: the scales by hand, what is rounded and what is not, and what is refused."""

import numpy as np
import openvino
import pytest
from openvino import opset13 as ops

from flare_runtime.backends.openvino.int8 import (
    ActivationRange,
    cpu_has_int8,
    decode_ranges,
    encode_ranges,
    quantisable,
    quantise,
)
from flare_runtime.backends.openvino.network import OpenVINONetwork
from flare_runtime.errors import BundleError
from tests.runtime.test_openvino_graph import run, told


def model_of(kernel, *, joined=False, name="conv"):
    """Return a model of one convolution of what is not the image itself: of its double, or of that twice over."""
    channels = kernel.shape[1] // 2 if joined else kernel.shape[1]
    image = ops.parameter([1, channels, 3, 3, 3], np.float32)
    features = ops.multiply(image, np.float32(2))
    taken = ops.concat([features, ops.multiply(image, np.float32(2))], 1) if joined else features
    node = ops.convolution(taken, ops.constant(kernel), [1, 1, 1], [1, 1, 1], [1, 1, 1], [1, 1, 1], name=name)
    return openvino.Model([node], [image])


def middle(*weights):
    """Return the kernel (1, channels, 3, 3, 3) that takes the voxel itself, of every channel so many times."""
    kernel = np.zeros((1, len(weights), 3, 3, 3), np.float32)
    kernel[0, :, 1, 1, 1] = weights
    return kernel


def test_one_channel_is_rounded_to_its_255th_by_hand():
    # Doubled, the range is 0 to 51: steps of 0.2. 2 * 3.33 = 6.66 becomes 6.6 or 6.8, whichever is nearer.
    model = model_of(middle(1))
    assert quantise(model, {"conv": ActivationRange((0.0,), (51.0,))}) == 1
    image = np.full((1, 1, 3, 3, 3), 3.33, np.float32)
    np.testing.assert_allclose(run(model, image), 6.6, atol=1e-5)
    # What lies beyond the range counts as its end.
    np.testing.assert_allclose(run(model, image * 100), 51, atol=1e-5)


def test_padding_stays_zero_where_the_range_is_lopsided():
    model = model_of(np.ones((1, 1, 3, 3, 3), np.float32))
    quantise(model, {"conv": ActivationRange((-0.37,), (9.1,))})
    found = run(model, np.full((1, 1, 3, 3, 3), 2.0, np.float32))
    # 8 neighbours of a corner lie inside, all 27 of the middle: were padding not 0, these would be no multiples.
    np.testing.assert_allclose(found[0, 0, 0, 0, 0], found[0, 0, 1, 1, 1] * 8 / 27, rtol=1e-5)
    np.testing.assert_allclose(found[0, 0, 1, 1, 1], 27 * 4, rtol=0.01)


@pytest.mark.parametrize("joined", [False, True])
def test_a_narrow_channel_beside_a_wide_one_keeps_more_than_its_share(joined):
    # The narrow channel is a hundredth as wide, of which a tenth is taken out and a tenth left. At one scale of
    # 100 / 255 its 0.16 becomes 1.6, which is 4 steps; its weight of 0.1 beside 1 becomes 13 of 127. All other voxels
    # are less than half a step.
    model = model_of(middle(1, 1), joined=joined)
    quantise(model, {"conv": ActivationRange((0.0, 0.0), (1.0, 100.0))})
    image = np.zeros((1, 1 if joined else 2, 3, 3, 3), np.float32)
    image[0, 0] = 0.08
    np.testing.assert_allclose(run(model, image), 4 * (100 / 255) * (13 / 127), atol=1e-6)


def test_the_images_convolution_and_single_voxels_are_not_rounded(tiny_bundle):
    model = openvino.Core().read_model(tiny_bundle / "network.onnx")
    rounded = {node.get_friendly_name() for node in quantisable(model)}
    convolutions = [node for node in model.get_ordered_ops() if node.get_type_name() == "Convolution"]
    first, *others = [node for node in convolutions if node.get_friendly_name() not in rounded]
    assert first.input_value(0).get_node().get_type_name() == "Parameter"
    assert others
    assert {tuple(node.input_value(1).get_shape()[2:]) for node in others} == {(1, 1, 1)}


def ranges_of(bundle, bound=8.0):
    """Return ranges that are wide enough for any normalised features."""
    model = openvino.Core().read_model(bundle / "network.onnx")
    channels = {node.get_friendly_name(): node.input_value(0).get_shape()[1] for node in quantisable(model)}
    return {name: ActivationRange((-bound,) * count, (bound,) * count) for name, count in channels.items()}


@pytest.fixture
def has_int8():
    if not cpu_has_int8():
        pytest.skip("this CPU has no dot products of 8-bit integers")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("fpu avx2 avx512f", False), ("fpu avx512_vnni sse", True), ("avx_vnni", True)],
)
def test_which_cpus_have_int8(tmp_path, flags, expected):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\n", encoding="utf-8")
    assert cpu_has_int8(tmp_path / "cpuinfo") is expected
    assert not cpu_has_int8(tmp_path / "none")


def test_a_skip_connection_is_rounded_before_the_network_goes_deeper(has_int8, tiny_bundle):
    network = OpenVINONetwork((tiny_bundle / "network.onnx").read_bytes(), "int8", 1, ranges_of(tiny_bundle))
    nodes = network._compiled.get_runtime_model().get_ordered_ops()
    kinds = [told(node, "layerType") for node in nodes]
    upsampled = kinds.index("Deconvolution")
    joined = nodes[kinds.index("Concatenation")]
    waits = [port.get_source_output().get_node() for port in joined.inputs()]
    assert {told(node, "outputPrecisions") for node in waits} <= {"u8", "i8"}
    names = [node.get_friendly_name() for node in nodes]
    assert [names.index(node.get_friendly_name()) < upsampled for node in waits] == [True, False]


def test_a_network_multiplies_integers_and_stays_near_float32(has_int8, tiny_bundle):
    onnx = (tiny_bundle / "network.onnx").read_bytes()
    ranges = decode_ranges(encode_ranges(ranges_of(tiny_bundle)))
    network = OpenVINONetwork(onnx, "int8", 1, ranges)
    assert network.precision == "int8"
    nodes = network._compiled.get_runtime_model().get_ordered_ops()
    kinds = [told(node, "primitiveType") for node in nodes if told(node, "layerType") == "Convolution"]
    # "I8" stands for unsigned features, "i8" for signed ones.
    assert sum("i8" in kind.lower() for kind in kinds) == len(ranges)
    image = np.random.default_rng(0).standard_normal((1, 1, 16, 16, 16), dtype=np.float32)
    exact = OpenVINONetwork(onnx, "fp32", 1).run(image)
    error = np.abs(network.run(image) - exact)
    assert 0 < error.mean() < 0.1 * exact.std()


def test_ranges_of_another_network_are_refused(has_int8, tiny_bundle):
    onnx = (tiny_bundle / "network.onnx").read_bytes()
    ranges = ranges_of(tiny_bundle)
    name = next(iter(ranges))
    with pytest.raises(BundleError, match="no int8 ranges of"):
        OpenVINONetwork(onnx, "int8", 1, {other: found for other, found in ranges.items() if other != name})
    with pytest.raises(BundleError, match="no int8 ranges of"):
        OpenVINONetwork(onnx, "int8", 1, ranges | {name: ActivationRange((0.0,), (1.0,))})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'{"conv": {"low": [1]}}',
        b'{"conv": {"low": ["a"], "high": [1]}}',
        b'{"conv": {"low": [-1e308], "high": [1e308]}}',
        b'{"conv": {"low": [1e999], "high": [1]}}',
        b'{"conv": {"low": [], "high": []}}',
        b'{"conv\xff": {"low": [0], "high": [1]}}',
        b'{"a":' * 100_000,
    ],
)
def test_a_broken_file_of_ranges_is_refused(data):
    with pytest.raises(BundleError, match="cannot be read"):
        decode_ranges(data)


def test_a_weight_that_is_no_number_is_refused_instead_of_rounded():
    with pytest.raises(BundleError, match="NaN or infinity"):
        quantise(model_of(middle(np.nan)), {"conv": ActivationRange((0.0,), (1.0,))})


def test_an_output_whose_weights_are_all_zero_is_zero():
    model = model_of(np.concatenate([middle(0), middle(1)]))
    quantise(model, {"conv": ActivationRange((0.0,), (51.0,))})
    found = run(model, np.full((1, 1, 3, 3, 3), 1.0, np.float32))
    np.testing.assert_allclose(found[0, :, 1, 1, 1], [0, 2], atol=1e-5)
