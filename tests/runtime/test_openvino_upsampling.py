"""Upsampling and the convolution behind it in one: the same numbers, borders and biases included."""

import numpy as np
import openvino
import pytest
from openvino import opset13 as ops

from flare_runtime.backends.openvino.graph import split_concatenations
from flare_runtime.backends.openvino.upsampling import merge_upsampling, merged_kernel
from tests.runtime.test_openvino_graph import run


def decoder(*, strides=(2, 2, 2), sides=(3, 3, 3), channels=4, between=3, bias=True, dilation=1, twice=False):
    """Return a model that upsamples, adds a bias and convolves."""
    rng = np.random.default_rng(0)

    def weights(*shape):
        return ops.constant(rng.standard_normal(shape).astype(np.float32))

    image = ops.parameter([1, channels, 4, 5, 6], np.float32)
    nothing, margin = [0, 0, 0], [side // 2 * dilation for side in sides]
    up = ops.convolution_backprop_data(
        image, weights(channels, between, *strides), strides, pads_begin=nothing, pads_end=nothing, dilations=[1, 1, 1]
    )
    if bias:
        up = ops.add(up, weights(1, between, 1, 1, 1))
    out = ops.convolution(up, weights(2, between, *sides), [1, 1, 1], margin, margin, [dilation] * 3)
    return openvino.Model([out, ops.relu(up)] if twice else [out], [image])


def image_of(model):
    return np.random.default_rng(1).standard_normal(tuple(model.input(0).shape), dtype=np.float32)


def test_a_merged_kernel_by_hand():
    # One axis: voxel v becomes 2v and 3v; an output is 5 left + 7 middle + 11 right. From v on, the outputs are
    # 11 * 2v, 7 * 2v + 11 * 3v, 5 * 2v + 7 * 3v and 5 * 3v.
    upsampling = np.array([2, 3], np.float32).reshape(1, 1, 1, 1, 2)
    behind = np.array([5, 7, 11], np.float32).reshape(1, 1, 1, 1, 3)
    assert merged_kernel(upsampling, behind).ravel().tolist() == [22, 47, 31, 15]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("strides", [(2, 2, 2), (1, 2, 2), (2, 1, 4)])
@pytest.mark.parametrize("sides", [(3, 3, 3), (1, 3, 3)])
def test_two_layers_in_one_compute_the_same(strides, sides, bias):
    model = decoder(strides=strides, sides=sides, bias=bias)
    image = image_of(model)
    expected = run(model, image)
    assert merge_upsampling(model) == 1
    assert sum(node.get_type_name() == "Convolution" for node in model.get_ops()) == 0
    np.testing.assert_allclose(run(model, image), expected, atol=1e-4)


@pytest.mark.parametrize(
    "other",
    [
        {"dilation": 2},  # not the convolution of a U-Net's decoder
        {"twice": True},  # somebody else wants the upsampled features
        {"channels": 12},  # one layer would multiply more
    ],
)
def test_what_gains_nothing_or_is_something_else_is_left_alone(other):
    model = decoder(**other)
    before = len(model.get_ops())
    assert merge_upsampling(model) == 0
    assert len(model.get_ops()) == before


def test_a_real_decoder_is_merged_at_every_stage(tiny_bundle):
    model = openvino.Core().read_model(tiny_bundle / "network.onnx")
    stages = split_concatenations(model)
    image = image_of(model)
    expected = run(model, image)
    assert merge_upsampling(model) == stages > 0
    np.testing.assert_allclose(run(model, image), expected, atol=1e-4 * np.abs(expected).max())
