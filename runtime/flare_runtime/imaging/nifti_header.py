"""Whether a NIfTI header describes a grid that can be trusted, and that grid."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from flare_runtime.compute.arrays import Shape3, Vector3
from flare_runtime.errors import CaseError
from flare_runtime.imaging.geometry import Geometry
from flare_runtime.imaging.volume import Remark

# Of NIfTI-1 and NIfTI-2.
HEADER_BYTES = (348, 540)
SPACING_RANGE_MM = (0.1, 20.0)
MAX_EXTENT_MM = 3000.0
# The largest |cosine| between two axes of the sform that still counts as rounding rather than shear.
MAX_SHEAR = 0.01
MAX_SPACING_DISAGREEMENT = 0.01

_MM_PER_UNIT = {1: 1000.0, 3: 0.001}  # NIfTI spatial units: metre and micrometre; unknown counts as mm

_SFORM = ("srow_x", "srow_y", "srow_z")
_QUATERNION = ("quatern_b", "quatern_c", "quatern_d")
_QFORM_OFFSET = ("qoffset_x", "qoffset_y", "qoffset_z")
_BAD_SFORM, _BAD_QFORM = "bad_sform", "bad_qform"


def grid_shape(header: Any) -> Shape3:
    """Return the voxel counts (z, y, x) of a NIfTI header.

    Raises:
        CaseError: `bad_dimensions` unless the image is 3D, or has nothing but ones beyond.
    """
    rank = int(header["dim"][0])
    counts = [int(n) for n in header["dim"][1 : 1 + max(rank, 0)]]
    if not 3 <= rank <= 7 or any(n != 1 for n in counts[3:]) or any(n < 1 for n in counts):
        given = "x".join(map(str, counts)) or f"rank {rank}"
        raise CaseError("bad_dimensions", f"the image is {given}; one 3D volume is needed, each side at least 1")
    x, y, z = counts[:3]
    return z, y, x


def grid_spacing(header: Any, shape: Shape3) -> tuple[Vector3, tuple[Remark, ...]]:
    """Return the spacing in mm (z, y, x) that ITK would use, and remarks on the orientation.

    Raises:
        CaseError: `bad_spacing`, `bad_orientation`, `sheared` or `spacing_mismatch`.
    """
    unit_mm = _unit_mm(header)
    pixdim = np.abs(np.asarray(header["pixdim"][1:4], dtype=np.float64)) * unit_mm
    low, high = SPACING_RANGE_MM
    if not np.all(np.isfinite(pixdim)) or np.any(pixdim < low) or np.any(pixdim > high):
        raise CaseError("bad_spacing", f"the spacing is {_mm(pixdim)}; each side must lie in {low} to {high} mm")
    extent = pixdim[::-1] * shape
    if np.any(extent > MAX_EXTENT_MM):
        raise CaseError("bad_spacing", f"the volume measures {_mm(extent[::-1])}; at most {MAX_EXTENT_MM:g} mm a side")
    remarks = _orientation_remarks(header, pixdim / unit_mm)
    x, y, z = (float(s) for s in pixdim)
    return (z, y, x), remarks


def _unit_mm(header: Any) -> float:
    return _MM_PER_UNIT.get(int(header["xyzt_units"]) & 7, 1.0)


def forget_invalid(header: Any, remarks: Iterable[Remark]) -> None:
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


def _orientation_remarks(header: Any, pixdim: npt.NDArray[np.float64]) -> tuple[Remark, ...]:
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


def _check_sform(header: Any, pixdim: npt.NDArray[np.float64]) -> bool:
    """Return whether the sform is regular; refuse a regular one that no grid of this spacing has."""
    columns = np.stack([header[name][:3] for name in _SFORM]).astype(np.float64)
    with np.errstate(all="ignore"):  # what overflows is singular
        norms = np.linalg.norm(columns, axis=0)
        unit = columns / norms
    if not np.all(np.isfinite(norms)) or not np.all(np.isfinite(unit)) or abs(np.linalg.det(unit)) < 1e-3:
        return False
    shear = float(np.max(np.abs(unit.T @ unit - np.eye(3))))
    if shear > MAX_SHEAR:
        raise CaseError(
            "sheared",
            f"the sform's axes are not at right angles (cosine {shear:.3f}, at most {MAX_SHEAR}); resample it",
        )
    if np.any(np.abs(norms / pixdim - 1) > MAX_SPACING_DISAGREEMENT):
        raise CaseError(
            "spacing_mismatch", f"the sform's spacing {_mm(norms)} and pixdim {_mm(pixdim)} disagree; mend the header"
        )
    return True


def _quaternion_is_valid(header: Any) -> bool:
    bcd = np.array([header[name] for name in _QUATERNION], dtype=np.float64)
    handedness = float(header["pixdim"][0])
    return bool(np.isfinite(handedness) and np.all(np.abs(bcd) <= 2) and np.sum(bcd**2) <= 1 + 1e-4)


def _mm(sizes: npt.NDArray[np.float64]) -> str:
    return " x ".join(f"{s:g}" for s in sizes) + " mm (x, y, z)"


def grid_geometry(header: Any, shape: Shape3, spacing_mm: Vector3) -> Geometry:
    """Return the grid of a header whose spacing was checked, and whose invalid orientations were forgotten."""
    z, y, x = spacing_mm
    affine = np.diag((x, y, z, 1.0))
    unit_mm = _unit_mm(header)
    if int(header["sform_code"]) > 0:
        with np.errstate(over="ignore"):
            affine[:3] = np.stack([header[name] for name in _SFORM]).astype(np.float64) * unit_mm
    elif int(header["qform_code"]) > 0:
        from nibabel.quaternions import quat2mat

        b, c, d = (float(header[name]) for name in _QUATERNION)
        a = max(0.0, 1 - b**2 - c**2 - d**2) ** 0.5
        rotation = np.asarray(quat2mat((a, b, c, d)))  # type: ignore[no-untyped-call]
        affine[2, 2] *= -1 if header["pixdim"][0] < 0 else 1
        affine[:3, :3] = rotation @ affine[:3, :3]
        affine[:3, 3] = [float(header[name]) * unit_mm for name in _QFORM_OFFSET]
    else:
        affine[0, 0] *= -1  # for want of anything better, x to the left, as nibabel has it
    return Geometry(affine, spacing_mm, shape)
