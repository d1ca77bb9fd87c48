"""The images of the fault table: one small file for every way in which one can be wrong."""

import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.fault_table import File
from tests.runtime.nifti_files import blobs, nifti_bytes, sform_fields

SHAPE, SPACING = (12, 14, 16), (3.0, 2.0, 1.5)
HU = blobs(SHAPE)
PLAIN = nifti_bytes(HU, spacing_mm=SPACING)
PACKED = gzip.compress(PLAIN, mtime=0)


def content(data: bytes) -> Callable[[Path], object]:
    """Return what writes these bytes."""
    return lambda path: path.write_bytes(data)


def packed(voxels: Any = HU, **options: Any) -> Callable[[Path], object]:
    """Return what writes a compressed image of `voxels` (z, y, x); see `nifti_bytes`."""
    return content(gzip.compress(nifti_bytes(voxels, **{"spacing_mm": SPACING, **options}), mtime=0))


def dim(*sides: int) -> dict[str, Any]:
    """Return a header's field `dim`."""
    return {"dim": [*sides, *[1] * (8 - len(sides))]}


def _flipped(data: bytes, place: int) -> bytes:
    changed = bytearray(data)
    changed[place] ^= 1
    return bytes(changed)


def _item(code: int, bits: int, item: bytes) -> Callable[[Path], object]:
    return content(gzip.compress(nifti_bytes(HU, datatype=code, bitpix=bits)[:352] + item * HU.size))


def _some(bad: float, count: int) -> Any:
    voxels = HU.astype("f4")
    voxels.reshape(-1)[np.random.default_rng(0).choice(voxels.size, count, replace=False)] = bad
    return voxels


TRUNCATED = (
    File("half_a_gzip_file", content(PACKED[: len(PACKED) // 2]), "truncated"),
    File("gzip_without_its_trailer", content(PACKED[:-8]), "truncated"),
    File("half_a_plain_file", content(PLAIN[: len(PLAIN) // 2]), "truncated", suffix=".nii"),
    File("one_byte_less", content(PLAIN[:-1]), "truncated", suffix=".nii"),
)
CORRUPT = (
    File("wrong_checksum", content(_flipped(PACKED, -8)), "corrupt"),
    File("wrong_length", content(_flipped(PACKED, -1)), "corrupt"),
    File("flipped_bit", content(_flipped(gzip.compress(PLAIN, 0), 2000)), "corrupt"),
)
TRAILING = (
    File("bytes_after_the_stream", content(PACKED + b"garbage"), remarks=("trailing_bytes",)),
    File("bytes_after_the_voxels", content(PLAIN + b"garbage"), remarks=("trailing_bytes",), suffix=".nii"),
)
MEMBERS = (
    File("many_members", content(b"".join(gzip.compress(PLAIN[i : i + 999]) for i in range(0, len(PLAIN), 999)))),
)
MISNAMED = (
    File("plain_named_gz", content(PLAIN), remarks=("misnamed",)),
    File("gzip_named_nii", content(PACKED), remarks=("misnamed",), suffix=".nii"),
)
NO_NIFTI = (
    File("empty", content(b""), "not_nifti"),
    File("text", content(b"Patient name: nobody\n" * 100), "not_nifti"),
    File("half_a_header", content(PLAIN[:200]), "not_nifti", suffix=".nii"),
    File("header_of_a_pair", packed(magic=b"ni1"), "not_nifti"),
)
PROMISES = (
    File("32767_cubed", packed(**dim(3, 32767, 32767, 32767)), "too_large"),
    File("more_than_the_file_can_hold", packed(spacing_mm=(1, 1, 1), **dim(3, 1200, 1200, 1200)), "truncated"),
)
DIMENSIONS = (
    File("negative_side", packed(**dim(3, 16, -14, 12)), "bad_dimensions"),
    File("zero_side", packed(**dim(3, 16, 14, 0)), "bad_dimensions"),
    File("0d", packed(**dim(0, 16, 14, 12)), "bad_dimensions"),
    File("2d", packed(**dim(2, 16, 168)), "bad_dimensions"),
    File("4d", packed(**dim(4, 16, 14, 6, 2)), "bad_dimensions"),
    File("4d_of_one_time", packed(**dim(4, 16, 14, 12, 1))),
)
TYPES = (
    File("rgb", _item(128, 24, b"abc"), "unsupported_type"),
    File("complex", _item(32, 64, bytes(8)), "unsupported_type"),
    File("binary", _item(1, 1, b"\1"), "unsupported_type"),
    File("float128", _item(1536, 128, bytes(16)), "unsupported_type"),
)
SPACINGS = (
    File("spacing_0", packed(pixdim=[1, 0, 2, 3, 0, 0, 0, 0]), "bad_spacing"),
    File("spacing_nan", packed(pixdim=[1, 1.5, np.nan, 3, 0, 0, 0, 0]), "bad_spacing"),
)
SIZES = (
    File("spacing_0.05_mm", packed(spacing_mm=(0.05, 1, 1)), "bad_spacing"),
    File("spacing_25_mm", packed(spacing_mm=(3, 25, 1)), "bad_spacing"),
    File("longer_than_3_m", packed(blobs((161, 4, 4)), spacing_mm=(19, 1, 1)), "bad_spacing"),
)
NONFINITE = (
    File("few_nan", packed(_some(np.nan, 5)), remarks=("nonfinite",)),
    File("few_infinite", packed(_some(np.inf, 5)), remarks=("nonfinite",)),
    File("many_nan", packed(_some(np.nan, 500)), remarks=("nonfinite",)),
    File("half_nan", packed(np.where(np.indices(HU.shape)[2] < 8, np.nan, HU).astype("f4")), remarks=("nonfinite",)),
)
NO_ORIENTATION = (File("no_orientation", packed(qform_code=0, sform_code=0), remarks=("no_orientation",)),)
SINGULAR = (
    File("singular_sform", packed(**sform_fields(np.zeros((3, 3)))), remarks=("bad_sform",)),
    File("nan_sform", packed(**sform_fields(np.full((3, 3), np.nan))), remarks=("bad_sform",)),
    File("singular_sform_no_qform", packed(qform_code=0, **sform_fields(np.zeros((3, 3)))), "bad_orientation"),
)
SHEARED = (
    File("rounded_axes", packed(**sform_fields([[1.5, 0.0001, 0], [-0.0001, 2, 0], [0, 0, 3]]))),
    File("nearly_right_axes", packed(**sform_fields([[1.5, 0.01, 0], [0, 2, 0], [0, 0, 3]])), remarks=("sheared",)),
    File("sheared_axes", packed(**sform_fields([[1.5, 1, 0], [0, 3**0.5, 0], [0, 0, 3]])), "sheared"),
)
TWO_SPACINGS = (File("sform_of_another_spacing", packed(**sform_fields(np.diag([1.5, 2, 3.1]))), "spacing_mismatch"),)
SLOPES = (
    File("slope_0", packed(scl_slope=0, scl_inter=7)),
    File("slope_nan", packed(scl_slope=np.nan)),
)
SMALL = (
    File("one_slice", packed(HU[:1]), remarks=("few_slices",)),
    File("two_slices", packed(HU[:2]), remarks=("few_slices",)),
    File("three_slices", packed(HU[:3])),
    File("one_voxel", packed(HU[:1, :1, :1]), remarks=("few_slices",)),
)
NO_HOUNSFIELD = (
    File("normalised", packed((HU / HU.std() * 0.1).astype("f4")), "not_hounsfield"),
    File("shifted_by_1024", packed(blobs((16, 16, 16)) // 4 + 1024), "not_hounsfield"),
)
_SHIFTED = sform_fields(np.diag([1.5, 2, 3]), (np.nan, 0, 0))
OFFSETS = (
    File("sform_offset_nan", packed(**_SHIFTED), "bad_orientation"),
    File("qform_offset_infinite", packed(sform_code=0, qoffset_z=np.inf), "bad_orientation"),
)
NO_QFORM = (File("qform_nan", packed(quatern_b=np.nan), remarks=("bad_qform",)),)
COLLAPSED = (
    File("slope_too_small", packed(scl_slope=1e-30, scl_inter=-1024), "bad_scaling"),
    File("intercept_too_large", packed(scl_slope=1, scl_inter=1e20), "bad_scaling"),
)
INFINITE = (
    File("infinite_slope", packed(scl_slope=3e38), "nonfinite"),
    File("infinite_shift", packed(version=2, scl_inter=-1e300), "nonfinite"),
)
LONG = (File("12000_voxels_in_a_row", packed(blobs((12000, 1, 1)), spacing_mm=(0.25, 1, 1)), None),)
NO_FILES = (
    File("fifo", os.mkfifo, "not_a_file"),
    File("device", lambda path: path.symlink_to("/dev/zero"), "not_a_file"),
    File("folder", Path.mkdir, "not_a_file"),
)
NOTHING = (File("nothing_but_air", packed(np.full(SHAPE, 0, "i2")), remarks=("all_zero",)),)
