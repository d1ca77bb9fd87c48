"""nnU-Net's resampling, written as one matrix per axis.

Spline interpolation on a regular grid is linear and separable, its prefilter and edge padding included, so resizing a
volume is three matrix products. The matrices are those of `skimage.transform.resize(mode="edge", anti_aliasing=False)`,
of `scipy.ndimage.zoom(grid_mode=True, mode="nearest")` and of `map_coordinates` at the same centres.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from flare_runtime.arrays import FloatArray, Shape3, Vector3
from flare_runtime.device import HOST, Device
from flare_runtime.volume import slabs

FloatArray64: TypeAlias = npt.NDArray[np.float64]
IntArray: TypeAlias = npt.NDArray[np.intp]
Band: TypeAlias = tuple[slice, slice, FloatArray]

ANISOTROPY_THRESHOLD = 3.0
# As many edge voxels SciPy repeats before its prefilter.
_EDGE = 12
_NEGLIGIBLE = 1e-9
# So many slices are read at a time, and so many rows resampled along the remaining axis.
SLAB = 8
ROWS = 16
# So many rows of a matrix are multiplied at a time on the host, by the columns that they need.
_BAND = 64


@lru_cache(maxsize=32)
def resize_matrix(old: int, new: int, order: int) -> FloatArray:
    """Return the (new, old) float32 matrix that interpolates at the new voxels' centres with a spline and edge padding.

    Args:
        old: number of voxels given.
        new: number of voxels wanted.
        order: of the spline; 0 selects the nearest voxel, 1 is linear, 3 cubic.
    """
    if old == new:
        exact = np.eye(old)
    elif order in _SPLINES:
        exact = _SPLINES[order](old, np.asarray(old / new * (np.arange(new) + 0.5) - 0.5, np.float64))
    else:
        from scipy.ndimage import zoom

        exact = zoom(np.eye(old), (new / old, 1.0), order=order, mode="nearest", grid_mode=True)
    # A spline's weights fall off without end. Beside the sum of the others these change no digit of float32, and the
    # least of them are numbers that Intel's CPUs multiply twenty times slower.
    exact[np.abs(exact) < _NEGLIGIBLE] = 0
    matrix: FloatArray = np.ascontiguousarray(exact, dtype=np.float32)
    matrix.setflags(write=False)
    return matrix


def _nearest(old: int, centres: FloatArray64) -> FloatArray64:
    return _rows(old, np.floor(centres + 0.5).astype(int), np.ones((len(centres), 1)))


def _linear(old: int, centres: FloatArray64) -> FloatArray64:
    below = np.floor(centres).astype(int)
    share = centres - below
    return _rows(old, below, np.stack([1 - share, share], axis=1))


def _cubic(old: int, centres: FloatArray64) -> FloatArray64:
    """Solve for the B-spline coefficients of edge-padded unit impulses, and sum four of them for each centre."""
    size = old + 2 * _EDGE
    padded = _rows(old, np.arange(size) - _EDGE, np.ones((size, 1)))
    at_voxels = (4 * np.eye(size) + np.eye(size, k=1) + np.eye(size, k=-1)) / 6
    at_voxels[0, 0] = at_voxels[-1, -1] = 5 / 6  # the coefficients are mirrored about the outermost voxels' edges
    coefficients = np.linalg.solve(at_voxels, padded)
    below = np.floor(centres).astype(int)
    t = centres - below
    weights = np.stack([(1 - t) ** 3, 4 - 6 * t**2 + 3 * t**3, 1 + 3 * t + 3 * t**2 - 3 * t**3, t**3], axis=1) / 6
    return _rows(size, below + _EDGE - 1, weights) @ coefficients


def _rows(old: int, first: IntArray, weights: FloatArray64) -> FloatArray64:
    """Return a matrix whose row i has `weights[i]` from column `first[i]` on; beyond an edge counts at it."""
    count, taps = weights.shape
    matrix = np.zeros((count, old))
    columns = np.clip(first[:, None] + np.arange(taps), 0, old - 1)
    np.add.at(matrix, (np.arange(count)[:, None], columns), weights)
    return matrix


_SPLINES = {0: _nearest, 1: _linear, 3: _cubic}


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
        matrices: one (new, old) float32 matrix per axis.
        separate: the axis whose slices are resized in 2D first and then selected, or None.
    """

    old_shape: Shape3
    new_shape: Shape3
    matrices: tuple[FloatArray, FloatArray, FloatArray]
    separate: int | None

    @property
    def is_identity(self) -> bool:
        """Whether nothing changes at all."""
        return self.old_shape == self.new_shape

    @property
    def clips(self) -> bool:
        """Whether the spline can overshoot, so that skimage's clipping to the input's range matters."""
        return not self.is_identity and any(bool((matrix < 0).any()) for matrix in self.matrices)


def plan_resizing(
    old_shape: Shape3,
    target_shape: Shape3,
    spacing: Vector3,
    new_spacing: Vector3,
    *,
    order: int,
    order_z: int = 0,
    force_separate_z: bool | None = None,
) -> Resizing:
    """Choose joint or separate resampling by the spacings, all (z, y, x), and build the matrices."""
    separate = separate_axis(spacing, new_spacing, force_separate_z)
    z, y, x = (
        resize_matrix(old, new, order_z if axis == separate else order)
        for axis, (old, new) in enumerate(zip(old_shape, target_shape, strict=True))
    )
    return Resizing(old_shape, target_shape, (z, y, x), separate)


def resize_image(
    read_slab: Callable[[int, slice], FloatArray], resizing: Resizing, out: FloatArray, device: Device = HOST
) -> None:
    """Resize an image slab by slab into `out` (z, y, x), clipped as skimage clips.

    Args:
        read_slab: given an axis and a range along it, returns that slab as float32 (z, y, x); called once per slab,
            so no float32 copy of the whole input ever exists.
        resizing: from `plan_resizing`.
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
        for to, needed, weights in rows:
            xp.matmul(weights, slab[:, needed], out=half[:, to])
        for to, needed, weights in columns:
            xp.matmul(half[:, :, needed], weights.T, out=in_plane[part, :, to])
        if resizing.clips:
            ranges.append(_range(slab, per_slice=resizing.separate is not None))
            if resizing.separate is not None:
                xp.clip(in_plane[part], *ranges[-1], out=in_plane[part])
    del shorter, half
    _resize_along(along, in_plane, xp.moveaxis(out, axis, 0), None if resizing.separate is not None else ranges)


def _bands(matrix: FloatArray, device: Device) -> list[Band]:
    """Return groups of rows, the columns that hold what is not 0 of them, and that part of the matrix, on `device`."""
    if device is not HOST:
        return [(slice(0, len(matrix)), slice(0, matrix.shape[1]), device.upload(matrix))]
    bands = []
    for rows in slabs(len(matrix), _BAND):
        used = np.flatnonzero(matrix[rows].any(axis=0))
        columns = slice(int(used[0]), int(used[-1]) + 1)
        bands.append((rows, columns, np.ascontiguousarray(matrix[rows, columns])))
    return bands


def _range(slab: FloatArray, *, per_slice: bool) -> tuple[FloatArray, FloatArray]:
    axes = (1, 2) if per_slice else None
    return slab.min(axis=axes, keepdims=True), slab.max(axis=axes, keepdims=True)


def _resize_along(
    along: list[Band],
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
        for to, needed, weights in along:
            resized = (weights @ flat[needed]).reshape(len(weights), *block.shape[1:])
            if limits is not None:
                resized.clip(*limits, out=resized)
            out[to, part] = resized
