"""Where the voxels of an image lie in the patient, whatever kind of file they came from."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flare_runtime.compute.arrays import Shape3, Vector3
from flare_runtime.compute.box import Box

# Two grids are the same where no corner of the volume is farther apart than this share of a voxel.
MAX_CORNER_SHIFT = 0.05
# And where nobody knows their places, where their spacings differ by no more than this share.
MAX_SPACING_DIFFERENCE = 1e-3


@dataclass(frozen=True, eq=False)
class Geometry:
    """The grid of an image.

    Attributes:
        affine: (4, 4) float64, from voxel (x, y, z) to place in mm, whose axes grow to the patient's right, front and
            head (RAS+, as in NIfTI); None where the place is unknown, as that of an array is.
        spacing_mm: (z, y, x).
        shape: number of voxels, (z, y, x).
    """

    affine: npt.NDArray[np.float64] | None
    spacing_mm: Vector3
    shape: Shape3

    def difference(self, other: "Geometry") -> str | None:
        """Return in what another grid differs from this one, or None where they are one.

        Places are compared where both are known, and the spacings where one is not.
        """
        if self.shape != other.shape:
            return f"measures {other.shape} voxels (z, y, x), not {self.shape}"
        if self.affine is None or other.affine is None:
            if np.allclose(other.spacing_mm, self.spacing_mm, rtol=MAX_SPACING_DIFFERENCE, atol=0):
                return None
            return f"has a spacing of {_mm(other.spacing_mm)}, not {_mm(self.spacing_mm)}"
        corners = np.stack(np.meshgrid(*((0, n - 1) for n in self.shape[::-1]), (1,)), axis=-1).reshape(-1, 4)
        with np.errstate(all="ignore"):  # places beyond all numbers are no places
            difference = self.affine - other.affine
            shift = float(np.linalg.norm((corners @ difference.T)[:, :3], axis=1).max())
        return None if shift <= MAX_CORNER_SHIFT * min(self.spacing_mm) else f"lies up to {shift:.3g} mm off"

    def transposed(self, axes: tuple[int, int, int]) -> "Geometry":
        """Return the grid with its axes in another order: axis i of the result is axis `axes[i]` of this one."""
        a, b, c = axes
        spacing, shape = self.spacing_mm, self.shape
        affine = None if self.affine is None else self.affine[:, [2 - c, 2 - b, 2 - a, 3]]
        return Geometry(affine, (spacing[a], spacing[b], spacing[c]), (shape[a], shape[b], shape[c]))

    def cropped(self, box: Box) -> "Geometry":
        """Return the grid of the voxels in a box (z, y, x)."""
        affine = self.affine
        if affine is not None:
            affine = affine.copy()
            affine[:, 3] = affine @ (*box.start[::-1], 1)
        return Geometry(affine, self.spacing_mm, box.shape)


def _mm(sides: Vector3) -> str:
    return " x ".join(f"{side:g}" for side in sides) + " mm (z, y, x)"
