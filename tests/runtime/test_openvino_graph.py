"""The changes to OpenVINO's graph: the same function, more exactly and in less memory."""

import numpy as np
import openvino
import pytest
from openvino import opset13 as ops

from flare_runtime.backends.openvino import network as openvino_backend
from flare_runtime.backends.openvino.graph import split_concatenations, sum_norms_by_plane
from flare_runtime.backends.openvino.network import OpenVINONetwork
from flare_runtime.model.bundle import Bundle

EPSILON = 1e-5


def run(model, image):
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled(image)[0]


def kinds(model):
    return [node.get_type_name() for node in model.get_ops()]


def norm_of(shape):
    image = ops.parameter(shape, np.float32)
    return openvino.Model([ops.mvn(image, np.array([2, 3, 4]), True, EPSILON, "inside_sqrt")], [image])


def normalised(image):
    exact = image.astype(np.float64)
    mean, variance = (f(exact, axis=(2, 3, 4), keepdims=True) for f in (np.mean, np.var))
    return (exact - mean) / np.sqrt(variance + EPSILON)


def test_a_norm_of_eight_voxels_by_hand():
    image = np.array([1, 1, 1, 1, 3, 3, 3, 3], np.float32).reshape(1, 1, 2, 2, 2)
    model = norm_of(image.shape)
    assert sum_norms_by_plane(model) == 1
    assert "MVN" not in kinds(model)
    np.testing.assert_allclose(run(model, image).ravel(), [-1] * 4 + [1] * 4, atol=1e-5)


@pytest.mark.parametrize("mean", [0, 0.5, -3])
def test_a_norm_over_a_large_patch_is_exact_where_the_plain_sum_is_not(mean):
    image = np.random.default_rng(0).standard_normal((1, 16, 64, 96, 96), dtype=np.float32) + np.float32(mean)
    model = norm_of(image.shape)
    plain = np.abs(run(model, image) - normalised(image)).max()
    sum_norms_by_plane(model)
    exact = np.abs(run(model, image) - normalised(image)).max()
    assert exact < 2e-5
    assert exact < plain


@pytest.mark.parametrize("value", [0, 1.7, -40])
def test_a_constant_channel_stays_finite_and_near_zero(value):
    image = np.full((1, 2, 8, 16, 16), value, np.float32)
    model = norm_of(image.shape)
    sum_norms_by_plane(model)
    assert np.abs(run(model, image)).max() < 0.02 * max(abs(value), 1)


def joined_convolution(*, axis=1, strides=(1, 1, 1)):
    rng = np.random.default_rng(0)
    first, second = ops.parameter([1, 2, 6, 6, 6], np.float32), ops.parameter([1, 3, 6, 6, 6], np.float32)
    joined = ops.concat([first, second], axis) if axis == 1 else ops.concat([first, first], axis)
    channels = joined.get_output_shape(0)[1]
    kernel = rng.standard_normal((4, channels, 3, 3, 3)).astype(np.float32)
    convolved = ops.convolution(joined, kernel, strides, [1, 1, 1], [1, 1, 1], [1, 1, 1])
    return openvino.Model([convolved], [first, second] if axis == 1 else [first])


@pytest.mark.parametrize("strides", [(1, 1, 1), (2, 1, 2)])
def test_a_split_concatenation_computes_the_same(strides):
    rng = np.random.default_rng(1)
    images = [rng.standard_normal((1, n, 6, 6, 6)).astype(np.float32) for n in (2, 3)]
    model = joined_convolution(strides=strides)
    expected = run(model, images)
    assert split_concatenations(model) == 1
    assert "Concat" not in kinds(model)
    np.testing.assert_allclose(run(model, images), expected, atol=1e-5)


def test_a_concatenation_along_another_axis_is_left_alone():
    model = joined_convolution(axis=2)
    assert split_concatenations(model) == 0
    assert "Concat" in kinds(model)


def test_a_real_network_has_no_norm_and_no_concatenation_left(tiny_bundle):
    model = openvino.Core().read_model(tiny_bundle / "network.onnx")
    stages = len(Bundle.open(tiny_bundle).manifest.network.features)
    assert sum_norms_by_plane(model) == kinds(openvino.Core().read_model(tiny_bundle / "network.onnx")).count("MVN")
    assert split_concatenations(model) == stages - 1
    volumes = [node for node in model.get_ops() if len(node.get_output_shape(0)) == 5]
    assert not {"MVN", "Concat"} & {node.get_type_name() for node in volumes}


@pytest.fixture
def has_bfloat16():
    if not openvino_backend.cpu_has_bf16():
        pytest.skip("this CPU has no bfloat16")


def told(node, what):
    return node.get_rt_info()[what].astype(str)


def test_marked_convolutions_multiply_bfloat16_and_hand_on_float32(has_bfloat16, tiny_bundle):
    network = OpenVINONetwork((tiny_bundle / "network.onnx").read_bytes(), "bf16", 1)
    nodes = network._compiled.get_runtime_model().get_ordered_ops()
    first, *middle, last = [node for node in nodes if told(node, "layerType") == "Convolution"]
    assert told(first, "runtimePrecision") == "f32"
    assert {told(node, "runtimePrecision") for node in middle} == {"bf16"}
    assert {told(node, "outputPrecisions") for node in middle} == {"f32"}
    assert told(last, "outputPrecisions") == "bf16"
    # No pass of its own converts between the two: only the image and the logits change their order.
    reorders = [np.prod(node.get_output_shape(0)) for node in nodes if told(node, "layerType") == "Reorder"]
    assert sum(voxels >= np.prod(first.get_output_shape(0)[2:]) for voxels in reorders) <= 2
    skips = Bundle.open(tiny_bundle).manifest.network.stages - 1
    order = [told(node, "layerType") for node in nodes]
    upsampled = [index for index, kind in enumerate(order) if kind == "Deconvolution"]
    assert len(upsampled) == skips
    skipped = [index for index, kind in enumerate(order) if kind == "StridedSlice"]
    assert len(skipped) == skips
    assert all(before < after for before, after in zip(skipped, upsampled, strict=True))


def test_marks_and_exact_norms_make_bfloat16_more_exact(has_bfloat16, tiny_bundle):
    onnx = tiny_bundle / "network.onnx"
    patch = Bundle.open(tiny_bundle).manifest.patch
    image = np.random.default_rng(0).standard_normal((1, 1, *patch), dtype=np.float32)
    exact = run(openvino.Core().read_model(onnx), image)
    plain = openvino.Core().compile_model(onnx, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})(image)[0]
    marked = OpenVINONetwork(onnx.read_bytes(), "bf16", 1).run(image)
    assert 0 < np.abs(marked - exact).mean() < 0.9 * np.abs(plain - exact).mean()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("which", [0, 3, -1])
def test_a_weight_that_is_no_number_shows_in_the_logits(request, tiny_bundle, precision, value, which):
    if precision == "bf16":
        request.getfixturevalue("has_bfloat16")
    import onnx
    from onnx import numpy_helper

    broken = onnx.load(tiny_bundle / "network.onnx")
    kernels = [weights for weights in broken.graph.initializer if len(weights.dims) == 5]
    spoilt = numpy_helper.to_array(kernels[which]).copy()
    spoilt[0, 0] = value
    kernels[which].CopyFrom(numpy_helper.from_array(spoilt, kernels[which].name))
    image = np.random.default_rng(0).standard_normal((1, 1, *Bundle.open(tiny_bundle).manifest.patch), dtype=np.float32)
    assert not np.isfinite(OpenVINONetwork(broken.SerializeToString(), precision, 1).run(image)).all()
