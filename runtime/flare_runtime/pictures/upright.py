"""An image and its mask turned so that the patient stands upright and faces the reader, in shades of grey."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from flare_runtime.compute.arrays import AnyArray, MaskArray, Vector3
from flare_runtime.imaging.orientation import Turn, orientation_of
from flare_runtime.imaging.volume import Volume

# Soft tissue, in Hounsfield units; and of other images, the shares of voxels that are shown black and white.
_WINDOW_HU, _SHARES = (-160.0, 240.0), (1.0, 99.0)
_SAMPLES = 200_000


@dataclass(frozen=True)
class Upright:
    """An image (z, y, x) and its mask; turned, x grows to the patient's left, y to the back and z to the head.

    Attributes:
        image: as it is stored.
        mask: on its grid.
        is_ct: whether intensities are Hounsfield units.
    """

    image: Volume
    mask: MaskArray
    is_ct: bool

    @property
    def sides_known(self) -> bool:
        """Whether the image says how the patient lies; where it does not, all sides are guesses."""
        return self.image.geometry.orientation is not None

    @cached_property
    def turn(self) -> Turn:
        """How arrays are turned."""
        affine = self.image.geometry.affine
        known = affine is not None and self.sides_known
        return Turn.between(orientation_of(affine), "LPS") if affine is not None and known else Turn()

    @cached_property
    def labels(self) -> MaskArray:
        """The mask, turned."""
        return self.turn.view(self.mask)

    @cached_property
    def spacing_mm(self) -> Vector3:
        """Of turned arrays, (z, y, x)."""
        return self.image.geometry.turned(self.turn).spacing_mm

    @cached_property
    def window(self) -> tuple[float, float]:
        """The intensities that are shown black and white."""
        if self.is_ct:
            return _WINDOW_HU
        step = max(1, round((self.image.voxels.size / _SAMPLES) ** (1 / 3)))
        values = self.image.intensities(self.image.voxels[::step, ::step, ::step])
        values = values[np.isfinite(values)]
        low, high = np.percentile(values, _SHARES).tolist() if len(values) else (0.0, 1.0)
        return low, max(high, low + 1e-6)

    def voxel(self, stored: Vector3) -> tuple[int, int, int]:
        """Return where the voxel nearest to an index (z, y, x) of stored arrays is in turned ones."""
        places = []
        for axis, flipped in zip(self.turn.axes, self.turn.flipped, strict=True):
            last = self.image.shape[axis] - 1
            index = min(max(round(stored[axis]), 0), last)
            places.append(last - index if flipped else index)
        z, y, x = places
        return z, y, x

    def stored_index(self, axis: int, turned: int) -> int:
        """Return the index of a turned plane along the axis of the stored array that it is of."""
        last = self.image.shape[self.turn.axes[axis]] - 1
        return last - turned if self.turn.flipped[axis] else turned

    def grey(self, axis: int, index: int) -> npt.NDArray[np.uint8]:
        """Return a turned plane in shades of grey, its upper side the front or the head."""
        plane: AnyArray = self.image.intensities(np.take(self.turn.view(self.image.voxels), index, axis=axis))
        low, high = self.window
        shades = np.clip((np.nan_to_num(plane, nan=low, posinf=high, neginf=low) - low) / (high - low), 0, 1)
        return _upper_side_first((shades * 255).astype(np.uint8), axis)

    def plane_labels(self, axis: int, index: int) -> MaskArray:
        """Return the mask in a turned plane, as `grey` lies."""
        return _upper_side_first(np.take(self.labels, index, axis=axis), axis)

    def size(self, axis: int, longest: int) -> tuple[int, int]:
        """Return the rows and columns of a picture of a plane to scale, neither more than `longest`."""
        sides = [
            count * mm
            for side, (count, mm) in enumerate(zip(self.labels.shape, self.spacing_mm, strict=True))
            if side != axis
        ]
        rows, columns = (max(1, round(side * longest / max(sides))) for side in sides)
        return rows, columns


def _upper_side_first(plane: AnyArray, axis: int) -> AnyArray:
    return plane if axis == 0 else plane[::-1]


def scaled(plane: AnyArray, size: tuple[int, int]) -> AnyArray:
    """Return a plane with so many rows and columns, each pixel that of the nearest voxel."""
    rows, columns = (((np.arange(n) + 0.5) * m / n).astype(int) for n, m in zip(size, plane.shape, strict=True))
    picture: AnyArray = plane[rows[:, None], columns]
    return picture


def outlines(labels: MaskArray) -> npt.NDArray[np.bool_]:
    """Return which pixels of labels (rows, columns) are at the border of their label, within it."""
    padded = np.pad(labels, 1)
    inner = padded[1:-1, 1:-1]
    beside = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    border: npt.NDArray[np.bool_] = (inner > 0) & np.any([side != inner for side in beside], axis=0)
    return border
