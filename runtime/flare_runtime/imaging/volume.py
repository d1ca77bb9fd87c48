"""One image in memory: voxels as stored, and the grid that they are on."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from flare_runtime.compute.arrays import AnyArray, FloatArray, Shape3, Vector3
from flare_runtime.compute.box import Box
from flare_runtime.errors import UsageError
from flare_runtime.imaging.geometry import Geometry
from flare_runtime.imaging.labelling import Labelling
from flare_runtime.imaging.orientation import Turn

ALL_SLICES = slice(None)


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
        geometry: the same with the places of the voxels, where the reader knows them.
    """

    shape: Shape3
    spacing_mm: Vector3
    itemsize: int
    geometry: Geometry | None = field(default=None, compare=False)

    def transposed(self, axes: tuple[int, int, int]) -> "Grid":
        """Return the grid with its axes in another order, as `Volume.transposed` does."""
        a, b, c = axes
        shape, spacing = self.shape, self.spacing_mm
        geometry = self.geometry and self.geometry.transposed(axes)
        return Grid((shape[a], shape[b], shape[c]), (spacing[a], spacing[b], spacing[c]), self.itemsize, geometry)


@dataclass(frozen=True)
class Template:
    """What a file of a mask holds beside the voxels.

    Attributes:
        geometry: the image's grid.
        source: of the image; see `Volume`.
        labelling: what the values mean; None where nobody has said it.
    """

    geometry: Geometry
    source: object = None
    labelling: Labelling | None = None


@dataclass(frozen=True)
class Volume:
    """A 3D image, kept in the type it was stored in so that a 16-bit CT costs two bytes a voxel.

    Attributes:
        voxels: (z, y, x), any real type, native byte order.
        geometry: the grid that the voxels are on.
        slope, intercept: intensity = slope * voxel + intercept; Hounsfield units for CT.
        source: what a mask in the image's own file format copies, such as a NIfTI header; only that format's reader
            and writer know what it is. None for an image that came from no file.
        remarks: what the reader found odd.
        nonfinite: how many voxels are NaN or infinite, or would be in float32; None where nobody has counted.
        background: the intensity that those voxels count as; NaN until somebody who knows the model says it.
        modality: as DICOM calls it, such as CT or MR; None where the image does not say.

    Raises:
        UsageError: where the voxels are not those of the grid.
    """

    voxels: AnyArray
    geometry: Geometry
    slope: float = 1.0
    intercept: float = 0.0
    source: object = None
    remarks: tuple[Remark, ...] = field(default=())
    nonfinite: int | None = None
    background: float = float("nan")
    modality: str | None = None

    def __post_init__(self) -> None:
        if self.voxels.shape != self.geometry.shape:
            raise UsageError(f"the voxels measure {self.voxels.shape} (z, y, x), their grid {self.geometry.shape}")

    @classmethod
    def of_array(cls, voxels: AnyArray, spacing_mm: Vector3, slope: float = 1.0, intercept: float = 0.0) -> "Volume":
        """Return an array (z, y, x) as a volume whose place is unknown."""
        z, y, x = voxels.shape
        return cls(voxels, Geometry(None, spacing_mm, (z, y, x)), slope, intercept)

    @property
    def shape(self) -> Shape3:
        """The number of voxels, (z, y, x)."""
        return self.geometry.shape

    @property
    def spacing_mm(self) -> Vector3:
        """The distance of neighbouring voxels, (z, y, x)."""
        return self.geometry.spacing_mm

    @property
    def grid(self) -> Grid:
        """What is known of the volume without its voxels."""
        return Grid(self.shape, self.spacing_mm, self.voxels.itemsize, self.geometry)

    @property
    def template(self) -> Template:
        """What a mask of this image needs of it."""
        return Template(self.geometry, self.source)

    def intensities(self, part: AnyArray) -> FloatArray:
        """Return `part`, a piece of `voxels`, as float32 intensities in new memory."""
        with np.errstate(over="ignore", invalid="ignore"):  # of voxels that were counted as infinite
            if self.slope == 1.0 and self.intercept == 0.0:
                values = part.astype(np.float32)
            else:
                values = (part * np.float64(self.slope) + self.intercept).astype(np.float32)
        if self.nonfinite:
            fill = self.background
            np.nan_to_num(values, copy=False, nan=fill, posinf=fill, neginf=fill)
        return values

    def with_background(self, intensity: float) -> "Volume":
        """Return the volume with its voxels that are NaN or infinite counting as `intensity`."""
        return replace(self, background=intensity)

    def transposed(self, axes: tuple[int, int, int]) -> "Volume":
        """Return a view with its axes in another order: axis i of the result is axis `axes[i]` of this one."""
        return replace(self, voxels=self.voxels.transpose(axes), geometry=self.geometry.transposed(axes))

    def turned(self, turn: Turn) -> "Volume":
        """Return a view with its axes turned, as `Turn.view` does."""
        return replace(self, voxels=turn.view(self.voxels), geometry=self.geometry.turned(turn))

    def cropped(self, box: Box) -> "Volume":
        """Return a view of the voxels in a box (z, y, x)."""
        return replace(self, voxels=self.voxels[box], geometry=self.geometry.cropped(box))


def slabs(length: int, thickness: int) -> Iterator[slice]:
    """Cut `length` slices into consecutive slabs of at most `thickness`."""
    for start in range(0, length, thickness):
        yield slice(start, min(start + thickness, length))
