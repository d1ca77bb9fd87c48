"""The changes to OpenVINO's graph: the same function, more exactly and in less memory."""

import numpy as np
import openvino
import pytest
from openvino import opset13 as ops

from flare_runtime.backends.openvino_graph import split_concatenations, sum_norms_by_plane
from flare_runtime.bundle import Bundle

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
