"""How far two masks agree."""

from dataclasses import dataclass

import numpy as np

from flare_runtime.compute.arrays import MaskArray


@dataclass(frozen=True)
class Agreement:
    """The comparison of two masks.

    Attributes:
        voxel_agreement: share of all voxels with the same label.
        dice: of the foreground (label > 0); 1 where both are empty.
        differing: number of voxels with another label.
        foreground: number of foreground voxels in the reference.
    """

    voxel_agreement: float
    dice: float
    differing: int
    foreground: int


def compare(reference: MaskArray, other: MaskArray) -> Agreement:
    """Compare two masks of one shape.

    Raises:
        ValueError: where the shapes differ.
    """
    if reference.shape != other.shape:
        raise ValueError(f"the masks measure {reference.shape} and {other.shape}")
    differing = int(np.count_nonzero(reference != other))
    a, b = int(np.count_nonzero(reference)), int(np.count_nonzero(other))
    # Equal labels count as overlap, so that a swapped class is a disagreement.
    same_foreground = int(np.count_nonzero((reference == other) & (reference > 0)))
    dice = 2 * same_foreground / (a + b) if a + b else 1.0
    return Agreement(1 - differing / reference.size, dice, differing, a)
