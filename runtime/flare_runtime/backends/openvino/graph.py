"""Changes to OpenVINO's graph of a U-Net: exact norms, no concatenations, float32 where bfloat16 loses too much."""

from collections.abc import Callable
from typing import Any

import numpy as np

from flare_runtime.compute.arrays import FloatArray

# Returns the node it was given.
Mark = Callable[[Any], Any]

# OpenVINO's CPU plugin leaves the precision of a node alone that has this among its runtime information. Python cannot
# make one; it can be read from a model and set on any node.
_PRECISION_KEPT = "DisablePrecisionConversion_0"
_MODEL_WITH_MARK = b"""<net name="marked" version="11"><layers>
<layer id="0" name="in" type="Parameter" version="opset1"><data shape="1" element_type="f32"/>
<rt_info><attribute name="DisablePrecisionConversion" version="0" value="dynamic:f16"/></rt_info>
<output><port id="0" precision="FP32"><dim>1</dim></port></output></layer>
<layer id="1" name="out" type="Result" version="opset1"><input><port id="0" precision="FP32"><dim>1</dim></port></input>
</layer></layers><edges><edge from-layer="0" from-port="0" to-layer="1" to-port="0"/></edges></net>"""
_HUGE = 3.4e38


def float32_mark(core: Any) -> Mark:
    """Return what keeps a node in float32 where the rest of its model is computed in bfloat16.

    A convolution followed by such a node without arithmetic still multiplies bfloat16, but hands on its float32 sums.
    """
    parameter = core.read_model(_MODEL_WITH_MARK).get_parameters()[0]
    kept = parameter.get_rt_info()[_PRECISION_KEPT]

    def mark(node: Any) -> Any:
        node.set_rt_info(kept, _PRECISION_KEPT)
        return node

    return mark


def keep_first_convolutions(model: Any, mark: Mark) -> int:
    """Keep the convolutions of the image itself in float32, in place; return their number.

    They cost next to nothing, and rounding the image and their few weights is half of what bfloat16 does to the logits.
    """
    first = [
        node
        for node in model.get_ops()
        if node.get_type_name() == "Convolution" and node.input_value(0).get_node().get_type_name() == "Parameter"
    ]
    for node in first:
        mark(node)
    return len(first)


def sum_norms_by_plane(model: Any, mark: Mark | None = None) -> int:
    """Replace, in place, every InstanceNorm (`MVN`) of an `openvino.Model` over volumes; return how many there were.

    OpenVINO sums a channel's voxels one after the other in float32, which on 128 x 160 x 160 puts the standard
    deviation off by 6e-4 of itself. Summing every plane by itself first, and then the planes, takes the same time and
    leaves 2e-6. The variance is E[x^2] - E[x]^2, which loses little because the mean of a channel is of the size of
    its deviation.

    Args:
        model: after `split_concatenations`.
        mark: keeps the norms and what they are of in float32; None where all is.
    """
    norms = [node for node in model.get_ops() if node.get_type_name() == "MVN"]
    for norm in norms:
        x = norm.input_value(0)
        if mark is not None and _PRECISION_KEPT not in x.get_node().get_rt_info():
            x = _as_summed(x, mark)
        norm.output(0).replace(_normalised(x, norm.get_attributes()["eps"], mark or (lambda node: node)).output(0))
    return len(norms)


def _as_summed(port: Any, mark: Mark) -> Any:
    """Return the port of a convolution's sums before any rounding."""
    from openvino import opset13 as ops

    # No arithmetic, but something to mark behind a convolution. It hides NaN, which the norm behind it brings back.
    return mark(ops.clamp(port, -_HUGE, _HUGE)).output(0)


def _normalised(x: Any, epsilon: float, mark: Mark) -> Any:
    from openvino import opset13 as ops

    _, _, _, height, width = x.get_shape()
    plane, depth = np.array([3, 4]), np.array([2])
    share = np.float32(1 / (height * width))
    # Reductions of one kind in a row would be merged into one long sum again; these are of two kinds.
    mean = mark(ops.multiply(mark(ops.reduce_mean(mark(ops.reduce_sum(x, plane, True)), depth, True)), share))
    lengths = mark(ops.reduce_l2(x, plane, True))
    squares = mark(ops.reduce_mean(mark(ops.multiply(lengths, lengths)), depth, True))
    # Not subtract, negative or divide: OpenVINO replaces those, and the mark with them.
    negative = mark(ops.multiply(mean, np.float32(-1)))
    square = mark(ops.multiply(mean, negative))
    variance = mark(ops.relu(mark(ops.add(mark(ops.multiply(squares, share)), square))))
    scale = mark(ops.power(mark(ops.add(variance, np.float32(epsilon))), np.float32(-0.5)))
    return mark(ops.add(mark(ops.multiply(x, scale)), mark(ops.multiply(negative, scale))))


def split_concatenations(model: Any, mark: Mark | None = None) -> int:
    """Replace, in place, every convolution of concatenated channels by a sum of convolutions; return their number.

    A decoder stage then needs neither the copy that concatenates its skip connection nor the memory for it: a quarter
    of the peak of a four-stage U-Net.

    Args:
        model: as read from ONNX.
        mark: keeps the sums in float32; None where all is.
    """
    from openvino import opset13 as ops

    found = 0
    for node in model.get_ops():
        parts = convolved_parts(node) if node.get_type_name() == "Convolution" else []
        if len(parts) < 2:
            continue
        window = {key: node.get_attributes()[key] for key in ("strides", "pads_begin", "pads_end", "dilations")}
        first, *others = (
            # From an array it would be made a list of numbers first.
            ops.convolution(source, ops.constant(np.ascontiguousarray(kernel)), **window)
            for source, kernel in parts
        )
        total = first
        for part in others:
            total = ops.add(total, part) if mark is None else mark(ops.add(total, _as_summed(part.output(0), mark)))
        node.output(0).replace(total.output(0))
        if mark is not None and len(others) == 1:
            _upsample_after(total.input_value(1), parts[0][0].get_node(), mark)
        found += 1
    return found


def convolved_parts(node: Any) -> list[tuple[Any, FloatArray]]:
    """Return the outputs that a convolution takes, several where it takes their concatenation, each with its kernel."""
    kernel = node.input_value(1).get_node().get_data()
    joined = node.input_value(0).get_node()
    if joined.get_type_name() != "Concat" or joined.get_attributes()["axis"] != 1:
        return [(node.input_value(0), kernel)]
    sources = [port.get_source_output() for port in joined.inputs()]
    cuts = np.cumsum([source.get_shape()[1] for source in sources])[:-1]
    return list(zip(sources, np.split(kernel, cuts, axis=1), strict=True))


def _upsample_after(skipped: Any, upsampled: Any, mark: Mark) -> None:
    """Have a decoder stage upsample after the convolution of its skip connection, which frees that connection first.

    OpenVINO knows no order but that of data, so a zero made of the one is added to what the other takes.
    """
    from openvino import opset13 as ops

    node = upsampled.input_value(0).get_node() if upsampled.get_type_name() == "Add" else upsampled
    if node.get_type_name() != "ConvolutionBackpropData":
        return
    start, stop = np.zeros(5, np.int64), np.ones(5, np.int64)
    zero = mark(ops.multiply(mark(ops.strided_slice(skipped, start, stop, stop, [0] * 5, [0] * 5)), np.float32(0)))
    node.input(0).replace_source_output(ops.add(node.input_value(0), zero).output(0))
