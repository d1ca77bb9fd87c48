"""Back to the input's grid: scores are interpolated only where a label can come of them.

Linear interpolation is a convex combination: a fine voxel can be foreground only where a coarse neighbour is. So for
each slab of the output only the bounding box of what its positive coarse voxels reach is computed; the rest stays 0.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from flare_runtime.arrays import FloatArray, MaskArray
from flare_runtime.decoding import Decoder
from flare_runtime.resampling import Resizing
from flare_runtime.volume import slabs

_SLAB = 16

BoolArray: TypeAlias = npt.NDArray[np.bool_]


def restore(scores: FloatArray, resizing: Resizing, decoder: Decoder, out: MaskArray) -> None:
    """Write the labels of `scores` (channels, *resizing.old_shape) into `out` (*resizing.new_shape), zero until now.

    Raises:
        ValueError: where the interpolation is not a convex combination.
    """
    if resizing.clips:
        raise ValueError("scores can be restored by interpolation of order 0 or 1 only")
    positive: BoolArray = np.any(scores > 0, axis=0)
    z_matrix, y_matrix, x_matrix = resizing.matrices
    for part in slabs(resizing.new_shape[0], _SLAB):
        z_from = _support(np.any(z_matrix[part], axis=0))
        seen: BoolArray = np.any(positive[z_from], axis=0)
        if not seen.any():
            continue
        y_hit, x_hit = (y_matrix != 0) @ seen.any(axis=1), (x_matrix != 0) @ seen.any(axis=0)
        if not (y_hit.any() and x_hit.any()):
            continue
        y_to, x_to = _support(y_hit), _support(x_hit)
        y_from, x_from = _support(np.any(y_matrix[y_to], axis=0)), _support(np.any(x_matrix[x_to], axis=0))
        block = scores[:, z_from, y_from, x_from]
        fine = _interpolate(block, z_matrix[part, z_from], y_matrix[y_to, y_from], x_matrix[x_to, x_from])
        out[part, y_to, x_to] = decoder.labels(fine)


def _support(used: BoolArray) -> slice:
    """Return the range from the first to the last True, of which there is at least one."""
    indices = np.flatnonzero(used)
    return slice(int(indices[0]), int(indices[-1]) + 1)


def _interpolate(block: FloatArray, z: FloatArray, y: FloatArray, x: FloatArray) -> FloatArray:
    channels, depth = block.shape[:2]
    along_z = (z @ block.reshape(channels, depth, -1)).reshape(channels, len(z), *block.shape[2:])
    return np.asarray(y @ (along_z @ x.T), np.float32)
