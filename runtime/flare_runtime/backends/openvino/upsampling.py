"""A decoder's upsampling and the convolution behind it as one transposed convolution: less arithmetic, less memory."""

from itertools import product
from math import prod
from typing import Any

import numpy as np

from flare_runtime.compute.arrays import FloatArray


def merge_upsampling(model: Any) -> int:
    """Merge, in place, every transposed convolution with the convolution that alone takes it; return their number.

    From 2c channels to c and by 2 along each axis, the two take 2c + 27c multiplications for each of the c outputs of a
    voxel and keep a tensor between them; the one takes 8 * 2c and keeps none. The function is the same, up to the
    rounding of products of weights.

    Args:
        model: an `openvino.Model` of float32, after `split_concatenations`.
    """
    from openvino import opset13 as ops

    found = 0
    for node in model.get_ops():
        parts = _parts(node)
        if parts is None:
            continue
        upsampling, bias = parts
        strides = upsampling.get_attributes()["strides"]
        kernel = upsampling.input_value(1).get_node().get_data()
        behind = node.input_value(1).get_node().get_data()
        sides = [s + k - 1 for s, k in zip(strides, behind.shape[2:], strict=True)]
        if (len(kernel) + 1) * len(behind) * prod(sides) >= kernel.size + prod(strides) * behind.size:
            continue
        # The bias is a channel of ones: a constant would be too much where the convolution meets its padding.
        coarse = upsampling.input_value(0)
        ones = np.ones((1, 1, *coarse.get_shape()[2:]), np.float32)
        constant = np.broadcast_to(bias.reshape(1, -1, 1, 1, 1), (1, *kernel.shape[1:]))
        merged = merged_kernel(np.concatenate([kernel, constant]), behind)
        margin = [side // 2 for side in behind.shape[2:]]
        joined = ops.concat([coarse, ops.constant(ones)], 1)
        one = ops.convolution_backprop_data(
            joined, ops.constant(merged), strides, pads_begin=margin, pads_end=margin, dilations=[1, 1, 1]
        )
        node.output(0).replace(one.output(0))
        found += 1
    return found


def merged_kernel(upsampling: FloatArray, behind: FloatArray) -> FloatArray:
    """Return the kernel of the transposed convolution that does what two layers do one after the other.

    Args:
        upsampling: of a transposed convolution as wide as its strides s, (channels, between, *s).
        behind: of a convolution of odd sides k that keeps the shape, (outputs, between, *k).

    Returns:
        (channels, outputs, *(s + k - 1)), for strides s and a padding of k // 2.
    """
    strides, sides = upsampling.shape[2:], behind.shape[2:]
    channels, outputs = upsampling.shape[0], behind.shape[0]
    given = np.ascontiguousarray(np.moveaxis(upsampling, (0, 1), (3, 4))).reshape(-1, upsampling.shape[1])
    taken = np.ascontiguousarray(np.moveaxis(behind, (0, 1), (4, 3)))
    # Channels last, where every tap adds to memory that lies together.
    merged = np.zeros((*(s + k - 1 for s, k in zip(strides, sides, strict=True)), channels, outputs), np.float32)
    for tap in product(*map(range, sides)):
        # An output takes the voxel `tap - k // 2` further on, so the voxel gives to the one as much before it.
        window = tuple(slice(k - 1 - t, k - 1 - t + s) for t, k, s in zip(tap, sides, strides, strict=True))
        with np.errstate(invalid="ignore"):  # a weight that is no number will show in the logits
            merged[window] += (given @ taken[tap]).reshape(*strides, channels, outputs)
    return np.ascontiguousarray(np.moveaxis(merged, (3, 4), (0, 1)))


def _parts(node: Any) -> tuple[Any, FloatArray] | None:
    """Return the transposed convolution and its bias that `node` convolves, where the two can be merged."""
    if node.get_type_name() != "Convolution":
        return None
    source = node.input_value(0).get_node()
    sides = node.input_value(1).get_shape()[2:]
    window = node.get_attributes()
    margin = [side // 2 for side in sides]
    keeps_shape = (
        all(side % 2 for side in sides)
        and list(window["pads_begin"]) == list(window["pads_end"]) == margin
        and set(window["strides"]) == set(window["dilations"]) == {1}
    )
    bias = np.zeros(source.get_output_shape(0)[1], np.float32)
    if not keeps_shape or not _taken_once(source):
        return None
    if source.get_type_name() == "Add":
        added = source.input_value(1).get_node()
        added = added.input_value(0).get_node() if added.get_type_name() == "Reshape" else added
        if added.get_type_name() != "Constant" or added.get_data().size != bias.size:
            return None
        bias, source = added.get_data().ravel(), source.input_value(0).get_node()
    if source.get_type_name() != "ConvolutionBackpropData" or not _taken_once(source):
        return None
    padding = source.get_attributes()
    fits = list(source.input_value(1).get_shape()[2:]) == list(padding["strides"]) and not any(
        (*padding["pads_begin"], *padding["pads_end"], *padding["output_padding"])
    )
    return (source, bias) if fits else None


def _taken_once(node: Any) -> bool:
    return len(node.output(0).get_target_inputs()) == 1
