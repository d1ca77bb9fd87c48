"""Masks as NIfTI files, with the geometry of their image to the last bit where that is NIfTI too."""

import zlib
from contextlib import suppress
from typing import Any, BinaryIO

import numpy as np

from flare_runtime.compute.arrays import MaskArray, Shape3
from flare_runtime.imaging.byte_stream import GZIP_MAGIC
from flare_runtime.imaging.geometry import Geometry
from flare_runtime.imaging.nifti_fields import HEADER_BYTES, NiftiHeader, read_fields
from flare_runtime.imaging.volume import Template

# Masks are mostly runs of one value: the fastest level already shrinks them two hundredfold.
_LEVEL = 1
_CHUNK = 1 << 22

_UNSIGNED_BYTES = 2  # the data type of masks
# Of NIfTI-1 and NIfTI-2.
_TEXT_FIELDS = {"descrip", "aux_file", "intent_name", "db_name", "data_type", "unused_str"}
_SCANNER_SPACE, _MILLIMETRES = 1, 2
_LONGEST_SIDE = 2**15 - 1  # in NIfTI-1


class NiftiMaskWriter:
    """Writes masks as single-file NIfTI, compressed where the name ends in .gz."""

    suffixes = (".nii.gz", ".nii")

    def encode(self, file: BinaryIO, name: str, mask: MaskArray, template: Template, *, keep_text: bool) -> None:
        """Write a mask (z, y, x); see `MaskWriter`."""
        voxels = np.ascontiguousarray(mask).data.cast("B")
        head = mask_header((mask.shape[0], mask.shape[1], mask.shape[2]), template, keep_text=keep_text)
        if not name.endswith(".gz"):
            file.write(head)
            file.write(voxels)
            return
        from isal import isal_zlib

        encoder = isal_zlib.compressobj(_LEVEL, wbits=31)
        file.write(encoder.compress(head))
        for start in range(0, len(voxels), _CHUNK):
            file.write(encoder.compress(voxels[start : start + _CHUNK]))
        file.write(encoder.flush())

    def is_mask(self, head: bytes) -> bool:
        """Whether a file that begins so is a NIfTI image of unsigned bytes, as masks are and no CT is."""
        if head.startswith(GZIP_MAGIC):
            with suppress(zlib.error):
                head = zlib.decompressobj(wbits=31).decompress(head, max(HEADER_BYTES))
        header = read_fields(head)
        return header is not None and int(header["datatype"]) == _UNSIGNED_BYTES


def mask_header(shape: Shape3, template: Template, *, keep_text: bool = False) -> bytes:
    """Return what precedes the voxels of a uint8 mask (z, y, x) in a NIfTI file with the geometry of its image.

    Text that people or programs wrote into the image's header, which may name the patient, is left out unless
    `keep_text`.
    """
    out: NiftiHeader
    out = template.source.copy() if isinstance(template.source, NiftiHeader) else _header_of(template.geometry)
    # The geometry fields stay byte for byte; only what describes the voxels' values is set.
    z, y, x = shape
    out["dim"] = [3, x, y, z, 1, 1, 1, 1]
    out["datatype"], out["bitpix"] = _UNSIGNED_BYTES, 8
    out["scl_slope"], out["scl_inter"] = 1, 0
    out["cal_min"], out["cal_max"] = 0, 0
    out["intent_code"] = 0
    if not keep_text:
        for field in _TEXT_FIELDS.intersection(out.dtype.names or ()):
            out[field] = b""
        out["descrip"] = b"flare-lite mask"
    no_extensions = bytes(4)
    out["vox_offset"] = out.itemsize + len(no_extensions)
    return out.tobytes() + no_extensions


def _header_of(geometry: Geometry) -> NiftiHeader:
    """Return a header for an image that came from no NIfTI file: NIfTI-2 where NIfTI-1 cannot count so far."""
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    header_type: Any = Nifti1Header if max(geometry.shape) <= _LONGEST_SIDE else Nifti2Header
    header = header_type()
    header["magic"] = header.single_magic
    header["pixdim"] = [1, *geometry.spacing_mm[::-1], 0, 0, 0, 0]
    header["xyzt_units"] = _MILLIMETRES
    if geometry.affine is not None:
        header.set_qform(geometry.affine, code=_SCANNER_SPACE)
        header.set_sform(geometry.affine, code=_SCANNER_SPACE)
    fields = read_fields(header.binaryblock)
    assert fields is not None
    return fields
