"""Back to the input's grid: scores are interpolated only where a label can come of them.

Linear interpolation is a convex combination: a fine voxel can be foreground only where a coarse neighbour is. So for
each block of the output only the bounding box of what its positive coarse voxels reach is computed; the rest stays 0.
"""

from collections.abc import Iterator
from itertools import product

import numpy as np

from flare_runtime.compute.arrays import AnyArray, FloatArray, MaskArray
from flare_runtime.compute.box import Box
from flare_runtime.compute.device import HOST, Device
from flare_runtime.imaging.volume import slabs
from flare_runtime.pipeline.decoding import Decoder
from flare_runtime.pipeline.interpolation import BoolArray
from flare_runtime.pipeline.label_probabilities import RowCollector, RowSums
from flare_runtime.pipeline.resampling import Resizing

# The output is computed in blocks of at most so many voxels, (z, y, x).
BLOCK = (16, 64, 2048)
# Of a voxel of some planes on a GPU: its label, and the probability of it in half precision.
SLAB_BYTES = 1 + 2


def restore(scores: FloatArray, resizing: Resizing, decoder: Decoder, out: MaskArray, device: Device = HOST) -> RowSums:
    """Write the labels of `scores` (channels, *resizing.old_shape) into `out` (*resizing.new_shape), zero until now.

    `scores` are on `device`, where they are interpolated; `out`, of which the rows are returned, is on the host.

    Raises:
        ValueError: where the interpolation is not a convex combination.
    """
    if resizing.clips:
        raise ValueError("scores can be restored by interpolation of order 0 or 1 only")
    positive: BoolArray = device.download(device.xp.any(scores > 0, axis=0))
    z_matrix, y_matrix, x_matrix = resizing.matrices
    collector = RowCollector(resizing.new_shape)
    for planes in slabs(resizing.new_shape[0], BLOCK[0]):
        z = z_matrix.part(planes)
        seen: BoolArray = np.any(positive[z.columns], axis=0)
        if not seen.any():
            continue
        part = (out, planes, collector)
        slab = _DeviceSlab(device, *part) if device.is_gpu else _HostSlab(*part)
        seen_along: BoolArray = np.any(seen, axis=1)
        for rows in slabs(resizing.new_shape[1], BLOCK[1]):
            y = y_matrix.reaching(rows, seen_along)
            if y is None:
                continue
            seen_across: BoolArray = np.any(seen[y.columns], axis=0)
            for columns in slabs(resizing.new_shape[2], BLOCK[2]):
                x = x_matrix.reaching(columns, seen_across)
                if x is None:
                    continue
                block = scores[:, z.columns, y.columns, x.columns]
                fine = _interpolate(block, *(device.upload(axis.weights) for axis in (z, y, x)))
                slab.decode(decoder, fine, y.rows, x.rows)
        slab.finish()
    return collector.rows()


class _HostSlab:
    """Some planes of a mask on the host, of which one block after the other is decoded."""

    def __init__(self, out: MaskArray, planes: slice, collector: RowCollector) -> None:
        self._labels, self._first, self._collector = out[planes], planes.start, collector

    def decode(self, decoder: Decoder, fine: FloatArray, rows: slice, columns: slice) -> None:
        """Write the labels of scores (channels, planes, rows, columns)."""
        labels = decoder.labels(fine)
        self._labels[:, rows, columns] = labels
        inside = np.flatnonzero(labels)
        if len(inside):
            likely = decoder.label_probabilities(fine.reshape(len(fine), -1)[:, inside])
            corner = self._first, rows.start, columns.start
            self._collector.add(labels, inside, likely.astype(np.float16), corner)  # as they come down from a GPU

    def finish(self) -> None:
        """Do nothing: all is there."""


class _DeviceSlab:
    """The same on a GPU, which gathers labels and their probabilities: with each block the host would wait for it."""

    def __init__(self, device: Device, out: MaskArray, planes: slice, collector: RowCollector) -> None:
        self._device, self._out, self._first, self._collector = device, out[planes], planes.start, collector
        self._bytes = device.xp.zeros(SLAB_BYTES * self._out.size, np.uint8)
        self._labels, self._likely = self._parts(self._bytes)

    def _parts(self, both: AnyArray) -> tuple[MaskArray, AnyArray]:
        shape, size = self._out.shape, self._out.size
        return both[2 * size :].reshape(shape), both[: 2 * size].view(np.float16).reshape(shape)

    def decode(self, decoder: Decoder, fine: FloatArray, rows: slice, columns: slice) -> None:
        """Take the scores (channels, planes, rows, columns) of a block."""
        self._labels[:, rows, columns] = decoder.labels(fine)
        self._likely[:, rows, columns] = decoder.label_probabilities(fine)

    def finish(self) -> None:
        """Write the labels."""
        labels, likely = self._parts(self._device.download(self._bytes))
        self._out[...] = labels
        inside = np.flatnonzero(labels)
        if len(inside):
            self._collector.add(labels, inside, likely.reshape(-1)[inside], (self._first, 0, 0))


def restore_probabilities(
    scores: FloatArray, resizing: Resizing, decoder: Decoder, out: FloatArray, device: Device = HOST
) -> None:
    """Write the probabilities of `scores` (channels, *resizing.old_shape) into `out` (outputs, *resizing.new_shape).

    `scores` are on `device`, where they are interpolated; `out` is on the host, where probabilities are computed, so
    that a GPU needs no more memory than for labels.
    """
    for block, fine in interpolated_blocks(scores, resizing, device):
        block.cut(out)[...] = decoder.probabilities(fine)


def interpolated_blocks(scores: FloatArray, resizing: Resizing, device: Device) -> Iterator[tuple[Box, FloatArray]]:
    """Yield each block of the output with `scores` (channels, *resizing.old_shape) interpolated there, on the host."""
    sides = (slabs(side, most) for side, most in zip(resizing.new_shape, BLOCK, strict=True))
    for block in map(Box._make, product(*sides)):
        z, y, x = (matrix.part(side) for matrix, side in zip(resizing.matrices, block, strict=True))
        coarse = scores[:, z.columns, y.columns, x.columns]
        fine = _interpolate(coarse, *(device.upload(axis.weights) for axis in (z, y, x)))
        yield block, device.download(fine)


def _interpolate(block: FloatArray, z: FloatArray, y: FloatArray, x: FloatArray) -> FloatArray:
    channels, depth = block.shape[:2]
    along_z = (z @ block.reshape(channels, depth, -1)).reshape(channels, len(z), *block.shape[2:])
    return (y @ (along_z @ x.T)).astype(np.float32, copy=False)
