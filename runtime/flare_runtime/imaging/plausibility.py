"""What grids scans can have: those with a header that says anything else are taken for broken."""

from dataclasses import dataclass
from math import asin, degrees

import numpy as np
import numpy.typing as npt

from flare_runtime.errors import CaseError
from flare_runtime.imaging.geometry import Geometry, axis_lengths, format_mm
from flare_runtime.imaging.volume import Remark

SPACING_RANGE_MM = (0.1, 20.0)
MAX_EXTENT_MM = 3000.0
# Headers are off right angles by rounding, and by what is left of a gantry's tilt. In a trunk of 0.4 x 0.4 x 0.6 m this
# much places no voxel 2 mm off, the tolerance of the challenge's surface distance.
MAX_SHEAR_DEGREES = 0.6
# What ITK takes for right angles, as a cosine; beyond it reads no sform.
_RIGHT_ANGLE = 1e-4
# Scans of a model may be so much finer or coarser than those it was trained on.
_FACTOR = 4.0


@dataclass(frozen=True)
class Shear:
    """How far axes are from right angles.

    Attributes:
        degrees: off a right angle, of the two axes that are farthest from it.
        shift_mm: how far the nearest axes at right angles place a corner of the grid elsewhere, its middle staying.
    """

    degrees: float
    shift_mm: float

    @classmethod
    def of(cls, geometry: Geometry) -> "Shear | None":
        """Return the shear of a grid; None for right angles, as ITK takes them, and where there are no places."""
        columns = None if geometry.affine is None else geometry.affine[:3, :3]
        lengths = None if columns is None else axis_lengths(columns)
        if columns is None or lengths is None:
            return None
        unit = columns / lengths
        cosine = float(np.max(np.abs(unit.T @ unit - np.eye(3))))
        if cosine <= _RIGHT_ANGLE:
            return None
        left, _, right = np.linalg.svd(unit)  # of which left @ right is the rotation of the polar decomposition
        shift = (columns - left @ right * lengths) @ _corners(geometry)
        return cls(degrees(asin(min(cosine, 1.0))), float(np.linalg.norm(shift, axis=0).max()))


@dataclass(frozen=True)
class Plausibility:
    """The bounds of a scan's grid.

    Attributes:
        spacing_mm: the smallest and the largest distance of voxels; None allows any.
        extent_mm: the longest side.
        shear_degrees: how far axes may be off right angles.
        in_file_units: spacings are compared as the file has them, whatever its unit of length is.
    """

    spacing_mm: tuple[float, float] | None = SPACING_RANGE_MM
    extent_mm: float = MAX_EXTENT_MM
    shear_degrees: float = MAX_SHEAR_DEGREES
    in_file_units: bool = False

    @classmethod
    def around(
        cls, spacing_mm: tuple[float, ...], shear_degrees: float = MAX_SHEAR_DEGREES, *, in_file_units: bool = False
    ) -> "Plausibility":
        """Return the bounds for scans of a model with this spacing: the usual ones, widened where it lies near them."""
        low, high = SPACING_RANGE_MM
        widened = max(1.0, _FACTOR * max(spacing_mm) / high)
        finest = min(low, min(spacing_mm) / _FACTOR)
        return cls((finest, widened * high), widened * MAX_EXTENT_MM, shear_degrees, in_file_units)

    def check(self, geometry: Geometry) -> tuple[Remark, ...]:
        """Return a remark where the axes are not quite at right angles.

        The spacing of an array is what its owner says, and not checked.

        Raises:
            CaseError: `bad_spacing` or `sheared`.
        """
        if geometry.affine is None:
            return ()
        if self.spacing_mm is not None:
            self._check_spacing(geometry, self.spacing_mm)
        return self._check_axes(geometry)

    def _check_spacing(self, geometry: Geometry, allowed: tuple[float, float]) -> None:
        low, high = allowed
        spacing = [side / (geometry.unit_mm if self.in_file_units else 1.0) for side in geometry.spacing_mm[::-1]]
        if not all(low <= side <= high for side in spacing):
            text = f"the spacing is {format_mm(spacing)}; each side must lie in {low:g} to {high:g} mm"
            raise CaseError("bad_spacing", f"{text}; mend the header, or go on all the same with --any-spacing")
        extent = [side * count for side, count in zip(spacing, geometry.shape[::-1], strict=True)]
        if max(extent) > self.extent_mm:
            text = f"the volume measures {format_mm(extent)}; at most {self.extent_mm:g} mm a side"
            raise CaseError("bad_spacing", f"{text}; mend the header, or go on all the same with --any-spacing")

    def _check_axes(self, geometry: Geometry) -> tuple[Remark, ...]:
        shear = Shear.of(geometry)
        if shear is None:
            return ()
        if shear.degrees > self.shear_degrees:
            text = (
                f"the axes are {shear.degrees:.3g} degrees off right angles, at most {self.shear_degrees:g} are allowed"
            )
            raise CaseError("sheared", f"{text}; resample the image, or go on all the same with --max-shear")
        text = f"the axes are {shear.degrees:.3g} degrees off right angles; the nearest at right angles were used"
        return (Remark("sheared", f"{text}, which moves no voxel by more than {shear.shift_mm:.2g} mm"),)


USUAL = Plausibility()
ANY_SPACING = Plausibility(None)


def _corners(geometry: Geometry) -> npt.NDArray[np.float64]:
    """Return the corners of a grid, (3, 8), in voxels (x, y, z) from its middle, which stays where it is."""
    halves = [(n - 1) / 2 for n in geometry.shape[::-1]]
    return np.stack(np.meshgrid(*((-half, half) for half in halves)), axis=0).reshape(3, -1)
