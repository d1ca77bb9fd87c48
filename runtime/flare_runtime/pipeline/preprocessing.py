"""From an image to what the network sees: transpose, crop, normalise, resample, pad."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from flare_runtime.compute.arrays import FloatArray, MaskArray, Shape3, Vector3
from flare_runtime.compute.box import Box
from flare_runtime.compute.device import HOST, Device
from flare_runtime.errors import CaseError
from flare_runtime.imaging.geometry import Geometry
from flare_runtime.imaging.volume import Remark, Volume
from flare_runtime.model.manifest import CTScheme, Manifest, ZScoreScheme
from flare_runtime.pipeline import normalisation
from flare_runtime.pipeline.body import body_box
from flare_runtime.pipeline.crop import mask_box, nonzero_box
from flare_runtime.pipeline.gpu_memory import CaseSize, Placement
from flare_runtime.pipeline.hounsfield import check_hounsfield
from flare_runtime.pipeline.previous_mask import resized_labels
from flare_runtime.pipeline.resampling import Resizing, new_shape, resize_image
from flare_runtime.pipeline.tiling import padded_shape

MAX_RESAMPLED_VOXELS = 2_000_000_000


@dataclass(frozen=True)
class Prepared:
    """An image on the network's grid, and the way back.

    Attributes:
        image: float32 (channels, z, y, x), at least as large as the patch; on the device or the host, by `placement`.
        inner: where the image lies in `image`, the rest being padding.
        crop: where the cropped image lies in the input as read and transposed.
        spacing_mm: of the input as read and transposed, (z, y, x).
        remarks: what was found odd on the way.
        region: of `image` that the network is to see.
        placement: which arrays are on the device; None on the host, where everything is.
        geometry: of the cropped image, its axes in the network's order.
    """

    image: FloatArray
    inner: Box
    crop: Box
    spacing_mm: Vector3
    remarks: tuple[Remark, ...]
    region: Box
    placement: Placement | None
    geometry: Geometry


def prepare(
    channels: Sequence[Volume],
    manifest: Manifest,
    device: Device = HOST,
    place: Callable[[CaseSize], Placement | None] = lambda _size: None,
    *,
    previous_mask: MaskArray | None = None,
    body_only: bool = False,
    any_intensity: bool = False,
) -> Prepared | None:
    """Prepare a case given as one volume per channel, all of one grid; None where every voxel is zero.

    Args:
        channels: in the model's order, on the host, as `ReaderRules.volumes` gives them.
        manifest: the model.
        device: where the image is computed and the network runs.
        place: decides which arrays are on the device, needed unless that is the host; may refuse the case.
        previous_mask: of a cascade's previous stage, (z, y, x) on the volumes' grid.
        body_only: the network is to see the patient alone, for models whose first channel is a CT.
        any_intensity: remark upon a CT that is not in Hounsfield units instead of refusing it.

    Raises:
        CaseError: `wrong_channels`, `channel_mismatch`, `too_large`, `not_hounsfield`, `not_rgb`, or as `place` does.
    """
    _check_channels(channels, manifest)
    if manifest.previous_stage and previous_mask is None:
        raise ValueError("a cascade's network takes the mask of its previous stage beside the image")
    volumes = [volume.transposed(manifest.transpose_forward) for volume in channels]
    crop = nonzero_box(volumes)
    if crop is None:
        return None
    labels = None if previous_mask is None else previous_mask.transpose(manifest.transpose_forward)[crop]
    inside = _inside(volumes, crop, labels) if _needs_inside(manifest, volumes, crop, labels) else None
    spacing = volumes[0].spacing_mm
    resizing = _image_resizing(crop.shape, spacing, manifest)
    padded = padded_shape(resizing.new_shape, manifest.patch)
    inner = Box.centred(resizing.new_shape, padded)
    placement = place(CaseSize.of([volume.grid for volume in volumes], crop.shape, manifest))
    if placement is not None and not placement.image_on_device:
        device = HOST
    remarks = _check_intensities(volumes, manifest, any_intensity=any_intensity)
    image = device.xp.zeros((manifest.inputs, *padded), np.float32)
    for index, (volume, channel) in enumerate(zip(volumes, manifest.channels, strict=True)):
        cropped = volume.cropped(crop)
        normalise = normalisation.fit(channel.normalisation, cropped, inside, device)
        reader = _SlabReader(cropped, normalise, device, at_once=placement is not None and placement.raw_on_device)
        resize_image(reader, resizing, image[index][inner], device)
        del reader  # and with it the scan on the device, before the next one goes there
    if labels is not None:
        _write_labels(labels, inside, spacing, manifest, inner.cut(image[len(volumes) :]), device)
    body = _body_region(volumes[0].with_background(normalisation.AIR_HU), crop, inner) if body_only else None
    region = body.grown_to(manifest.patch, padded) if body else Box.whole(padded)
    return Prepared(image, inner, crop, spacing, remarks, region, placement, volumes[0].cropped(crop).geometry)


def _check_intensities(volumes: Sequence[Volume], manifest: Manifest, *, any_intensity: bool) -> tuple[Remark, ...]:
    remarks: list[Remark] = []
    for volume, channel in zip(volumes, manifest.channels, strict=True):
        if isinstance(channel.normalisation, CTScheme):
            remarks += check_hounsfield(volume, channel.name, any_intensity=any_intensity)
    return tuple(remarks)


def _image_resizing(shape: Shape3, spacing: Vector3, manifest: Manifest) -> Resizing:
    new_spacing = manifest.grid_spacing_mm(spacing)
    target = new_shape(shape, spacing, new_spacing)
    if min(target) < 1 or np.prod(target, dtype=np.int64) > MAX_RESAMPLED_VOXELS:
        raise CaseError(
            "too_large" if min(target) else "bad_dimensions", f"the case would be resampled to {target} voxels"
        )
    return Resizing.between(shape, target, spacing, new_spacing, manifest.image_resampling)


def _body_region(volume: Volume, crop: Box, inner: Box) -> Box | None:
    """Return where the body lies in the padded image, in which the cropped one fills `inner`; None without a body."""
    body = body_box(volume)
    if body is None:
        return None
    cropped = body.shifted(-start for start in crop.start).clipped(crop.shape)
    ratio = np.divide(inner.shape, crop.shape)
    resampled = Box.between(np.floor(np.multiply(cropped.start, ratio)), np.ceil(np.multiply(cropped.stop, ratio)))
    return resampled.clipped(inner.shape).shifted(inner.start)


class _SlabReader:
    """Reads normalised slabs of a volume to a device."""

    def __init__(self, volume: Volume, normalise: normalisation.Normaliser, device: Device, *, at_once: bool) -> None:
        self._volume = volume
        self._normalise = normalise
        self._device = device
        self._uploaded = device.upload(volume.voxels) if at_once else None

    def __call__(self, axis: int, part: slice) -> FloatArray:
        where = Box.whole(self._volume.shape).with_side(axis, part)
        uploaded = self._uploaded
        raw = self._device.upload(self._volume.voxels[where]) if uploaded is None else uploaded[where]
        slab = self._volume.intensities(raw)
        self._normalise(slab, where)
        return slab


def _check_channels(channels: Sequence[Volume], manifest: Manifest) -> None:
    if len(channels) != len(manifest.channels):
        names = ", ".join(channel.name for channel in manifest.channels)
        raise CaseError(
            "wrong_channels", f"{len(channels)} image(s) given; this model takes {len(manifest.channels)}: {names}"
        )
    first = manifest.channels[0].name
    for volume, channel in zip(channels, manifest.channels, strict=True):
        if difference := channels[0].geometry.difference(volume.geometry):
            text = f"the image of {channel.name} {difference}, against that of {first}; resample it to one grid"
            raise CaseError("channel_mismatch", text)


def _needs_inside(manifest: Manifest, volumes: Sequence[Volume], crop: Box, labels: MaskArray | None) -> bool:
    """Whether anything depends on which voxels are outside of the body: a mask does where they may touch a label."""
    schemes = [channel.normalisation for channel in manifest.channels]
    if any(isinstance(scheme, ZScoreScheme) and scheme.masked for scheme in schemes):
        return True
    box = None if labels is None else mask_box(labels)
    if labels is None or box is None:
        return False
    reached = box.grown((1, 1, 1)).clipped(crop.shape)
    return not bool((_nonzero(volumes, reached.shifted(crop.start)) | (labels[reached] > 0)).all())


def _nonzero(volumes: Sequence[Volume], box: Box) -> normalisation.BoolArray:
    return np.asarray(np.any([volume.intensities(volume.voxels[box]) != 0 for volume in volumes], axis=0))


def _inside(volumes: Sequence[Volume], crop: Box, labels: MaskArray | None) -> normalisation.BoolArray:
    """Return nnU-Net's non-zero mask within the crop: non-zero in any channel, holes filled; or with a label."""
    from scipy.ndimage import binary_fill_holes

    inside = np.asarray(binary_fill_holes(_nonzero(volumes, crop)))
    return inside if labels is None else inside | (labels > 0)


def _write_labels(
    labels: MaskArray,
    inside: normalisation.BoolArray | None,
    spacing: Vector3,
    manifest: Manifest,
    out: FloatArray,
    device: Device,
) -> None:
    """Write a previous stage's labels on the network's grid into the channels of `out`, each 1 where its label is."""
    assert manifest.previous_stage is not None
    z, y, x = out.shape[1:]
    new_spacing, rule = manifest.grid_spacing_mm(spacing), manifest.previous_stage.mask_resampling
    resized = resized_labels(labels, inside, (z, y, x), spacing, new_spacing, rule)
    for channel, value in zip(out, manifest.label_values, strict=True):
        channel[...] = device.upload(resized == value)
