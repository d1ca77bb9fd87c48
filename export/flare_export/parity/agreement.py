"""How far two masks agree."""

import numpy as np

from flare_runtime.compute.arrays import MaskArray
from flare_runtime.model.manifest import Agreement


def compare(reference: MaskArray, other: MaskArray) -> Agreement:
    """Compare two masks of one shape.

    Raises:
        ValueError: where the shapes differ.
    """
    if reference.shape != other.shape:
        raise ValueError(f"the masks measure {reference.shape} and {other.shape}")
    same = reference == other
    equal = int(np.count_nonzero(same))
    foreground, others = int(np.count_nonzero(reference)), int(np.count_nonzero(other))
    # Equal labels count as overlap, so that a swapped class is a disagreement.
    overlap = int(np.count_nonzero(same & (reference > 0)))
    dice = 2 * overlap / (foreground + others) if foreground + others else 1.0
    return Agreement(voxel_agreement=equal / same.size, dice=dice, foreground_voxels=foreground)
