"""Strict NIfTI reading: what cannot be trusted is refused, never filled in."""

from pathlib import Path
from typing import Any

import numpy as np

from flare_runtime.compute.arrays import Shape3
from flare_runtime.errors import CaseError
from flare_runtime.imaging.byte_stream import ByteStream
from flare_runtime.imaging.nifti_fields import SIZE_BYTES, NiftiHeader, byte_order, layout_of, read_fields
from flare_runtime.imaging.nifti_header import grid_shape, header_geometry
from flare_runtime.imaging.stored_voxels import check_size, read_voxels
from flare_runtime.imaging.volume import Grid, Remark, Volume

_REAL_TYPES = {2: "u1", 256: "i1", 4: "i2", 512: "u2", 8: "i4", 768: "u4", 1024: "i8", 1280: "u8", 16: "f4", 64: "f8"}


class NiftiReader:
    """Reads single-file NIfTI-1 and NIfTI-2, gzip-compressed or not, whatever the name says.

    Refuses with one of the reasons `not_a_file`, `not_nifti`, `truncated`, `corrupt`, `bad_dimensions`,
    `unsupported_type`, `too_large`, `bad_spacing`, `bad_orientation` and `spacing_mismatch`.
    """

    suffixes = (".nii.gz", ".nii")

    def read_volume(self, path: Path, max_voxels: int) -> Volume:
        """Read an image; its whole stream is decoded and the checksum compared."""
        with ByteStream(path) as stream:
            return _read(stream, max_voxels)

    def read_grid(self, path: Path, max_voxels: int) -> Grid:
        """Read what the header says of the voxels."""
        with ByteStream(path) as stream:
            header, _ = _read_header(stream)
            shape, dtype = _checked_size(stream, header, max_voxels)
            geometry, _ = header_geometry(header)
            return Grid(shape, geometry.spacing_mm, dtype.itemsize, geometry)


def _read(stream: ByteStream, max_voxels: int) -> Volume:
    header, header_bytes = _read_header(stream)
    shape, dtype = _checked_size(stream, header, max_voxels)
    geometry, remarks = header_geometry(header)

    offset = float(header["vox_offset"])
    if not header_bytes + 4 <= offset <= 2**31:
        raise CaseError(
            "not_nifti", f"the voxels would start at byte {offset:g}; at least {header_bytes + 4} is allowed"
        )
    gap = int(offset) - header_bytes
    if stream.skip(gap) < gap:
        raise CaseError("truncated", "the file ends before its voxels begin; copy the file anew")

    voxels, odd = read_voxels(stream, shape, dtype)
    slope, intercept = _scaling(header)
    return Volume(voxels, geometry, slope, intercept, header, (*remarks, *odd, *_name_remarks(stream)))


def _read_header(stream: ByteStream) -> tuple[NiftiHeader, int]:
    start = stream.read(SIZE_BYTES)
    layout = layout_of(start)
    header = layout and read_fields(start + stream.read(layout.itemsize - len(start)))
    if header is None:
        raise CaseError("not_nifti", "this is not a NIfTI file; give a .nii.gz, .nii, .nrrd or .mha volume, or DICOM")
    magic = bytes(header["magic"])[:3]
    if magic in (b"ni1", b"ni2"):
        raise CaseError("not_nifti", "its voxels are in a file of their own (.img); convert the pair to one .nii file")
    if magic not in (b"n+1", b"n+2"):
        raise CaseError("not_nifti", f"the NIfTI magic is {magic!r}; only single-file NIfTI (n+1, n+2) is read")
    return header, header.itemsize


def _voxel_type(header: NiftiHeader) -> np.dtype[Any]:
    code = int(header["datatype"])
    if code not in _REAL_TYPES:
        raise CaseError("unsupported_type", f"NIfTI data type {code} is not a real number per voxel; convert the image")
    dtype: np.dtype[Any] = np.dtype(byte_order(header) + _REAL_TYPES[code])
    return dtype


def _checked_size(stream: ByteStream, header: NiftiHeader, max_voxels: int) -> tuple[Shape3, np.dtype[Any]]:
    """Return shape (z, y, x) and type of the voxels, where so many are allowed and fit into the file."""
    shape, dtype = grid_shape(header), _voxel_type(header)
    check_size(stream, shape, dtype, max_voxels)
    return shape, dtype


def _name_remarks(stream: ByteStream) -> list[Remark]:
    if stream.compressed != stream.path.name.lower().endswith(".gz"):
        kind = "gzip-compressed" if stream.compressed else "not compressed"
        return [Remark("misnamed", f"the file is {kind}, against its name")]
    return []


def _scaling(header: NiftiHeader) -> tuple[float, float]:
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if not np.isfinite(slope) or slope == 0:
        return 1.0, 0.0
    return slope, intercept if np.isfinite(intercept) else 0.0
