"""A synthetic patch, for comparisons where no case is given."""

import numpy as np
from scipy.ndimage import zoom

from flare_runtime.compute.arrays import FloatArray, Shape3


def structured_patch(channels: int, patch: Shape3, seed: int = 0) -> FloatArray:
    """Return a (1, channels, *patch) input with structure at several scales, as normalised images have."""
    rng = np.random.default_rng(seed)
    image = 0.3 * rng.standard_normal((channels, *patch))
    for scale in (4, 16):
        coarse = rng.standard_normal((channels, *(max(n // scale, 2) for n in patch)))
        image += zoom(coarse, [1, *(n / m for n, m in zip(patch, coarse.shape[1:], strict=True))], order=1)
    return np.ascontiguousarray(image[None], dtype=np.float32)
