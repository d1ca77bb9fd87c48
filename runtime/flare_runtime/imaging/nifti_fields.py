"""The fields of NIfTI-1 and NIfTI-2 headers, and where they lie in a file.

nibabel has them too, but takes as long to import as everything else that an image needs.
"""

from typing import Any, Literal, TypeAlias

import numpy as np

# A record, whose fields are read and set by name, in the byte order of its file.
NiftiHeader: TypeAlias = np.void
_BYTE_ORDERS: tuple[Literal["<", ">"], ...] = ("<", ">")
# Of the field that a header begins with, which says how long it is.
SIZE_BYTES = 4

_NIFTI1 = [
    ("sizeof_hdr", "i4"),
    ("data_type", "S10"),
    ("db_name", "S18"),
    ("extents", "i4"),
    ("session_error", "i2"),
    ("regular", "S1"),
    ("dim_info", "u1"),
    ("dim", "i2", 8),
    ("intent_p1", "f4"),
    ("intent_p2", "f4"),
    ("intent_p3", "f4"),
    ("intent_code", "i2"),
    ("datatype", "i2"),
    ("bitpix", "i2"),
    ("slice_start", "i2"),
    ("pixdim", "f4", 8),
    ("vox_offset", "f4"),
    ("scl_slope", "f4"),
    ("scl_inter", "f4"),
    ("slice_end", "i2"),
    ("slice_code", "u1"),
    ("xyzt_units", "u1"),
    ("cal_max", "f4"),
    ("cal_min", "f4"),
    ("slice_duration", "f4"),
    ("toffset", "f4"),
    ("glmax", "i4"),
    ("glmin", "i4"),
    ("descrip", "S80"),
    ("aux_file", "S24"),
    ("qform_code", "i2"),
    ("sform_code", "i2"),
    ("quatern_b", "f4"),
    ("quatern_c", "f4"),
    ("quatern_d", "f4"),
    ("qoffset_x", "f4"),
    ("qoffset_y", "f4"),
    ("qoffset_z", "f4"),
    ("srow_x", "f4", 4),
    ("srow_y", "f4", 4),
    ("srow_z", "f4", 4),
    ("intent_name", "S16"),
    ("magic", "S4"),
]
_NIFTI2 = [
    ("sizeof_hdr", "i4"),
    ("magic", "S4"),
    ("eol_check", "i1", 4),
    ("datatype", "i2"),
    ("bitpix", "i2"),
    ("dim", "i8", 8),
    ("intent_p1", "f8"),
    ("intent_p2", "f8"),
    ("intent_p3", "f8"),
    ("pixdim", "f8", 8),
    ("vox_offset", "i8"),
    ("scl_slope", "f8"),
    ("scl_inter", "f8"),
    ("cal_max", "f8"),
    ("cal_min", "f8"),
    ("slice_duration", "f8"),
    ("toffset", "f8"),
    ("slice_start", "i8"),
    ("slice_end", "i8"),
    ("descrip", "S80"),
    ("aux_file", "S24"),
    ("qform_code", "i4"),
    ("sform_code", "i4"),
    ("quatern_b", "f8"),
    ("quatern_c", "f8"),
    ("quatern_d", "f8"),
    ("qoffset_x", "f8"),
    ("qoffset_y", "f8"),
    ("qoffset_z", "f8"),
    ("srow_x", "f8", 4),
    ("srow_y", "f8", 4),
    ("srow_z", "f8", 4),
    ("slice_code", "i4"),
    ("xyzt_units", "i4"),
    ("intent_code", "i4"),
    ("intent_name", "S16"),
    ("dim_info", "u1"),
    ("unused_str", "S15"),
]
_FIELDS: dict[int, list[Any]] = {348: _NIFTI1, 540: _NIFTI2}
# Of NIfTI-1 and NIfTI-2.
HEADER_BYTES = tuple(_FIELDS)


def layout_of(start: bytes) -> np.dtype[np.void] | None:
    """Return where the fields lie in a header that begins so, in its byte order; None where it is no NIfTI header."""
    if len(start) < SIZE_BYTES:
        return None
    for order in _BYTE_ORDERS:
        fields = _FIELDS.get(int(np.frombuffer(start, f"{order}i4", 1)[0]))
        if fields is not None:
            return np.dtype(fields).newbyteorder(order)
    return None


def read_fields(block: bytes) -> NiftiHeader | None:
    """Return the header that `block` begins with, which can be changed; None where it is none, or not all of one."""
    layout = layout_of(block)
    if layout is None or len(block) < layout.itemsize:
        return None
    header: NiftiHeader = np.frombuffer(block, layout, 1)[0].copy()
    return header


def byte_order(header: NiftiHeader) -> str:
    """Return the byte order of a header's file, `<` or `>`."""
    return header.dtype["sizeof_hdr"].str[0]
