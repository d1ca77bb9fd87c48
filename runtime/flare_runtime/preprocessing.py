"""From an image to what the network sees: transpose, crop, normalise, resample, pad."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flare_runtime import normalisation
from flare_runtime.arrays import Box, FloatArray, Shape3, Vector3
from flare_runtime.crop import nonzero_box
from flare_runtime.errors import CaseError
from flare_runtime.manifest import CTScheme, Manifest, ZScoreScheme
from flare_runtime.resampling import new_shape, plan_resizing, resize_image
from flare_runtime.tiling import inner_box, padded_shape
from flare_runtime.volume import Remark, Volume

MAX_RESAMPLED_VOXELS = 2_000_000_000


@dataclass(frozen=True)
class Prepared:
    """An image on the network's grid, and the way back.

    Attributes:
        image: float32 (channels, z, y, x), at least as large as the patch.
        inner: where the image lies in `image`, the rest being padding.
        crop: where the cropped image lies in the transposed input.
        spacing_mm: of the transposed input, (z, y, x).
        remarks: what was found odd on the way.
    """

    image: FloatArray
    inner: Box
    crop: Box
    spacing_mm: Vector3
    remarks: tuple[Remark, ...]

    @property
    def crop_shape(self) -> Shape3:
        """The number of voxels of the cropped input, (z, y, x)."""
        z, y, x = (side.stop - side.start for side in self.crop)
        return z, y, x

    @property
    def resampled_shape(self) -> Shape3:
        """The number of voxels on the network's grid without padding, (z, y, x)."""
        z, y, x = (side.stop - side.start for side in self.inner)
        return z, y, x


def prepare(channels: Sequence[Volume], manifest: Manifest) -> Prepared | None:
    """Prepare a case given as one volume per channel, all of one grid; None where every voxel is zero.

    Raises:
        CaseError: `wrong_channels`, `channel_mismatch`, `too_large` or `not_rgb`.
    """
    _check_channels(channels, manifest)
    volumes = [volume.transposed(manifest.transpose_forward) for volume in channels]
    crop = nonzero_box(volumes)
    if crop is None:
        return None
    inside = _inside(volumes, crop) if _needs_inside(manifest) else None
    spacing = volumes[0].spacing_mm
    z, y, x = (side.stop - side.start for side in crop)
    shape: Shape3 = (z, y, x)
    target = new_shape(shape, spacing, manifest.spacing_mm)
    if min(target) < 1 or np.prod(target, dtype=np.int64) > MAX_RESAMPLED_VOXELS:
        raise CaseError(
            "too_large" if min(target) else "bad_dimensions", f"the case would be resampled to {target} voxels"
        )
    rule = manifest.image_resampling
    resizing = plan_resizing(
        shape,
        target,
        spacing,
        manifest.spacing_mm,
        order=rule.order,
        order_z=rule.order_z,
        force_separate_z=rule.force_separate_z,
    )
    padded = padded_shape(target, manifest.patch)
    inner = inner_box(target, padded)
    image = np.zeros((len(volumes), *padded), np.float32)
    remarks: list[Remark] = []
    for index, (volume, channel) in enumerate(zip(volumes, manifest.channels, strict=True)):
        cropped = Volume(volume.voxels[crop], spacing, volume.slope, volume.intercept)
        normalise = normalisation.fit(channel.normalisation, cropped, inside)
        reader = _SlabReader(cropped, normalise)
        resize_image(reader, resizing, image[index][inner])
        if isinstance(channel.normalisation, CTScheme) and reader.lowest >= 0:
            remarks.append(
                Remark("not_hounsfield", f"no intensity of {channel.name} is below 0; is it in Hounsfield units?")
            )
    return Prepared(image, inner, crop, spacing, tuple(remarks))


class _SlabReader:
    """Reads normalised slabs of a volume, and keeps the lowest raw intensity on the way."""

    def __init__(self, volume: Volume, normalise: normalisation.Normaliser) -> None:
        self._volume = volume
        self._normalise = normalise
        self.lowest = np.inf

    def __call__(self, axis: int, part: slice) -> FloatArray:
        sides = [slice(0, n) for n in self._volume.shape]
        sides[axis] = part
        where: Box = (sides[0], sides[1], sides[2])
        slab = self._volume.intensities(self._volume.voxels[where])
        self.lowest = min(self.lowest, float(slab.min()))
        self._normalise(slab, where)
        return slab


def _check_channels(channels: Sequence[Volume], manifest: Manifest) -> None:
    if len(channels) != len(manifest.channels):
        names = ", ".join(channel.name for channel in manifest.channels)
        raise CaseError(
            "wrong_channels", f"{len(channels)} image(s) given; this model takes {len(manifest.channels)}: {names}"
        )
    first = channels[0]
    for other in channels[1:]:
        if other.shape != first.shape or not np.allclose(other.spacing_mm, first.spacing_mm, rtol=1e-3):
            raise CaseError(
                "channel_mismatch", f"the channels' grids differ: {first.shape} and {other.shape}; resample them"
            )


def _needs_inside(manifest: Manifest) -> bool:
    schemes = [channel.normalisation for channel in manifest.channels]
    return any(isinstance(scheme, ZScoreScheme) and scheme.masked for scheme in schemes)


def _inside(volumes: Sequence[Volume], crop: Box) -> normalisation.BoolArray:
    """Return nnU-Net's non-zero mask within the crop: non-zero in any channel, holes filled."""
    from scipy.ndimage import binary_fill_holes

    nonzero = np.any([volume.intensities(volume.voxels[crop]) != 0 for volume in volumes], axis=0)
    return np.asarray(binary_fill_holes(nonzero))
