"""Which of the reference's lesions a prediction finds, and how many of its components touch none."""

import numpy as np

from flare_eval.components import label_components
from flare_eval.results import LesionFinding
from flare_runtime.compute.arrays import MaskArray
from flare_runtime.pipeline.crop import mask_box


def detect(reference: MaskArray, prediction: MaskArray, voxel_ml: float) -> tuple[list[LesionFinding], int]:
    """Match the connected components of two binary masks of one shape.

    A lesion is found where any predicted voxel lies in it; its Dice is with all predicted components that touch it. A
    predicted component that touches no lesion is a false positive.

    Returns:
        The reference's lesions, the largest first, and the number of false positives.
    """
    box = mask_box(reference, prediction)
    if box is None:
        return [], 0
    reference, prediction = reference[box], prediction[box]
    lesions, lesion_count = label_components(reference)
    parts, part_count = label_components(prediction)
    lesion_sizes = np.bincount(lesions.ravel(), minlength=lesion_count + 1)
    part_sizes = np.bincount(parts.ravel(), minlength=part_count + 1)
    common = (reference > 0) & (prediction > 0)
    pairs = lesions[common].astype(np.int64) * (part_count + 1) + parts[common]
    touching, overlaps = np.unique(pairs, return_counts=True)
    of_lesion, of_part = np.divmod(touching, part_count + 1)
    shared = np.bincount(of_lesion, overlaps, minlength=lesion_count + 1)
    touched = np.bincount(of_lesion, part_sizes[of_part], minlength=lesion_count + 1)
    findings = [
        LesionFinding(
            volume_ml=round(float(lesion_sizes[i]) * voxel_ml, 4),
            dice=round(float(2 * shared[i] / (lesion_sizes[i] + touched[i])), 4),
            found=bool(shared[i]),
        )
        for i in range(1, lesion_count + 1)
    ]
    false_positives = part_count - len(np.unique(of_part))
    return sorted(findings, key=lambda finding: -finding.volume_ml), int(false_positives)
