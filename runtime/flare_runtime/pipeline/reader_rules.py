"""Images as the reader gave them to nnU-Net in training: which way they are turned, and what NaN counts as."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from flare_runtime.errors import CaseError
from flare_runtime.imaging.checks import check_volume
from flare_runtime.imaging.geometry import Geometry
from flare_runtime.imaging.orientation import Turn, orientation_of
from flare_runtime.imaging.plausibility import MAX_SHEAR_DEGREES, Plausibility
from flare_runtime.imaging.read import read_volume
from flare_runtime.imaging.volume import Grid, Remark, Volume, slabs
from flare_runtime.model.manifest import CTScheme, Manifest

# Where nobody says how a model's scans were stored, these are no news: the axes in their usual order, the feet first.
_COMMON = ("LPS", "RAS", "LAS", "RPS")
_SLAB = 8


@dataclass(frozen=True)
class ReaderRules:
    """What is done to images of a model as they are read, equal to nnU-Net's reader of that name.

    Attributes:
        manifest: the model, which names the reader.
        reorient: where the axes x, y, z of every image are to point, whatever the reader does.
        plausible: the grids that are taken.
    """

    manifest: Manifest
    reorient: str | None
    plausible: Plausibility

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        *,
        reorient: str | None = None,
        any_spacing: bool = False,
        max_shear: float = MAX_SHEAR_DEGREES,
    ) -> "ReaderRules":
        """Return the rules of a model, with what a person wants otherwise."""
        by_nibabel = manifest.reader.startswith("Nibabel")
        plausible = Plausibility.around(manifest.spacing_mm, max_shear, in_file_units=by_nibabel)
        return cls(manifest, reorient, replace(plausible, spacing_mm=None) if any_spacing else plausible)

    def turn(self, geometry: Geometry) -> Turn:
        """Return how an image is turned before it is prepared; its mask is turned back."""
        wanted, affine = self._wanted, geometry.affine
        if wanted is None or affine is None:
            return Turn()
        unknown = "LAS" if self._by_nibabel else "LPS"  # what these libraries take an image for that does not say it
        return Turn.between(orientation_of(affine) if geometry.oriented else unknown, wanted)

    def grid(self, grid: Grid) -> Grid:
        """Return the grid of an image as the model's reader gives it."""
        if grid.geometry is None:
            return grid
        read = self._read(grid.geometry)
        return Grid(read.shape, read.spacing_mm, grid.itemsize, read)

    def read(self, files: Sequence[Path]) -> list[Volume]:
        """Read a case, one file for each channel, as the model's reader does.

        Raises:
            CaseError: as `read_volume` and `volumes` do.
        """
        return self.volumes([read_volume(path, plausible=self.plausible) for path in files])

    def volumes(self, channels: Sequence[Volume]) -> list[Volume]:
        """Return images, one for each channel, as the model's reader gives them, with remarks; views, not copies.

        Raises:
            CaseError: `nonfinite`, `bad_spacing`, `sheared` or as `check_volume` does.
        """
        if len(channels) != len(self.manifest.channels):
            return list(channels)  # which `prepare` refuses
        cts = [isinstance(channel.normalisation, CTScheme) for channel in self.manifest.channels]
        return [self._volume(volume, is_ct=is_ct) for volume, is_ct in zip(channels, cts, strict=True)]

    @property
    def _by_nibabel(self) -> bool:
        return self.manifest.reader.startswith("Nibabel")

    @property
    def _wanted(self) -> str | None:
        return self.reorient or ("RAS" if self.manifest.reader.endswith("WithReorient") else None)

    def _volume(self, volume: Volume, *, is_ct: bool) -> Volume:
        if volume.nonfinite is None:
            volume = check_volume(volume, self.plausible)
        remarks = [*volume.remarks, *self._orientation_remarks(volume.geometry)]
        turned = replace(volume.turned(self.turn(volume.geometry)), geometry=self._read(volume.geometry))
        if not volume.nonfinite:
            return replace(turned, remarks=tuple(remarks))
        share = f"{volume.nonfinite} of {volume.voxels.size} voxels ({volume.nonfinite / volume.voxels.size:.2%})"
        if not self._by_nibabel:
            # The NIfTI library of SimpleITK stores 0 in their place, before it applies slope and intercept.
            text = f"{share} are NaN or infinite and count as {volume.intercept:g}, as nnU-Net reads NIfTI"
            turned = turned.with_background(volume.intercept)
        elif not is_ct or _has_nan(volume):
            text = f"{share} are NaN or infinite, which {self.manifest.reader} keeps and no network can compute with"
            raise CaseError("nonfinite", f"{text}; replace them, such as by air")
        else:
            text = f"{share} are infinite and were clipped to the range of the model, as nnU-Net does"
            turned = replace(turned, nonfinite=0)
        return replace(turned, remarks=(*remarks, Remark("nonfinite", text)))

    def _read(self, geometry: Geometry) -> Geometry:
        """Return the grid of an image that is turned, with the spacing that nnU-Net's reader takes it to have."""
        turn = self.turn(geometry)
        read = geometry.turned(turn)
        if not self._by_nibabel or read.affine is None:
            return read
        affine = read.affine.copy()
        affine[:3] /= read.unit_mm  # nibabel gives lengths as the file has them
        z, y, x = (side / read.unit_mm for side in read.spacing_mm)
        if turn != Turn() and self.reorient is None:
            # It makes the header of an image that it turns from the affine.
            x, y, z = np.linalg.norm(affine[:3, :3], axis=0).astype(np.float32).tolist()
        return replace(read, affine=affine, spacing_mm=(z, y, x))

    def _orientation_remarks(self, geometry: Geometry) -> list[Remark]:
        stored, trained = geometry.orientation, self.manifest.training_orientation
        if self._wanted is not None:
            if geometry.affine is not None:
                return []
            text = f"the image does not say where its axes point; they were taken for {self._wanted}"
            return [Remark("no_orientation", text)]
        if stored is None or stored in ((trained,) if trained else _COMMON):
            return []
        expected = f"the model's scans as {trained}" if trained else "scans usually are as LPS or RAS"
        text = (
            f"the scan is stored as {stored}, {expected}; nnU-Net takes axes as they are stored, and so did this run; "
            f"--reorient {trained or 'CODE'} turns the scan, and its mask back"
        )
        return [Remark("orientation", text)]


def _has_nan(volume: Volume) -> bool:
    return any(bool(np.isnan(volume.voxels[part]).any()) for part in slabs(len(volume.voxels), _SLAB))
