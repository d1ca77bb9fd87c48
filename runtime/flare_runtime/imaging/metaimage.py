"""MetaImage files (.mha) that hold their voxels themselves, raw or zlib-compressed, as ITK writes them."""

import re

import numpy as np

from flare_runtime.errors import CaseError
from flare_runtime.imaging.byte_stream import Packing
from flare_runtime.imaging.geometry import format_mm
from flare_runtime.imaging.text_header import (
    Layout,
    TextHeaderReader,
    affine_of,
    check_axes,
    fields_of,
    numbers,
    whole_numbers,
)

_CODES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
# All that is read; each may be there once.
_FIELDS = frozenset(
    (
        *("NDims", "DimSize", "ElementType", "ElementNumberOfChannels", "BinaryData", "HeaderSize", "CompressedData"),
        *("BinaryDataByteOrderMSB", "ElementByteOrderMSB", "ElementDataFile", "ElementSpacing", "ElementSize"),
        *("TransformMatrix", "Rotation", "Orientation", "Offset", "Position", "Origin"),
    )
)
_LAST_LINE = re.compile(rb"(?:^|\n)ElementDataFile *= *([^\r\n]*)\r?\n")
# ITK's axes grow to the left and back.
_FLIPPED = (0, 1)


def _end(data: bytes) -> int | None:
    if len(data) > 3 and not re.match(rb"[A-Za-z]+ *=", data[:64]):
        raise CaseError("not_metaimage", "this is not a MetaImage file")
    last = _LAST_LINE.search(data)
    return last.end() if last else None


def _layout(text: bytes) -> Layout:
    pairs = (line.partition("=") for line in text.decode("latin-1").splitlines() if "=" in line)
    fields = fields_of(((name, value) for name, _, value in pairs), _FIELDS)
    if fields["ElementDataFile"].upper() != "LOCAL":
        raise CaseError("unsupported_type", "its voxels are in another file; save it as one .mha")
    kind, channels = fields.get("ElementType", ""), fields.get("ElementNumberOfChannels", "1")
    binary, skip = _flag(fields, "BinaryData", "True"), fields.get("HeaderSize", "0")
    if kind not in _CODES or channels != "1" or not binary or skip != "0":
        raise CaseError("unsupported_type", f"its voxels are stored in a way that is not read (type {kind!a:.30})")
    counts = whole_numbers(fields, "DimSize")
    check_axes(fields, "NDims", counts)
    directions = np.reshape(numbers(fields, _first(fields, "TransformMatrix", "Rotation", "Orientation"), 9), (3, 3))
    spacing = np.array(numbers(fields, _first(fields, "ElementSpacing", "ElementSize"), 3))
    if spacing.min() < 0:
        raise CaseError("bad_spacing", f"the spacing is {format_mm(spacing)}; save the image anew")
    origin = numbers(fields, _first(fields, "Offset", "Position", "Origin"), 3)
    big = _flag(fields, "BinaryDataByteOrderMSB", "False") or _flag(fields, "ElementByteOrderMSB", "False")
    packing: Packing = "zlib" if _flag(fields, "CompressedData", "False") else "none"
    affine = affine_of(directions * spacing[:, None], origin, _FLIPPED)
    return Layout(counts, np.dtype((">" if big else "<") + _CODES[kind]), affine, packing)


def _flag(fields: dict[str, str], name: str, absent: str) -> bool:
    return fields.get(name, absent).lower() in ("true", "t", "1", "yes")


def _first(fields: dict[str, str], *names: str) -> str:
    """Return the first of several names of one field that is there, or else the first."""
    return next((name for name in names if name in fields), names[0])


METAIMAGE = TextHeaderReader((".mha",), _end, _layout, "not_metaimage")
