"""Where the voxels of an image lie in the patient, whatever kind of file they came from."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from flare_runtime.compute.arrays import Shape3, Vector3
from flare_runtime.compute.box import Box
from flare_runtime.errors import CaseError
from flare_runtime.imaging.orientation import Turn, orientation_of

# Sides that arithmetic is sure to bear; what a scan can have is for `plausibility` to say.
_SPACING_RANGE_MM = (1e-6, 1e6)
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
        unit_mm: the unit of the file's lengths, which were multiplied by it.
        oriented: whether the file says where the axes point; False where `affine` holds a guess.
    """

    affine: npt.NDArray[np.float64] | None
    spacing_mm: Vector3
    shape: Shape3
    unit_mm: float = 1.0
    oriented: bool = True

    @classmethod
    def of_affine(cls, affine: npt.ArrayLike, shape: Shape3) -> "Geometry":
        """Return the grid of an affine, whose columns are as long as its spacing.

        Raises:
            CaseError: `bad_orientation` or `bad_spacing` where it can be no image's.
        """
        matrix = np.asarray(affine, np.float64)
        lengths = axis_lengths(matrix[:3, :3])
        if lengths is None or not np.all(np.isfinite(matrix)):
            raise CaseError("bad_orientation", "the axes, or the origin, cannot be those of a grid; mend the image")
        x, y, z = (float(length) for length in lengths)
        check_spacing((z, y, x))
        return cls(matrix, (z, y, x), shape)

    @property
    def orientation(self) -> str | None:
        """Where the stored axes x, y and z point, such as LPS; None where nobody knows."""
        return None if self.affine is None or not self.oriented else orientation_of(self.affine)

    @property
    def axial_axis(self) -> int:
        """The axis (0, 1 or 2 of z, y, x) that runs from feet to head, or nearest to it; z where nobody knows."""
        orientation = self.orientation
        return 0 if orientation is None else 2 - next(i for i, letter in enumerate(orientation) if letter in "IS")

    def place_of(self, voxel: Vector3) -> Vector3 | None:
        """Return the place of a voxel index (z, y, x) in mm, (x, y, z), RAS+; None where it is unknown."""
        if self.affine is None:
            return None
        x, y, z = (float(side) for side in (self.affine @ (*voxel[::-1], 1))[:3])
        return x, y, z

    def difference(self, other: "Geometry") -> str | None:
        """Return in what another grid differs from this one, or None where they are one.

        Places are compared where both are known, and the spacings where one is not.
        """
        if self.shape != other.shape:
            return f"measures {other.shape} voxels (z, y, x), not {self.shape}"
        if self.affine is None or other.affine is None:
            if np.allclose(other.spacing_mm, self.spacing_mm, rtol=MAX_SPACING_DIFFERENCE, atol=0):
                return None
            theirs, ours = (format_mm(grid.spacing_mm[::-1]) for grid in (other, self))
            return f"has a spacing of {theirs}, not {ours}"
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
        turned = (shape[a], shape[b], shape[c])
        return replace(self, affine=affine, spacing_mm=(spacing[a], spacing[b], spacing[c]), shape=turned)

    def turned(self, turn: Turn) -> "Geometry":
        """Return the grid of the array that `Turn.view` makes of this grid's."""
        grid = self.transposed(turn.axes)
        if grid.affine is None:
            return grid
        affine = grid.affine.copy()
        for axis in range(3):
            if turn.flipped[axis]:
                column = 2 - axis
                affine[:, 3] += affine[:, column] * (grid.shape[axis] - 1)
                affine[:, column] *= -1
        return replace(grid, affine=affine)

    def cropped(self, box: Box) -> "Geometry":
        """Return the grid of the voxels in a box (z, y, x)."""
        affine = self.affine
        if affine is not None:
            affine = affine.copy()
            affine[:, 3] = affine @ (*box.start[::-1], 1)
        return replace(self, affine=affine, shape=box.shape)

    def resampled(self, shape: Shape3) -> "Geometry":
        """Return the grid of other voxels (z, y, x) that fill the same space."""
        ratio = np.divide(self.shape, shape)
        z, y, x = (float(side) for side in self.spacing_mm * ratio)
        if self.affine is None:
            return Geometry(None, (z, y, x), shape)
        to_old = np.diag([*ratio[::-1], 1.0])
        to_old[:3, 3] = (ratio[::-1] - 1) / 2  # the middle of the first new voxel
        return Geometry(self.affine @ to_old, (z, y, x), shape)


def checked_shape(counts: Sequence[int]) -> Shape3:
    """Return the shape (z, y, x) of an image with these numbers of voxels (x, y, z, ...).

    Raises:
        CaseError: `bad_dimensions` unless there are three, or nothing but ones beyond.
    """
    if len(counts) < 3 or any(count != 1 for count in counts[3:]) or min(counts) < 1:
        size = "x".join(map(str, counts))
        raise CaseError("bad_dimensions", f"the image is {size}; one 3D volume is needed, each side at least 1")
    x, y, z = (int(count) for count in counts[:3])  # nibabel has 32 bits for some formats
    return z, y, x


def check_spacing(spacing_mm: Vector3) -> None:
    """Refuse a spacing (z, y, x) that is no length.

    Raises:
        CaseError: `bad_spacing`.
    """
    low, high = _SPACING_RANGE_MM
    if not all(low <= side <= high for side in spacing_mm):
        raise CaseError(
            "bad_spacing", f"the spacing is {format_mm(spacing_mm[::-1])}; each side must lie in {low:g} to {high:g} mm"
        )


def axis_lengths(columns: npt.NDArray[np.float64]) -> npt.NDArray[np.float64] | None:
    """Return how long the columns of a matrix (3, 3) are; None where they span no space."""
    with np.errstate(all="ignore"):  # what overflows spans none
        lengths: npt.NDArray[np.float64] = np.linalg.norm(columns, axis=0)
        unit = columns / lengths
    if not np.all(np.isfinite(lengths)) or not np.all(np.isfinite(unit)) or abs(np.linalg.det(unit)) < 1e-3:
        return None
    return lengths


def format_mm(sizes: Iterable[float]) -> str:
    """Return sizes (x, y, z) for a message."""
    return " x ".join(f"{side:g}" for side in sizes) + " mm (x, y, z)"
