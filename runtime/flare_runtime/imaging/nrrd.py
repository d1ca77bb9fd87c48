"""NRRD files that hold their voxels themselves, raw or gzip-compressed, as 3D Slicer writes them."""

import re

import numpy as np

from flare_runtime.errors import CaseError
from flare_runtime.imaging.byte_stream import Packing
from flare_runtime.imaging.text_header import (
    Layout,
    TextHeaderReader,
    affine_of,
    check_axes,
    fields_of,
    numbers,
    whole_numbers,
)

_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_CODES = {name: code for code, names in _TYPES.items() for name in names}
_PACKINGS: dict[str, Packing] = {"raw": "none", "gzip": "gzip", "gz": "gzip"}
# Which axes point against right, front and head.
_SPACES = {
    "left-posterior-superior": (0, 1),
    "lps": (0, 1),
    "left-anterior-superior": (0,),
    "las": (0,),
    "right-anterior-superior": (),
    "ras": (),
}
_ORDERS = {"little": "<", "big": ">"}
# All that is read; each may be there once.
_FIELDS = frozenset(
    ("type", "dimension", "sizes", "endian", "encoding", "space", "space directions", "space origin", "data file")
)
_BLANK_LINE = re.compile(rb"\r?\n\r?\n")


def _end(data: bytes) -> int | None:
    if data and not data.startswith(b"NRRD000"[: len(data)]):
        raise CaseError("not_nrrd", "this is not an NRRD file")
    blank = _BLANK_LINE.search(data)
    return blank.end() if blank else None


def _layout(text: bytes) -> Layout:
    lines = [line for line in text.decode("latin-1").splitlines()[1:] if not line.startswith("#")]
    # Key and value pairs of programs have ":=".
    pairs = (line.partition(":") for line in lines if ":" in line and ":=" not in line)
    fields = fields_of(((name.strip().lower(), value) for name, _, value in pairs), _FIELDS)
    kind, packing, space = (fields.get(name, "").lower() for name in ("type", "encoding", "space"))
    if "data file" in fields or "datafile" in fields:
        raise CaseError("unsupported_type", "its voxels are in another file; save it as one .nrrd")
    if kind not in _CODES or packing not in _PACKINGS or {"line skip", "byte skip"} & fields.keys():
        text_of = f"type {kind!a:.30}, encoding {packing!a:.30}"
        raise CaseError("unsupported_type", f"its voxels are stored in a way that is not read ({text_of})")
    if space not in _SPACES:
        raise CaseError("bad_orientation", f"the space is {space!a:.40}; {', '.join(list(_SPACES)[::2])} are known")
    counts = whole_numbers(fields, "sizes")
    check_axes(fields, "dimension", counts)
    order = fields.get("endian", "").lower()
    if order not in _ORDERS and np.dtype(_CODES[kind]).itemsize > 1:
        raise CaseError("unsupported_type", f"the field 'endian' is {order!a:.20}; little or big is needed")
    affine = affine_of(numbers(fields, "space directions", 9), numbers(fields, "space origin", 3), _SPACES[space])
    return Layout(counts, np.dtype(_ORDERS.get(order, "|") + _CODES[kind]), affine, _PACKINGS[packing])


NRRD = TextHeaderReader((".nrrd",), _end, _layout, "not_nrrd")
