"""nnU-Net's resampling, written as one matrix per axis.

Spline interpolation on a regular grid is linear and separable, its prefilter and edge padding included, so resizing a
volume is three matrix products.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from flare_runtime.compute.arrays import FloatArray, Shape3, Vector3
from flare_runtime.compute.device import HOST, Device
from flare_runtime.imaging.volume import slabs
from flare_runtime.model.manifest import Resampling
from flare_runtime.pipeline.interpolation import Band, BandedMatrix, resize_matrix

ANISOTROPY_THRESHOLD = 3.0
# So many slices are read at a time, and so many rows resampled along the remaining axis.
SLAB = 8
ROWS = 16
# A GPU multiplies so many rows of a matrix at a time: of most scans all.
DEVICE_BAND = 1024


def new_shape(shape: Shape3, spacing: Vector3, new_spacing: Vector3) -> Shape3:
    """Return the shape at `new_spacing` by nnU-Net's arithmetic: divide, multiply, round half to even."""
    z, y, x = (round(s / t * n) for s, t, n in zip(spacing, new_spacing, shape, strict=True))
    return z, y, x


def separate_axis(spacing: Vector3, new_spacing: Vector3, force: bool | None = None) -> int | None:
    """Return the axis that nnU-Net resamples apart from the other two, or None for joint 3D resampling.

    That axis is the coarsest one of `spacing` where its anisotropy exceeds 3, else of `new_spacing`; two or three
    equally coarse axes turn it off. `force` overrides the test as nnU-Net's `force_separate_z` does.
    """
    if force is False:
        return None
    for candidate in (spacing,) if force else (spacing, new_spacing):
        if force or max(candidate) / min(candidate) > ANISOTROPY_THRESHOLD:
            coarsest = [axis for axis, side in enumerate(candidate) if max(candidate) / side == 1]
            return coarsest[0] if len(coarsest) == 1 else None
    return None


@dataclass(frozen=True)
class Resizing:
    """How one grid is resized to another.

    Attributes:
        old_shape, new_shape: (z, y, x).
        matrices: one (new, old) matrix per axis.
        separate: the axis whose slices are resized in 2D first and then selected, or None.
    """

    old_shape: Shape3
    new_shape: Shape3
    matrices: tuple[BandedMatrix, BandedMatrix, BandedMatrix]
    separate: int | None

    @classmethod
    def between(
        cls, old_shape: Shape3, new_shape: Shape3, spacing: Vector3, new_spacing: Vector3, rule: Resampling
    ) -> "Resizing":
        """Choose joint or separate resampling by the spacings, all (z, y, x), and build the matrices."""
        separate = separate_axis(spacing, new_spacing, rule.force_separate_z)
        z, y, x = (
            resize_matrix(old, new, rule.order_z if axis == separate else rule.order)
            for axis, (old, new) in enumerate(zip(old_shape, new_shape, strict=True))
        )
        return cls(old_shape, new_shape, (z, y, x), separate)

    @property
    def is_identity(self) -> bool:
        """Whether nothing changes at all."""
        return self.old_shape == self.new_shape

    @property
    def clips(self) -> bool:
        """Whether the spline can overshoot, so that skimage's clipping to the input's range matters."""
        return not self.is_identity and any(matrix.has_negative for matrix in self.matrices)


def resize_image(
    read_slab: Callable[[int, slice], FloatArray], resizing: Resizing, out: FloatArray, device: Device = HOST
) -> None:
    """Resize an image slab by slab into `out` (z, y, x), clipped as skimage clips.

    Args:
        read_slab: given an axis and a range along it, returns that slab as float32 (z, y, x); called once per slab,
            so no float32 copy of the whole input ever exists.
        resizing: how.
        out: float32 of the new shape; may be a view.
        device: where the slabs and `out` are.
    """
    xp = device.xp
    axis = resizing.separate or 0
    slices = resizing.old_shape[axis]
    if resizing.is_identity:
        for part in slabs(slices, SLAB):
            xp.moveaxis(out, axis, 0)[part] = xp.moveaxis(read_slab(axis, part), axis, 0)
        return
    order = (axis, *(other for other in range(3) if other != axis))
    along, rows, columns = (_bands(resizing.matrices[i], device) for i in order)
    _, height, width = (resizing.new_shape[i] for i in order)
    in_plane = xp.empty((slices, height, width), np.float32)
    shorter = xp.empty((SLAB, height, resizing.old_shape[order[2]]), np.float32)
    ranges = []
    for part in slabs(slices, SLAB):
        slab = xp.moveaxis(read_slab(axis, part), axis, 0)
        half = shorter[: len(slab)]
        for band in rows:
            xp.matmul(band.weights, slab[:, band.columns], out=half[:, band.rows])
        for band in columns:
            xp.matmul(half[:, :, band.columns], band.weights.T, out=in_plane[part, :, band.rows])
        if resizing.clips:
            ranges.append(_range(slab, per_slice=resizing.separate is not None))
            if resizing.separate is not None:
                xp.clip(in_plane[part], *ranges[-1], out=in_plane[part])
    del shorter, half
    _resize_along(along, in_plane, xp.moveaxis(out, axis, 0), None if resizing.separate is not None else ranges)


def _bands(matrix: BandedMatrix, device: Device) -> Sequence[Band]:
    """Return the matrix in bands as thick as `device` likes them, the weights being there."""
    if not device.is_gpu:
        return matrix.bands
    parts = (matrix.part(rows) for rows in slabs(matrix.new, DEVICE_BAND))
    return [Band(part.rows, part.columns, device.upload(part.weights)) for part in parts]


def _range(slab: FloatArray, *, per_slice: bool) -> tuple[FloatArray, FloatArray]:
    axes = (1, 2) if per_slice else None
    return slab.min(axis=axes, keepdims=True), slab.max(axis=axes, keepdims=True)


def _resize_along(
    along: Sequence[Band],
    in_plane: FloatArray,
    out: FloatArray,
    ranges: Sequence[tuple[FloatArray, FloatArray]] | None,
) -> None:
    limits = None
    if ranges:
        limits = min(float(low.min()) for low, _ in ranges), max(float(high.max()) for _, high in ranges)
    for part in slabs(in_plane.shape[1], ROWS):
        block = in_plane[:, part]
        flat = block.reshape(len(block), -1)
        for band in along:
            resized = (band.weights @ flat[band.columns]).reshape(len(band.weights), *block.shape[1:])
            if limits is not None:
                resized.clip(*limits, out=resized)
            out[band.rows, part] = resized
