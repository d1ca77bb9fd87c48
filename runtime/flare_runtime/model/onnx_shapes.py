"""Whether the layers of an ONNX graph fit together, told by the shapes and types of what they take and give."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, TypeAlias

import numpy as np

from flare_runtime.model.onnx_graph import Layer, OnnxGraph

Shape: TypeAlias = tuple[int, ...]
_AXES = 3
_MAX_LAYERS = 2000
_TYPES = {1: np.dtype(np.float32), 10: np.dtype(np.float16)}
# What a layer may say beside its numbers of voxels, and all that it may say there.
_PLAIN: dict[str, object] = {
    "auto_pad": "NOTSET",
    "axis": 1,
    "ceil_mode": 0,
    "dilations": [1] * _AXES,
    "group": 1,
    "output_padding": [0] * _AXES,
}
_FLOATS = {"alpha", "epsilon"}
_WINDOW = {"kernel_shape", "strides", "pads", "dilations", "group", "auto_pad"}


@dataclass(frozen=True)
class Tensor:
    """What a layer takes or gives."""

    shape: Shape
    dtype: Any


def computed(graph: OnnxGraph) -> dict[str, Tensor]:
    """Return the tensors that a graph of one input computes, by name, its input among them.

    Raises:
        ValueError: where a layer does not fit what it takes, or takes what is not there.
    """
    ((source, shape),) = graph.inputs.items()
    if source in graph.weights:
        raise ValueError(f"{source!a:.80} is an input and a weight")
    if len(graph.layers) > _MAX_LAYERS:
        raise ValueError(f"{len(graph.layers):,} layers, more than {_MAX_LAYERS:,}")
    known = {source: Tensor(shape, np.dtype(np.float32))}
    for layer in graph.layers:
        if layer.kind not in OPERATORS:
            raise ValueError(f"it holds a layer {layer.kind!a:.40}; allowed are {', '.join(sorted(OPERATORS))}")
        rule, constants, attributes = _LAYERS[layer.kind]
        _check_attributes(layer, attributes)
        first = max(len(layer.inputs) - constants, 1)
        if not layer.inputs or any(name not in known for name in layer.inputs[:first]):
            raise ValueError(f"{_told(layer)} takes what was not computed before it")
        if any(name not in graph.weights for name in layer.inputs[first:]):
            raise ValueError(f"{_told(layer)} takes weights that are not there")
        if layer.output in known or layer.output in graph.weights:
            raise ValueError(f"{_told(layer)} gives what is there already")
        weights = [Tensor(graph.weights[name].shape, graph.weights[name].dtype) for name in layer.inputs[first:]]
        given = [known[name] for name in layer.inputs[:first]]
        if len({tensor.dtype for tensor in (*given, *weights)}) > 1:
            raise ValueError(f"{_told(layer)} takes several types")
        result = rule(layer, given, weights)
        if min(result.shape) < 1:
            raise ValueError(f"{_told(layer)} gives nothing")
        known[layer.output] = result
    return known


def _same(layer: Layer, given: Sequence[Tensor], _weights: Sequence[Tensor]) -> Tensor:
    _demand(len(given) == 1, layer)
    return given[0]


def _gelu(layer: Layer, given: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    _demand(layer.attributes.get("approximate", "none") in ("none", "tanh"), layer)
    return _same(layer, given, weights)


def _cast(layer: Layer, given: Sequence[Tensor], _weights: Sequence[Tensor]) -> Tensor:
    to = layer.attributes.get("to")
    if not isinstance(to, int) or to not in _TYPES or len(given) != 1:
        raise ValueError(f"{_told(layer)} casts to another type than float32 and float16")
    return Tensor(given[0].shape, _TYPES[to])


def _pairwise(layer: Layer, given: Sequence[Tensor], _weights: Sequence[Tensor]) -> Tensor:
    _demand(len(given) == 2 and given[0].shape == given[1].shape, layer)
    return given[0]


def _joined(layer: Layer, given: Sequence[Tensor], _weights: Sequence[Tensor]) -> Tensor:
    _demand(len({(shape[:1], shape[2:]) for shape in (tensor.shape for tensor in given)}) == 1, layer)
    _demand("axis" in layer.attributes, layer)
    n, _, *sides = given[0].shape
    return Tensor((n, sum(tensor.shape[1] for tensor in given), *sides), given[0].dtype)


def _norm(layer: Layer, given: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    _demand(len(given) == 1 and [tensor.shape for tensor in weights] == [given[0].shape[1:2]] * 2, layer)
    return given[0]


def _pool(layer: Layer, given: Sequence[Tensor], _weights: Sequence[Tensor]) -> Tensor:
    _demand(len(given) == 1, layer)
    n, channels, *sides = given[0].shape
    kernel, strides, pads = _window(layer, None)
    return Tensor((n, channels, *_narrowed(sides, kernel, strides, pads)), given[0].dtype)


def _convolution(layer: Layer, given: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    kernel, strides, pads = _window_of(layer, given, weights, inputs=1, outputs=0)
    n, _, *sides = given[0].shape
    return Tensor((n, weights[0].shape[0], *_narrowed(sides, kernel, strides, pads)), given[0].dtype)


def _upsampling(layer: Layer, given: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    kernel, strides, pads = _window_of(layer, given, weights, inputs=0, outputs=1)
    n, _, *sides = given[0].shape
    lost = [before + after for before, after in zip(pads[:_AXES], pads[_AXES:], strict=True)]
    wide = [(length - 1) * s + k - p for length, s, k, p in zip(sides, strides, kernel, lost, strict=True)]
    return Tensor((n, weights[0].shape[1], *wide), given[0].dtype)


def _window_of(
    layer: Layer, given: Sequence[Tensor], weights: Sequence[Tensor], inputs: int, outputs: int
) -> tuple[list[int], list[int], list[int]]:
    """Return kernel, strides and pads of a convolution whose weights have inputs and outputs on these axes."""
    _demand(len(given) == 1 and len(weights) >= 1 and len(weights[0].shape) == 2 + _AXES, layer)
    kernel = weights[0].shape
    _demand(kernel[inputs] == given[0].shape[1], layer)
    _demand(all(bias.shape == (kernel[outputs],) for bias in weights[1:]), layer)
    return _window(layer, list(kernel[2:]))


def _narrowed(sides: Sequence[int], kernel: Sequence[int], strides: Sequence[int], pads: Sequence[int]) -> list[int]:
    return [
        (length + before + after - k) // stride + 1
        for length, k, stride, before, after in zip(sides, kernel, strides, pads[:_AXES], pads[_AXES:], strict=True)
    ]


def _window(layer: Layer, side: list[int] | None) -> tuple[list[int], list[int], list[int]]:
    """Return kernel, strides and pads of a layer whose weights, if it has any, have the sides `side`."""
    kernel: Any = layer.attributes.get("kernel_shape", side)
    strides: Any = layer.attributes.get("strides", [1] * _AXES)
    pads: Any = layer.attributes.get("pads", [0] * 2 * _AXES)
    for numbers, count in ((kernel, _AXES), (strides, _AXES), (pads, 2 * _AXES)):
        _demand(isinstance(numbers, list) and len(numbers) == count, layer)
    _demand(side is None or kernel == side, layer)
    _demand(min(kernel) >= 1 and min(strides) >= 1, layer)
    # More padding than kernel computes with nothing, and larger strides leave voxels out.
    _demand(all(0 <= pad < k for pad, k in zip(pads, kernel * 2, strict=True)), layer)
    _demand(all(stride <= max(k, 2) for stride, k in zip(strides, kernel, strict=True)), layer)
    return kernel, strides, pads


def _check_attributes(layer: Layer, allowed: set[str]) -> None:
    for name, value in layer.attributes.items():
        plain = name not in _PLAIN or value == _PLAIN[name]
        number = isfinite(value) if isinstance(value, float) else name not in _FLOATS
        if name not in allowed or not plain or not number:
            raise ValueError(f"{_told(layer)} has {name:.20} {value!a:.40}")


def _demand(fits: bool, layer: Layer) -> None:
    if not fits:
        raise ValueError(f"{_told(layer)} does not fit what it takes")


def _told(layer: Layer) -> str:
    return f"a layer {layer.kind} of {layer.output!a:.80}"


_Rule: TypeAlias = Callable[[Layer, Sequence[Tensor], Sequence[Tensor]], Tensor]
# The rule of a layer, how many of its inputs are weights at most, and what it may say of itself.
_LAYERS: dict[str, tuple[_Rule, int, set[str]]] = {
    "Add": (_pairwise, 0, set()),
    "AveragePool": (_pool, 0, {*_WINDOW, "ceil_mode", "count_include_pad"} - {"group"}),
    "Cast": (_cast, 0, {"to"}),
    "Concat": (_joined, 0, {"axis"}),
    "Conv": (_convolution, 2, _WINDOW),
    "ConvTranspose": (_upsampling, 2, {*_WINDOW, "output_padding"}),
    "Elu": (_same, 0, {"alpha"}),
    "Gelu": (_gelu, 0, {"approximate"}),
    "Identity": (_same, 0, set()),
    "InstanceNormalization": (_norm, 2, {"epsilon"}),
    "LeakyRelu": (_same, 0, {"alpha"}),
    "Mul": (_pairwise, 0, set()),
    "Relu": (_same, 0, set()),
    "Sigmoid": (_same, 0, set()),
}
OPERATORS = frozenset(_LAYERS)
