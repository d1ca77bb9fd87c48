"""What OpenVINO's graph of a U-Net is given on top of the ONNX: exact norms, and no concatenated skip connections."""

from typing import Any

import numpy as np


def sum_norms_by_plane(model: Any) -> int:
    """Replace, in place, every InstanceNorm (`MVN`) of an `openvino.Model` over volumes; return how many there were.

    OpenVINO sums a channel's voxels one after the other in float32, which on 128 x 160 x 160 puts the standard
    deviation off by 6e-4 of itself. Summing every plane by itself first, and then the planes, takes the same time and
    leaves 2e-6. The variance is E[x^2] - E[x]^2, which loses little because the mean of a channel is of the size of
    its deviation.
    """
    norms = [node for node in model.get_ops() if node.get_type_name() == "MVN"]
    for norm in norms:
        norm.output(0).replace(_normalised(norm.input_value(0), norm.get_attributes()["eps"]).output(0))
    return len(norms)


def _normalised(x: Any, epsilon: float) -> Any:
    from openvino import opset13 as ops

    _, _, _, height, width = x.get_shape()
    plane, depth = np.array([3, 4]), np.array([2])
    share = np.float32(1 / (height * width))
    # Reductions of one kind in a row would be merged into one long sum again; these are of two kinds.
    mean = ops.multiply(ops.reduce_mean(ops.reduce_sum(x, plane, True), depth, True), share)
    lengths = ops.reduce_l2(x, plane, True)
    mean_square = ops.multiply(ops.reduce_mean(ops.multiply(lengths, lengths), depth, True), share)
    variance = ops.relu(ops.subtract(mean_square, ops.multiply(mean, mean)))
    scale = ops.divide(np.float32(1), ops.sqrt(ops.add(variance, np.float32(epsilon))))
    return ops.add(ops.multiply(x, scale), ops.negative(ops.multiply(mean, scale)))


def split_concatenations(model: Any) -> int:
    """Replace, in place, every convolution of concatenated channels by a sum of convolutions; return their number.

    A decoder stage then needs neither the copy that concatenates its skip connection nor the memory for it: a quarter
    of the peak of a four-stage U-Net.
    """
    from openvino import opset13 as ops

    found = 0
    for node in model.get_ops():
        joined = node.input_value(0).get_node() if node.get_type_name() == "Convolution" else None
        if joined is None or joined.get_type_name() != "Concat" or joined.get_attributes()["axis"] != 1:
            continue
        window = {key: node.get_attributes()[key] for key in ("strides", "pads_begin", "pads_end", "dilations")}
        sources = [port.get_source_output() for port in joined.inputs()]
        cuts = np.cumsum([source.get_shape()[1] for source in sources])[:-1]
        kernels = np.split(node.input_value(1).get_node().get_data(), cuts, axis=1)
        first, *others = (
            ops.convolution(source, np.ascontiguousarray(kernel), **window)
            for source, kernel in zip(sources, kernels, strict=True)
        )
        total = first
        for part in others:
            total = ops.add(total, part)
        node.output(0).replace(total.output(0))
        found += 1
    return found
