"""Whether a NIfTI header describes a grid that can be trusted, and the grid's spacing."""

from typing import Any

import numpy as np
import numpy.typing as npt

from flare_runtime.arrays import Shape3, Vector3
from flare_runtime.errors import CaseError
from flare_runtime.volume import Remark, Volume

SPACING_RANGE_MM = (0.1, 20.0)
MAX_EXTENT_MM = 3000.0
# The largest |cosine| between two axes of the sform that still counts as rounding rather than shear.
MAX_SHEAR = 0.01
MAX_SPACING_DISAGREEMENT = 0.01

_MM_PER_UNIT = {1: 1000.0, 3: 0.001}  # NIfTI spatial units: metre and micrometre; unknown counts as mm

# Two grids are the same where no corner of the volume is farther apart than this share of a voxel.
MAX_CORNER_SHIFT = 0.05


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
    unit_mm = _MM_PER_UNIT.get(int(header["xyzt_units"]) & 7, 1.0)
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


def _orientation_remarks(header: Any, pixdim: npt.NDArray[np.float64]) -> tuple[Remark, ...]:
    has_qform, has_sform = int(header["qform_code"]) > 0, int(header["sform_code"]) > 0
    if not has_qform and not has_sform:
        return (Remark("no_orientation", "neither qform nor sform is set; the orientation is unknown"),)
    qform_valid = has_qform and _quaternion_is_valid(header)
    if not has_sform:
        if not qform_valid:
            raise CaseError(
                "bad_orientation", "the qform's quaternion is invalid and there is no sform; mend the header"
            )
        return ()
    columns = np.stack([header[name][:3] for name in ("srow_x", "srow_y", "srow_z")]).astype(np.float64)
    norms = np.linalg.norm(columns, axis=0)
    if not np.all(np.isfinite(columns)) or np.any(norms == 0) or abs(np.linalg.det(columns / norms)) < 1e-3:
        if qform_valid:
            return (Remark("bad_sform", "the sform is singular; the qform is used"),)
        raise CaseError("bad_orientation", "the sform is singular and there is no valid qform; mend the header")
    unit = columns / norms
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
    return ()


def _quaternion_is_valid(header: Any) -> bool:
    bcd = np.array([header["quatern_b"], header["quatern_c"], header["quatern_d"]], dtype=np.float64)
    return bool(np.all(np.isfinite(bcd)) and np.sum(bcd**2) <= 1 + 1e-4)


def _mm(sizes: npt.NDArray[np.float64]) -> str:
    return " x ".join(f"{s:g}" for s in sizes) + " mm (x, y, z)"


def grid_difference(first: Volume, second: Volume) -> str | None:
    """Return in what the grids of two volumes with headers differ, or None where they are one."""
    if first.shape != second.shape:
        return f"measures {second.shape} voxels (z, y, x), not {first.shape}"
    difference = np.asarray(first.header.get_best_affine()) - np.asarray(second.header.get_best_affine())
    corners = np.stack(np.meshgrid(*((0, n - 1) for n in first.shape[::-1]), (1,)), axis=-1).reshape(-1, 4)
    shift = float(np.linalg.norm((corners @ difference.T)[:, :3], axis=1).max())
    return f"lies up to {shift:.3g} mm off" if shift > MAX_CORNER_SHIFT * min(first.spacing_mm) else None
