"""NIfTI files written field by field, so that every one of them can be wrong."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header

CODES = {"u1": 2, "i1": 256, "i2": 4, "u2": 512, "i4": 8, "u4": 768, "i8": 1024, "u8": 1280, "f4": 16, "f8": 64}


def nifti_header(shape, dtype="i2", *, spacing_mm=(3.0, 2.0, 1.5), version=1, endianness="<", **fields: Any) -> Any:
    """Return a header for voxels (z, y, x) with identity orientation; `fields` overwrite it raw, in NIfTI's order."""
    header = (Nifti1Header if version == 1 else Nifti2Header)(endianness=endianness)
    z, y, x = shape
    dz, dy, dx = spacing_mm
    header["dim"] = [3, x, y, z, 1, 1, 1, 1]
    header["pixdim"] = [1, dx, dy, dz, 0, 0, 0, 0]
    header["datatype"], header["bitpix"] = CODES[dtype], 8 * np.dtype(dtype).itemsize
    header["magic"] = b"n+1" if version == 1 else b"n+2\0\r\n\x1a\n"
    header["vox_offset"] = 352 if version == 1 else 544
    header["xyzt_units"] = 2
    header["qform_code"] = header["sform_code"] = 1
    header["srow_x"], header["srow_y"], header["srow_z"] = [dx, 0, 0, -5], [0, dy, 0, -6], [0, 0, dz, -7]
    header["qoffset_x"], header["qoffset_y"], header["qoffset_z"] = -5, -6, -7
    header["scl_slope"], header["scl_inter"] = 1, 0
    for name, value in fields.items():
        header[name] = value
    return header


def sform_fields(columns, offset=(-5.0, -6.0, -7.0)) -> dict[str, Any]:
    """Return the fields of an sform whose columns are those of `columns` (3, 3)."""
    rows = np.column_stack([np.asarray(columns, float), offset])
    return {"srow_x": rows[0], "srow_y": rows[1], "srow_z": rows[2], "sform_code": 1}


def nifti_bytes(voxels, *, endianness="<", **options: Any) -> bytes:
    """Return a NIfTI file with `voxels` (z, y, x)."""
    voxels = np.asarray(voxels)
    dtype = voxels.dtype.str[1:]
    header = nifti_header(voxels.shape, dtype, endianness=endianness, **options)
    stored = np.ascontiguousarray(voxels, dtype=np.dtype(dtype).newbyteorder(endianness))
    return bytes(header.binaryblock) + bytes(4) + stored.tobytes()


def write_nifti(path: Path, voxels, **options: Any) -> Path:
    """Write `voxels` (z, y, x), compressed where the name says so, and return `path`."""
    data = nifti_bytes(voxels, **options)
    path.write_bytes(gzip.compress(data, mtime=0) if path.name.endswith(".gz") else data)
    return path


def noise(shape, seed=0, low=-1000, high=1000):
    """Return int16 noise, which deflates badly."""
    return np.random.default_rng(seed).integers(low, high, shape, dtype=np.int16)


def blobs(shape, seed=0):
    """Return a smooth int16 image that spans soft-tissue HU."""
    from scipy.ndimage import gaussian_filter

    field = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 2)
    return np.round(40 + 200 * field / field.std()).astype(np.int16)
