"""Back to the input's grid: scores are interpolated only where a label can come of them.

Linear interpolation is a convex combination: a fine voxel can be foreground only where a coarse neighbour is. So for
each block of the output only the bounding box of what its positive coarse voxels reach is computed; the rest stays 0.
"""

from collections.abc import Iterator
from itertools import product

import numpy as np

from flare_runtime.compute.arrays import FloatArray, MaskArray
from flare_runtime.compute.box import Box
from flare_runtime.compute.device import HOST, Device
from flare_runtime.imaging.volume import slabs
from flare_runtime.pipeline.decoding import Decoder
from flare_runtime.pipeline.interpolation import BoolArray
from flare_runtime.pipeline.resampling import Resizing

# The output is computed in blocks of at most so many voxels, (z, y, x).
BLOCK = (16, 64, 2048)


def restore(scores: FloatArray, resizing: Resizing, decoder: Decoder, out: MaskArray, device: Device = HOST) -> None:
    """Write the labels of `scores` (channels, *resizing.old_shape) into `out` (*resizing.new_shape), zero until now.

    `scores` are on `device`, where they are interpolated; `out` is on the host.

    Raises:
        ValueError: where the interpolation is not a convex combination.
    """
    if resizing.clips:
        raise ValueError("scores can be restored by interpolation of order 0 or 1 only")
    positive: BoolArray = device.download(device.xp.any(scores > 0, axis=0))
    z_matrix, y_matrix, x_matrix = resizing.matrices
    for planes in slabs(resizing.new_shape[0], BLOCK[0]):
        # On a GPU labels are gathered and come down together: each time the host would wait for all work there.
        slab = device.xp.zeros(out[planes].shape, np.uint8) if device.is_gpu else out[planes]
        z = z_matrix.part(planes)
        seen: BoolArray = np.any(positive[z.columns], axis=0)
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
                slab[:, y.rows, x.rows] = decoder.labels(fine)
        if device.is_gpu and seen.any():
            out[planes] = device.download(slab)


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
