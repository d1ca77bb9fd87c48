"""An ONNX file's layers and weights, read without the `onnx` package."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from flare_runtime.arrays import FloatArray
from flare_runtime.errors import BundleError

_VARINT, _BYTES = 0, 2
_FIXED = {1: 8, 5: 4}
_FLOAT = 1
_NEGATIVE = 1 << 63
# A field's number, and its value: a number, or its bytes.
_Field: TypeAlias = tuple[int, "int | memoryview"]
# What an attribute of a layer holds.
Attribute: TypeAlias = int | float | str | list[int]


@dataclass(frozen=True)
class Layer:
    """One node of the graph: its operator, the names of what it takes and gives, its attributes."""

    kind: str
    inputs: list[str]
    output: str
    attributes: dict[str, Attribute]


@dataclass(frozen=True)
class OnnxGraph:
    """A network with float32 weights.

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
        BundleError: where it is cut off, or holds weights other than float32 of their whole shape.
    """
    graph = OnnxGraph()
    try:
        for number, value in _fields(memoryview(data)):
            if number == 7:
                _read_into(graph, _message(value))
    except (ValueError, IndexError, struct.error) as error:
        raise BundleError(f"the network is not an ONNX file that can be read ({error})") from error
    return graph


def _read_into(graph: OnnxGraph, message: memoryview) -> None:
    for number, value in _fields(message):
        if number == 1:
            graph.layers.append(_layer(_message(value)))
        elif number == 5:
            name, weights = _weights(_message(value))
            graph.weights[name] = weights
        elif number == 11:
            name, shape = _end(_message(value))
            graph.inputs[name] = shape
        elif number == 12:
            graph.outputs.append(_end(_message(value))[0])


def _layer(message: memoryview) -> Layer:
    kind, inputs, outputs, attributes = "", list[str](), list[str](), dict[str, Attribute]()
    for number, value in _fields(message):
        if number == 1:
            inputs.append(_text(value))
        elif number == 2:
            outputs.append(_text(value))
        elif number == 4:
            kind = _text(value)
        elif number == 5:
            name, attribute = _attribute(_message(value))
            attributes[name] = attribute
    if len(outputs) != 1:
        raise ValueError(f"a layer {kind} with {len(outputs)} outputs")
    return Layer(kind, inputs, outputs[0], attributes)


def _attribute(message: memoryview) -> tuple[str, Attribute]:
    name, numbers = "", list[int]()
    single: Attribute | None = None
    for number, value in _fields(message):
        if number == 1:
            name = _text(value)
        elif number == 2:
            single = float(struct.unpack("<f", _message(value))[0])
        elif number == 3:
            single = _signed(value)
        elif number == 4:
            single = _text(value)
        elif number == 8:
            numbers += _integers(value)
    return name, numbers if single is None else single


def _weights(message: memoryview) -> tuple[str, FloatArray]:
    name, shape, kind, raw = "", list[int](), 0, memoryview(b"")
    for number, value in _fields(message):
        if number == 1:
            shape += _integers(value)
        elif number == 2:
            kind = _signed(value)
        elif number == 8:
            name = _text(value)
        elif number == 9:
            raw = _message(value)
    if kind != _FLOAT:
        raise ValueError(f"weights {name} are not float32")
    return name, np.frombuffer(raw, "<f4").reshape(shape)


def _end(message: memoryview) -> tuple[str, tuple[int, ...]]:
    """Return the name and the shape of an input or output."""
    name, sides = "", list[int]()
    for number, value in _fields(message):
        if number == 1:
            name = _text(value)
        elif number == 2:
            tensor = _inner(_message(value), 1)
            for axis in _inner_all(_inner(tensor, 2), 1):
                sides.append(next((_signed(side) for key, side in _fields(axis) if key == 1), 0))
    return name, tuple(sides)


def _inner(message: memoryview, wanted: int) -> memoryview:
    return next(_inner_all(message, wanted), memoryview(b""))


def _inner_all(message: memoryview, wanted: int) -> Iterator[memoryview]:
    return (_message(value) for number, value in _fields(message) if number == wanted)


def _fields(message: memoryview) -> Iterator[_Field]:
    """Yield the fields of a message in protobuf's wire format."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        kind = key & 7
        if kind == _VARINT:
            number, position = _varint(message, position)
            yield key >> 3, number
            continue
        if kind == _BYTES:
            length, position = _varint(message, position)
        elif kind in _FIXED:
            length = _FIXED[kind]
        else:
            raise ValueError("a field of an unknown kind")
        if length > len(message) - position:
            raise ValueError("it is cut off")
        yield key >> 3, message[position : position + length]
        position += length


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """Return a number of up to 64 bits and where it ends."""
    number = 0
    for place in range(10):
        byte = message[position + place]
        number |= (byte & 127) << (7 * place)
        if byte < 128:
            return number, position + place + 1
    raise ValueError("a number without end")


def _integers(value: int | memoryview) -> list[int]:
    """Return the numbers of a repeated field: one of them, or all in one field."""
    if isinstance(value, int):
        return [_signed(value)]
    numbers, position = list[int](), 0
    while position < len(value):
        number, position = _varint(value, position)
        numbers.append(_signed(number))
    return numbers


def _signed(value: int | memoryview) -> int:
    if not isinstance(value, int):
        raise ValueError("bytes in place of a number")
    return value - 2 * _NEGATIVE if value >= _NEGATIVE else value


def _text(value: int | memoryview) -> str:
    return bytes(_message(value)).decode()


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number in place of bytes")
    return value
