"""The FLARE challenge's rules for two masks: DSC and NSD, and what counts where masks are empty or far apart."""

from collections.abc import Sequence

import numpy as np

from flare_eval.accuracy.surface import BoolArray, surface_distances
from flare_runtime.compute.arrays import MaskArray, Vector3
from flare_runtime.pipeline.crop import mask_box

TOLERANCE_MM = 2.0
# Below this Dice the challenge gives no surface score.
MIN_DSC_FOR_NSD = 0.2


def dice(reference: MaskArray, prediction: MaskArray) -> float:
    """Return the Dice of the foreground of two label images (z, y, x); voxels of equal labels are what overlaps.

    Where both are empty it is 1.
    """
    total = int(np.count_nonzero(reference)) + int(np.count_nonzero(prediction))
    shared = int(np.count_nonzero((reference == prediction) & (reference > 0)))
    return 2 * shared / total if total else 1.0


def score_masks(
    reference: MaskArray, prediction: MaskArray, spacing_mm: Vector3 | None, tolerances_mm: Sequence[float]
) -> tuple[float, dict[str, float]]:
    """Return DSC and NSD by tolerance of two binary masks (z, y, x), spacing likewise, by the challenge's rules.

    In their order: both empty give 1, 1; one empty gives 0, 0; a DSC below 0.2 gives an NSD of 0. Each is rounded to
    4 decimals. Without a spacing no distance can be measured, and the NSD of masks that both hold something is 0.
    """
    box = mask_box(reference, prediction)
    if box is None:
        return 1.0, same_at_all(1.0, tolerances_mm)
    reference, prediction = reference[box], prediction[box]
    dsc = dice(reference, prediction)
    return round(dsc, 4), surface_dices(reference != 0, prediction != 0, dsc, spacing_mm, tolerances_mm)


def surface_dices(
    reference: BoolArray, prediction: BoolArray, dsc: float, spacing_mm: Vector3 | None, tolerances_mm: Sequence[float]
) -> dict[str, float]:
    """Return the NSD by tolerance of two masks (z, y, x) with this DSC, of which at least one is not empty."""
    if dsc < MIN_DSC_FOR_NSD or spacing_mm is None:
        return same_at_all(0.0, tolerances_mm)
    # The challenge reads (x, y, z), and ambiguous corners make the order of the axes count.
    z, y, x = spacing_mm
    surfaces = surface_distances(reference.T, prediction.T, (x, y, z), max(tolerances_mm))
    return {f"{tolerance:g}": round(surfaces.surface_dice(tolerance), 4) for tolerance in tolerances_mm}


def same_at_all(value: float, tolerances_mm: Sequence[float]) -> dict[str, float]:
    """Return one NSD at every tolerance."""
    return {f"{tolerance:g}": value for tolerance in tolerances_mm}
