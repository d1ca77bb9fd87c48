"""One image in memory: voxels as stored, their spacing, and the header they came with."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flare_runtime.compute.arrays import AnyArray, FloatArray, Shape3, Vector3


@dataclass(frozen=True)
class Remark:
    """Something worth knowing about an input that does not stop it: a stable code and one sentence."""

    code: str
    text: str


@dataclass(frozen=True)
class Grid:
    """What a header says of an image before its voxels are read.

    Attributes:
        shape: number of voxels, (z, y, x).
        spacing_mm: (z, y, x).
        itemsize: bytes of a voxel.
    """

    shape: Shape3
    spacing_mm: Vector3
    itemsize: int

    def transposed(self, axes: tuple[int, int, int]) -> "Grid":
        """Return the grid with its axes in another order, as `Volume.transposed` does."""
        a, b, c = axes
        shape, spacing = self.shape, self.spacing_mm
        return Grid((shape[a], shape[b], shape[c]), (spacing[a], spacing[b], spacing[c]), self.itemsize)


@dataclass(frozen=True)
class Volume:
    """A 3D image, kept in the type it was stored in so that a 16-bit CT costs two bytes a voxel.

    Attributes:
        voxels: (z, y, x), any real type, native byte order.
        spacing_mm: (z, y, x).
        slope, intercept: intensity = slope * voxel + intercept; Hounsfield units for CT.
        header: the NIfTI header the mask is to be written with, or None for an array.
        remarks: what the reader found odd.
    """

    voxels: AnyArray
    spacing_mm: Vector3
    slope: float = 1.0
    intercept: float = 0.0
    header: Any = None
    remarks: tuple[Remark, ...] = field(default=())

    @property
    def shape(self) -> Shape3:
        """The number of voxels, (z, y, x)."""
        z, y, x = self.voxels.shape
        return z, y, x

    @property
    def grid(self) -> Grid:
        """The grid that the voxels are on."""
        return Grid(self.shape, self.spacing_mm, self.voxels.itemsize)

    def intensities(self, part: AnyArray) -> FloatArray:
        """Return `part`, a piece of `voxels`, as float32 intensities in new memory."""
        if self.slope == 1.0 and self.intercept == 0.0:
            return part.astype(np.float32)
        return (part * np.float64(self.slope) + self.intercept).astype(np.float32)

    def transposed(self, axes: tuple[int, int, int]) -> "Volume":
        """Return a view with its axes in another order: axis i of the result is axis `axes[i]` of this one."""
        a, b, c = axes
        spacing = (self.spacing_mm[a], self.spacing_mm[b], self.spacing_mm[c])
        return Volume(self.voxels.transpose(axes), spacing, self.slope, self.intercept, self.header, self.remarks)


def slabs(length: int, thickness: int) -> Iterator[slice]:
    """Cut `length` slices into consecutive slabs of at most `thickness`."""
    for start in range(0, length, thickness):
        yield slice(start, min(start + thickness, length))
