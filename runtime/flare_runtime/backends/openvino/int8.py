"""Convolutions of 8-bit integers: the ranges of their inputs, the change of the graph, and which CPUs have them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import msgspec
import numpy as np
from msgspec import Meta

from flare_runtime.backends.openvino.graph import convolved_parts
from flare_runtime.compute.arrays import AnyArray, FloatArray
from flare_runtime.errors import BundleError, first_line

# How much of a channel's width is taken out of it before all are rounded to one scale: the geometric middle between
# none and all of it, as in Xiao et al., SmoothQuant, ICML 2023.
_SMOOTHING = 0.5
_LEVELS = 256
# What /proc/cpuinfo calls dot products of 8-bit integers. Without them sums of two products are cut off at 16 bits,
# which gives other masks and says nothing.
_DOT_PRODUCTS = {"avx512_vnni", "avx_vnni", "amx_int8"}


def cpu_has_int8(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this CPU sums products of 8-bit integers exactly; False where the system does not say."""
    try:
        return not _DOT_PRODUCTS.isdisjoint(cpuinfo.read_text(encoding="utf-8", errors="replace").split())
    except OSError:
        return False


# Float32 holds what is computed of them.
_Bound = Annotated[float, Meta(ge=-1e30, le=1e30)]
_Bounds: TypeAlias = Annotated[tuple[_Bound, ...], Meta(min_length=1, max_length=1 << 16)]


class ActivationRange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The lowest and highest value of every channel that a convolution takes."""

    low: _Bounds
    high: _Bounds


def encode_ranges(ranges: Mapping[str, ActivationRange]) -> bytes:
    """Return the ranges of a network's convolutions, by their names, as JSON."""
    return msgspec.json.encode(ranges)


def decode_ranges(data: bytes) -> dict[str, ActivationRange]:
    """Read what `encode_ranges` wrote.

    Raises:
        BundleError: where it is something else.
    """
    try:
        return msgspec.json.decode(data, type=dict[str, ActivationRange])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"the ranges of the int8 network cannot be read ({first_line(error)})") from error


def quantisable(model: Any) -> list[Any]:
    """Return the convolutions of an `openvino.Model`, as read from ONNX, that are worth rounding.

    All but those of the image itself and of single voxels, which cost next to nothing.
    """
    return [
        node
        for node in model.get_ops()
        if node.get_type_name() == "Convolution"
        and node.input_value(0).get_node().get_type_name() != "Parameter"
        and max(node.input_value(1).get_shape()[2:]) > 1
    ]


def quantise(model: Any, ranges: Mapping[str, ActivationRange]) -> int:
    """Have the convolutions multiply 8-bit integers, in place; return their number.

    Inputs are rounded to one scale a convolution, after channels of unlike width have been made more alike, which its
    weights undo; weights to one scale an output. Sums, and all between the convolutions, stay in float32.

    Args:
        model: as read from ONNX.
        ranges: of the inputs, by the convolutions' names.

    Raises:
        BundleError: where the ranges are another network's, or a weight is not finite, which rounding would hide.
    """
    _check_finite(model)
    nodes = quantisable(model)
    for node in nodes:
        found = ranges.get(node.get_friendly_name())
        channels = node.input_value(0).get_shape()[1]
        if found is None or {len(found.low), len(found.high)} != {channels}:
            raise BundleError(f"the bundle has no int8 ranges of {node.get_friendly_name()}; make them anew")
        _quantise(node, np.array(found.low, np.float32), np.array(found.high, np.float32))
    return len(nodes)


def _quantise(node: Any, low: FloatArray, high: FloatArray) -> None:
    from openvino import opset13 as ops

    width = np.maximum(np.maximum(-low, high), 1e-6)
    share = (width / width.max()) ** _SMOOTHING
    lowest, highest = min(float((low / share).min()), 0.0), max(float((high / share).max()), 1e-6)
    # Zero is one of the levels: the padding of a convolution has to be exact.
    step = (highest - lowest) / (_LEVELS - 1)
    below = round(-lowest / step)
    bounds = -below * step, (_LEVELS - 1 - below) * step
    limits = [_scalar(bound) for bound in bounds]

    parts = convolved_parts(node)
    shares = np.split(share, np.cumsum([port.get_shape()[1] for port, _ in parts])[:-1])
    # The last first: a skip connection is rounded when it is made then, and waits and is concatenated as 8 bits.
    pieces = [(port, own, kernel) for (port, kernel), own in zip(parts, shares, strict=True)][::-1]
    rounded = [
        ops.fake_quantize(port, *(_per_channel(own * bound) for bound in bounds), *limits, _LEVELS)
        for port, own, _ in pieces
    ]
    weights = np.concatenate([kernel * own.reshape(1, -1, 1, 1, 1) for _, own, kernel in pieces], axis=1)
    largest = np.maximum(np.abs(weights).max(axis=(1, 2, 3, 4), keepdims=True), np.float32(1e-30))
    ends = [ops.constant(-largest), ops.constant(largest)]
    rounded_weights = ops.fake_quantize(ops.constant(weights), *ends, *ends, _LEVELS - 1)
    node.input(0).replace_source_output((ops.concat(rounded, 1) if len(rounded) > 1 else rounded[0]).output(0))
    node.input(1).replace_source_output(rounded_weights.output(0))


def _check_finite(model: Any) -> None:
    for node in model.get_ops():
        if node.get_type_name() == "Constant" and not np.isfinite(node.get_data()).all():
            raise BundleError(f"{node.get_friendly_name()} holds NaN or infinity; export a network that does not")


def _scalar(value: float) -> Any:
    from openvino import opset13 as ops

    return ops.constant(np.full((1, 1, 1, 1, 1), value, np.float32))


def _per_channel(values: AnyArray) -> Any:
    from openvino import opset13 as ops

    return ops.constant(values.reshape(1, -1, 1, 1, 1))
