"""What an ONNX file may hold, checked before any engine sees it: layers of a U-Net, all weights inside, known shapes.

Everything that `flare-export` does not write is refused: other layers, functions and subgraphs, and all that could name
a file outside the bundle. Weights are skipped, not copied.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from math import prod
from typing import TypeAlias

from flare_runtime.arrays import Shape3
from flare_runtime.errors import BundleError

OPERATORS = frozenset(
    {
        "Add",
        "AveragePool",
        "Cast",
        "Concat",
        "Conv",
        "ConvTranspose",
        "Identity",
        "InstanceNormalization",
        "LeakyRelu",
        "Relu",
    }
)
_DOMAINS = ("", "ai.onnx")
_FLOAT, _FLOAT16 = 1, 10
_BYTES_OF = {_FLOAT: 4, _FLOAT16: 2}
# Far above any network; what bounds the time is the number of fields.
_MAX_FIELDS, _MAX_AXES = 1_000_000, 8
_VARINT, _BYTES, _WIDTHS = 0, 2, {1: 8, 5: 4}
# A field's value: a number, where its bytes lie, or a number of fixed width, which nothing here needs.
_Value: TypeAlias = int | slice | None
_Handler: TypeAlias = Callable[[_Value], None]


def check_network(data: bytes, name: str, channels: int, outputs: int, patch: Shape3) -> None:
    """Refuse an ONNX file that is not one U-Net from tiles (1, channels, z, y, x) to logits (1, outputs, z, y, x).

    Args:
        data: the file.
        name: what messages call it.
        channels: of the image.
        outputs: channels of the logits.
        patch: (z, y, x).

    Raises:
        BundleError: with what was found and what is allowed.
    """
    network = _Network(data)
    try:
        network.read()
        network.check("takes", network.inputs, (1, channels, *patch))
        network.check("gives", network.outputs, (1, outputs, *patch))
    except _RefusedError as error:
        raise BundleError(f"{name}: {error}; export it anew") from error


class _RefusedError(Exception):
    """The file is not to be given to an engine."""


class _Network:
    """A walk through a file in protobuf's wire format, message by message as ONNX defines them."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._fields_left = _MAX_FIELDS
        self.inputs: list[tuple[int, ...]] = []
        self.outputs: list[tuple[int, ...]] = []

    def read(self) -> None:
        """Walk through the whole file.

        Raises:
            _RefusedError: at the first thing that is not allowed.
        """
        model = {7: self._graph, 8: self._operator_set}
        self._message("the model", slice(0, len(self._data)), model, skipped=(1, 2, 3, 4, 5, 6, 14))

    def check(self, verb: str, found: list[tuple[int, ...]], allowed: tuple[int, ...]) -> None:
        """Refuse ends of the network that are not the one the manifest describes."""
        if found != [allowed]:
            shapes = ", ".join(map(str, found[:3])) or "nothing"
            raise _RefusedError(f"the network {verb} {shapes}; its manifest says {allowed}")

    def _graph(self, where: _Value) -> None:
        fields = {1: self._node, 5: self._weights, 11: self._end(self.inputs), 12: self._end(self.outputs)}
        self._message("the graph", where, fields, skipped=(2, 10, 13, 16))

    def _operator_set(self, where: _Value) -> None:
        self._message("the operator set", where, {1: self._domain}, skipped=(2,))

    def _node(self, where: _Value) -> None:
        fields = {4: self._operator, 5: self._attribute, 7: self._domain}
        self._message("a layer", where, fields, skipped=(1, 2, 3, 6, 9))

    def _operator(self, where: _Value) -> None:
        if (text := self._text(where)) not in OPERATORS:
            raise _RefusedError(f"holds a layer {text!a}; allowed are {', '.join(sorted(OPERATORS))}")

    def _domain(self, where: _Value) -> None:
        if (text := self._text(where)) not in _DOMAINS:
            raise _RefusedError(f"holds layers of {text!a}; ONNX's own are allowed")

    def _attribute(self, where: _Value) -> None:
        # Numbers and text: no tensor and no graph.
        self._message("an attribute", where, {}, skipped=(1, 2, 3, 4, 7, 8, 13, 20))

    def _weights(self, where: _Value) -> None:
        sides: list[int] = []
        kinds: list[int] = []
        values: list[slice] = []
        fields = {
            1: self._numbers(sides),
            2: self._number(kinds),
            9: lambda value: values.append(_bytes(value)),
            13: _elsewhere,
            14: _elsewhere,
        }
        self._message("a weight", where, fields, skipped=(8, 12, 16))
        if len(kinds) != 1 or kinds[0] not in _BYTES_OF or len(sides) > _MAX_AXES:
            raise _RefusedError("holds weights that are not float32 or float16")
        if [value.stop - value.start for value in values] != [prod(sides) * _BYTES_OF[kinds[0]]]:
            raise _RefusedError("holds weights without their values, or with values of another number than their shape")

    def _end(self, found: list[tuple[int, ...]]) -> _Handler:
        """Return what reads an input or output of the graph and appends its shape."""

        def read(where: _Value) -> None:
            sides: list[int] = []
            kinds: list[int] = []
            axis = {1: self._number(sides)}
            shape = {1: lambda value: self._message("an axis", value, axis, skipped=(3,))}
            tensor = {1: self._number(kinds), 2: lambda value: self._message("a shape", value, shape, skipped=())}
            kind = {1: lambda value: self._message("a tensor", value, tensor, skipped=())}
            whole = {2: lambda value: self._message("a type", value, kind, skipped=(6,))}
            self._message("an input or output", where, whole, skipped=(1, 3, 4))
            if kinds != [_FLOAT]:
                raise _RefusedError("its inputs or outputs are not float32")
            found.append(tuple(sides))

        return read

    def _number(self, found: list[int]) -> _Handler:
        """Return what appends a number."""

        def read(value: _Value) -> None:
            if not isinstance(value, int):
                raise _RefusedError("is not an ONNX file (a number is something else)")
            found.append(value)

        return read

    def _numbers(self, found: list[int]) -> _Handler:
        """Return what appends a number, or several in one field."""

        def read(value: _Value) -> None:
            if isinstance(value, int):
                found.append(value)
                return
            packed = _bytes(value)
            position = packed.start
            while position < packed.stop and len(found) <= _MAX_AXES:
                number, position = self._varint(position, packed.stop)
                found.append(number)

        return read

    def _text(self, where: _Value) -> str:
        place = _bytes(where)
        return self._data[place.start : min(place.stop, place.start + 64)].decode("utf-8", "backslashreplace")

    def _message(self, what: str, where: _Value, fields: Mapping[int, _Handler], skipped: Collection[int]) -> None:
        """Hand a message's fields to their handlers; refuse those that are neither handled nor skipped."""
        for number, value in self._fields(_bytes(where)):
            if number in fields:
                fields[number](value)
            elif number not in skipped:
                raise _RefusedError(f"holds more than a U-Net (field {number} of {what})")

    def _fields(self, where: slice) -> Iterator[tuple[int, _Value]]:
        position = where.start
        while position < where.stop:
            self._fields_left -= 1
            if self._fields_left < 0:
                raise _RefusedError(f"holds more than {_MAX_FIELDS:,} fields")
            key, position = self._varint(position, where.stop)
            kind = key & 7
            if kind == _VARINT:
                number, position = self._varint(position, where.stop)
                yield key >> 3, number
                continue
            if kind == _BYTES:
                length, position = self._varint(position, where.stop)
            elif kind in _WIDTHS:
                length = _WIDTHS[kind]
            else:
                raise _RefusedError("is not an ONNX file (a field of an unknown kind)")
            if length > where.stop - position:
                raise _RefusedError("is not an ONNX file (it is cut off)")
            yield key >> 3, slice(position, position + length) if kind == _BYTES else None
            position += length

    def _varint(self, position: int, stop: int) -> tuple[int, int]:
        """Return a number of up to 64 bits and where it ends."""
        number = 0
        for place, byte in enumerate(self._data[position : min(position + 10, stop)]):
            number |= (byte & 127) << (7 * place)
            if byte < 128:
                return number & (1 << 64) - 1, position + place + 1
        raise _RefusedError("is not an ONNX file (a number without end)")


def _bytes(value: _Value) -> slice:
    if not isinstance(value, slice):
        raise _RefusedError("is not an ONNX file (a number in place of text or a message)")
    return value


def _elsewhere(value: _Value) -> None:
    """Refuse a weight's location, or that it has one; 0 says that it has none."""
    if value != 0:
        raise _RefusedError("keeps weights in another file")
