"""Protobuf's wire format: the fields of a message and their values, whatever they mean."""

from collections.abc import Iterator
from typing import TypeAlias

# A field's value: a number, or bytes, which a number of fixed width is as well.
Value: TypeAlias = "int | memoryview"

_VARINT, _BYTES = 0, 2
_FIXED = {1: 8, 5: 4}
_NEGATIVE = 1 << 63


def fields(message: memoryview) -> Iterator[tuple[int, Value]]:
    """Yield the number and the value of each field of a message; nothing is copied.

    Raises:
        ValueError: where it is no message, or cut off.
    """
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


def integers(value: Value) -> Iterator[int]:
    """Yield the signed numbers of a repeated field: one of them, or all in one field."""
    if isinstance(value, int):
        yield signed(value)
        return
    position = 0
    while position < len(value):
        number, position = _varint(value, position)
        yield signed(number)


def signed(value: Value) -> int:
    """Return a number of 64 bits with its sign."""
    if not isinstance(value, int):
        raise ValueError("bytes in place of a number")
    return value - 2 * _NEGATIVE if value >= _NEGATIVE else value


def text(value: Value) -> str:
    """Return a field's text."""
    return bytes(content(value)).decode()


def content(value: Value) -> memoryview:
    """Return the bytes of a field, such as a message in it."""
    if isinstance(value, int):
        raise ValueError("a number in place of bytes")
    return value


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """Return a number of up to 64 bits and where it ends."""
    number = 0
    for place, byte in enumerate(message[position : position + 10]):
        number |= (byte & 127) << (7 * place)
        if byte < 128:
            return number & (2 * _NEGATIVE - 1), position + place + 1
    raise ValueError("a number without end")
