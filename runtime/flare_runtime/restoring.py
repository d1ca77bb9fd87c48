"""Back to the input's grid: scores are interpolated only where a label can come of them.

Linear interpolation is a convex combination: a fine voxel can be foreground only where a coarse neighbour is. So for
each block of the output only the bounding box of what its positive coarse voxels reach is computed; the rest stays 0.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from flare_runtime.arrays import FloatArray, MaskArray
from flare_runtime.decoding import Decoder
from flare_runtime.device import HOST, Device
from flare_runtime.resampling import Resizing
from flare_runtime.volume import slabs

# The output is computed in blocks of so many planes and rows.
BLOCK = (16, 64)

BoolArray: TypeAlias = npt.NDArray[np.bool_]


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
    planes_at_once, rows_at_once = BLOCK
    for planes in slabs(resizing.new_shape[0], planes_at_once):
        z_from = _support(np.any(z_matrix[planes], axis=0))
        seen: BoolArray = np.any(positive[z_from], axis=0)
        if not seen.any():
            continue
        for rows in slabs(resizing.new_shape[1], rows_at_once):
            y_hit = (y_matrix[rows] != 0) @ seen.any(axis=1)
            if not y_hit.any():
                continue
            y_to = _support(y_hit, rows.start)
            y_from = _support(np.any(y_matrix[y_to], axis=0))
            x_hit = (x_matrix != 0) @ seen[y_from].any(axis=0)
            if not x_hit.any():
                continue
            x_to = _support(x_hit)
            x_from = _support(np.any(x_matrix[x_to], axis=0))
            block = scores[:, z_from, y_from, x_from]
            matrices = (z_matrix[planes, z_from], y_matrix[y_to, y_from], x_matrix[x_to, x_from])
            fine = _interpolate(block, *(device.upload(matrix) for matrix in matrices))
            out[planes, y_to, x_to] = device.download(decoder.labels(fine))


def _support(used: BoolArray, offset: int = 0) -> slice:
    """Return the range from the first to the last True, of which there is at least one, moved by `offset`."""
    indices = np.flatnonzero(used) + offset
    return slice(int(indices[0]), int(indices[-1]) + 1)


def _interpolate(block: FloatArray, z: FloatArray, y: FloatArray, x: FloatArray) -> FloatArray:
    channels, depth = block.shape[:2]
    along_z = (z @ block.reshape(channels, depth, -1)).reshape(channels, len(z), *block.shape[2:])
    return (y @ (along_z @ x.T)).astype(np.float32, copy=False)
