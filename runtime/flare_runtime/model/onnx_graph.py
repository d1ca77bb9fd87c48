"""An ONNX file's layers and weights, read without the `onnx` package."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from flare_runtime.compute.arrays import FloatArray
from flare_runtime.errors import BundleError
from flare_runtime.model.protobuf import content, fields, integers, signed, text

_FLOAT = 1
_TYPES = {_FLOAT: "<f4", 10: "<f2"}
# What an attribute of a layer holds.
Attribute: TypeAlias = int | float | str | list[int]
_KINDS = {float: 1, int: 2, str: 3, list: 7}


@dataclass(frozen=True)
class Layer:
    """One node of the graph: its operator, the names of what it takes and gives, its attributes."""

    kind: str
    inputs: list[str]
    output: str
    attributes: dict[str, Attribute]


@dataclass(frozen=True)
class OnnxGraph:
    """A network with float32 or float16 weights.

    Attributes:
        layers: in the order of computation.
        weights: by name, as stored.
        inputs: the shapes of the tensors that it takes, by name; 0 where a side is not fixed.
        outputs: the names of what it gives.
    """

    layers: list[Layer] = field(default_factory=list)
    weights: dict[str, FloatArray] = field(default_factory=dict)
    inputs: dict[str, tuple[int, ...]] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)


def read_graph(data: bytes) -> OnnxGraph:
    """Return the graph of an ONNX file.

    Raises:
        BundleError: where it is cut off, says a thing twice, takes or gives anything but float32, or holds weights
            other than float32 or float16 of their whole shape.
    """
    graph = OnnxGraph()
    try:
        for number, value in fields(memoryview(data)):
            if number == 7:
                _read_into(graph, content(value))
    except (ValueError, IndexError, struct.error) as error:
        raise BundleError(f"it is not an ONNX file that can be read: {error}") from error
    return graph


def _read_into(graph: OnnxGraph, message: memoryview) -> None:
    for number, value in fields(message):
        if number == 1:
            graph.layers.append(_layer(content(value)))
        elif number == 5:
            name, weights = _weights(content(value))
            if name in graph.weights:
                raise ValueError(f"two weights {name}")
            graph.weights[name] = weights
        elif number == 11:
            name, shape = _end(content(value))
            graph.inputs[name] = shape
        elif number == 12:
            graph.outputs.append(_end(content(value))[0])


def _layer(message: memoryview) -> Layer:
    kind, inputs, outputs, attributes = "", list[str](), list[str](), dict[str, Attribute]()
    for number, value in fields(message):
        if number == 1:
            inputs.append(text(value))
        elif number == 2:
            outputs.append(text(value))
        elif number == 4:
            kind = text(value)
        elif number == 5:
            name, attribute = _attribute(content(value))
            if name in attributes:
                raise ValueError(f"a layer {kind} with two attributes {name}")
            attributes[name] = attribute
    if len(outputs) != 1:
        raise ValueError(f"a layer {kind} with {len(outputs)} outputs")
    return Layer(kind, inputs, outputs[0], attributes)


def _attribute(message: memoryview) -> tuple[str, Attribute]:
    name, kind, numbers = "", 0, list[int]()
    single: Attribute | None = None
    for number, value in fields(message):
        if number == 1:
            name = text(value)
        elif number == 2:
            single = float(struct.unpack("<f", content(value))[0])
        elif number == 3:
            single = signed(value)
        elif number == 4:
            single = text(value)
        elif number == 8:
            numbers += integers(value)
        elif number == 20:
            kind = signed(value)
    attribute = numbers if single is None else single
    if kind != _KINDS[type(attribute)] or (numbers and single is not None):
        raise ValueError(f"an attribute {name} of another kind than its value")
    return name, attribute


def _weights(message: memoryview) -> tuple[str, FloatArray]:
    name, shape, kind, raw = "", list[int](), 0, memoryview(b"")
    for number, value in fields(message):
        if number == 1:
            shape += integers(value)
        elif number == 2:
            kind = signed(value)
        elif number == 8:
            name = text(value)
        elif number == 9:
            raw = content(value)
    if kind not in _TYPES:
        raise ValueError(f"weights {name} are neither float32 nor float16")
    if min(shape, default=1) < 1:
        raise ValueError(f"weights {name} of the shape {shape}")
    return name, np.frombuffer(raw, _TYPES[kind]).reshape(shape)


def _end(message: memoryview) -> tuple[str, tuple[int, ...]]:
    """Return the name and the shape of an input or output."""
    name, sides = "", list[int]()
    for number, value in fields(message):
        if number == 1:
            name = text(value)
        elif number == 2:
            tensor = _inner(content(value), 1)
            if [number for key, number in fields(tensor) if key == 1] != [_FLOAT]:
                raise ValueError(f"{name} is not float32")
            for axis in _inner_all(_inner(tensor, 2), 1):
                sides.append(next((signed(side) for key, side in fields(axis) if key == 1), 0))
    return name, tuple(sides)


def _inner(message: memoryview, wanted: int) -> memoryview:
    return next(_inner_all(message, wanted), memoryview(b""))


def _inner_all(message: memoryview, wanted: int) -> Iterator[memoryview]:
    return (content(value) for number, value in fields(message) if number == wanted)
