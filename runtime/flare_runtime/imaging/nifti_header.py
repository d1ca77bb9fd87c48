"""Whether a NIfTI header describes a grid that can be trusted, and that grid."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from flare_runtime.compute.arrays import Shape3, Vector3
from flare_runtime.errors import CaseError
from flare_runtime.imaging.geometry import (
    Geometry,
    axis_lengths,
    check_spacing,
    checked_shape,
    format_mm,
)
from flare_runtime.imaging.nifti_fields import NiftiHeader
from flare_runtime.imaging.volume import Remark

MAX_SPACING_DISAGREEMENT = 0.01

_MM_PER_UNIT = {1: 1000.0, 3: 0.001}  # NIfTI spatial units: metre and micrometre; unknown counts as mm

_SFORM = ("srow_x", "srow_y", "srow_z")
_QUATERNION = ("quatern_b", "quatern_c", "quatern_d")
_QFORM_OFFSET = ("qoffset_x", "qoffset_y", "qoffset_z")
_BAD_SFORM, _BAD_QFORM = "bad_sform", "bad_qform"


def grid_shape(header: NiftiHeader) -> Shape3:
    """Return the voxel counts (z, y, x) of a NIfTI header.

    Raises:
        CaseError: `bad_dimensions` unless the image is 3D, or has nothing but ones beyond.
    """
    rank = int(header["dim"][0])
    if not 1 <= rank <= 7:
        raise CaseError("bad_dimensions", f"the image is of rank {rank}; one 3D volume is needed")
    return checked_shape([int(count) for count in header["dim"][1 : 1 + rank]])


def grid_spacing(header: NiftiHeader) -> tuple[Vector3, tuple[Remark, ...]]:
    """Return the spacing in mm (z, y, x) that ITK would use, and remarks on the orientation.

    Raises:
        CaseError: `bad_spacing`, `bad_orientation` or `spacing_mismatch`.
    """
    unit_mm = _unit_mm(header)
    pixdim = np.abs(np.asarray(header["pixdim"][1:4], dtype=np.float64)) * unit_mm
    x, y, z = (float(s) for s in pixdim)
    check_spacing((z, y, x))
    return (z, y, x), _orientation_remarks(header, pixdim / unit_mm)


def _unit_mm(header: NiftiHeader) -> float:
    return _MM_PER_UNIT.get(int(header["xyzt_units"]) & 7, 1.0)


def forget_invalid(header: NiftiHeader, remarks: Iterable[Remark]) -> None:
    """Unset in `header` the orientation that `grid_spacing` remarked upon, so that nothing made with it has it."""
    codes = {remark.code for remark in remarks}
    if _BAD_SFORM in codes:
        header["sform_code"] = 0
        for field in _SFORM:
            header[field] = 0
    if _BAD_QFORM in codes:
        header["qform_code"], header["pixdim"][0] = 0, 1
        for field in (*_QUATERNION, *_QFORM_OFFSET):
            header[field] = 0


def _orientation_remarks(header: NiftiHeader, pixdim: npt.NDArray[np.float64]) -> tuple[Remark, ...]:
    has_qform, has_sform = int(header["qform_code"]) > 0, int(header["sform_code"]) > 0
    if not has_qform and not has_sform:
        return (Remark("no_orientation", "neither qform nor sform is set; the orientation is unknown"),)
    if has_qform:
        _check_offset("qform", [header[name] for name in _QFORM_OFFSET])
    if has_sform:
        _check_offset("sform", [header[name][3] for name in _SFORM])
    qform_valid = has_qform and _quaternion_is_valid(header)
    sform_valid = has_sform and _check_sform(header, pixdim)
    if not qform_valid and not sform_valid:
        parts = [name for name, there in (("qform", has_qform), ("sform", has_sform)) if there]
        raise CaseError("bad_orientation", f"the {' and the '.join(parts)} cannot be a grid's; mend the header")
    if has_sform and not sform_valid:
        return (Remark(_BAD_SFORM, "the sform is singular; the qform is used"),)
    if has_qform and not qform_valid:
        return (Remark(_BAD_QFORM, "the qform's quaternion is invalid; the sform is used"),)
    return ()


def _check_offset(form: str, offset: Sequence[Any]) -> None:
    x, y, z = (float(value) for value in offset)
    if not np.all(np.isfinite((x, y, z))):
        raise CaseError("bad_orientation", f"the {form}'s offset is {x:g}, {y:g}, {z:g} (x, y, z); mend the header")


def _check_sform(header: NiftiHeader, pixdim: npt.NDArray[np.float64]) -> bool:
    """Return whether the sform is regular; refuse a regular one that no grid of this spacing has."""
    columns = np.stack([header[name][:3] for name in _SFORM]).astype(np.float64)
    lengths = axis_lengths(columns)
    if lengths is None:
        return False
    if np.any(np.abs(lengths / pixdim - 1) > MAX_SPACING_DISAGREEMENT):
        raise CaseError(
            "spacing_mismatch",
            f"the sform's spacing {format_mm(lengths)} and pixdim {format_mm(pixdim)} disagree; mend the header",
        )
    return True


def _quaternion_is_valid(header: NiftiHeader) -> bool:
    bcd = np.array([header[name] for name in _QUATERNION], dtype=np.float64)
    handedness = float(header["pixdim"][0])
    return bool(np.isfinite(handedness) and np.all(np.abs(bcd) <= 2) and np.sum(bcd**2) <= 1 + 1e-4)


def header_geometry(header: NiftiHeader) -> tuple[Geometry, tuple[Remark, ...]]:
    """Return the grid of a header and remarks on its orientation, of which what is invalid is unset in the header.

    Raises:
        CaseError: as `grid_shape` and `grid_spacing` do.
    """
    shape = grid_shape(header)
    spacing_mm, remarks = grid_spacing(header)
    forget_invalid(header, remarks)
    return grid_geometry(header, shape, spacing_mm), remarks


def grid_geometry(header: NiftiHeader, shape: Shape3, spacing_mm: Vector3) -> Geometry:
    """Return the grid of a header whose spacing was checked, and whose invalid orientations were forgotten."""
    z, y, x = spacing_mm
    oriented = True
    affine = np.diag((x, y, z, 1.0))
    unit_mm = _unit_mm(header)
    if int(header["sform_code"]) > 0:
        with np.errstate(over="ignore"):
            affine[:3] = np.stack([header[name] for name in _SFORM]).astype(np.float64) * unit_mm
    elif int(header["qform_code"]) > 0:
        affine[2, 2] *= -1 if header["pixdim"][0] < 0 else 1
        affine[:3, :3] = _rotation(*(float(header[name]) for name in _QUATERNION)) @ affine[:3, :3]
        affine[:3, 3] = [float(header[name]) * unit_mm for name in _QFORM_OFFSET]
    else:
        affine[0, 0] *= -1  # for want of anything better, x to the left, as nibabel has it
        oriented = False
    return Geometry(affine, spacing_mm, shape, unit_mm, oriented)


def _rotation(b: float, c: float, d: float) -> npt.NDArray[np.float64]:
    """Return the rotation matrix of a quaternion of length 1, whose real part is not negative and not stored."""
    a = max(0.0, 1 - b**2 - c**2 - d**2) ** 0.5
    double = 2 / (a**2 + b**2 + c**2 + d**2)  # where rounding made it longer than 1
    return np.array(
        [
            [1 - double * (c * c + d * d), double * (b * c - a * d), double * (b * d + a * c)],
            [double * (b * c + a * d), 1 - double * (b * b + d * d), double * (c * d - a * b)],
            [double * (b * d - a * c), double * (c * d + a * b), 1 - double * (b * b + c * c)],
        ]
    )
