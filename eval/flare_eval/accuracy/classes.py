"""Scores several classes of one case, each by the challenge's rules, from one count of all labels and small crops."""

from collections.abc import Mapping, Sequence

import numpy as np

from flare_eval.accuracy.confusion import class_counts, confusion
from flare_eval.accuracy.label_set import LabelSet
from flare_eval.accuracy.rules import same_at_all, surface_dices
from flare_eval.accuracy.surface import BoolArray
from flare_eval.results import ClassAccuracy
from flare_runtime.compute.arrays import MaskArray, Vector3
from flare_runtime.compute.box import Box


def score_classes(
    reference: MaskArray,
    prediction: MaskArray,
    labels: LabelSet,
    spacing_mm: Vector3 | None,
    tolerances_mm: Sequence[float],
) -> list[ClassAccuracy]:
    """Return the score of every class of two label images (z, y, x) of one shape.

    Voxels that the reference ignores are in no class. Only the box of a class is ever a mask of its own.
    """
    table = confusion(reference, prediction)
    boxes = [_boxes(image) for image in (reference, prediction)]
    scores = []
    for label in labels.classes:
        counts = class_counts(table, label.values, labels.ignore)
        total = 2 * counts.tp + counts.fp + counts.fn
        dsc = 2 * counts.tp / total if total else 1.0
        nsd = same_at_all(0.0 if total else 1.0, tolerances_mm)
        if counts.tp:
            box = _around([of[value] for of in boxes for value in label.values if value in of])
            masks = _masks((reference[box], prediction[box]), label.values, labels.ignore)
            nsd = surface_dices(*masks, dsc, spacing_mm, tolerances_mm)
        scores.append(ClassAccuracy(dsc=round(dsc, 4), nsd=nsd, **counts._asdict()))
    return scores


def _masks(images: Sequence[MaskArray], values: Sequence[int], ignore: int | None) -> tuple[BoolArray, BoolArray]:
    truth, mask = (np.isin(image, values) for image in images)
    if ignore is not None:
        counted = images[0] != ignore
        return truth & counted, mask & counted
    return truth, mask


def means(scores: Sequence[ClassAccuracy]) -> tuple[float, dict[str, float]]:
    """Return the mean DSC and NSD of a case's classes, to 4 decimals."""
    dsc = round(float(np.mean([score.dsc for score in scores])), 4)
    return dsc, {name: round(float(np.mean([score.nsd[name] for score in scores])), 4) for name in scores[0].nsd}


def _boxes(labels: MaskArray) -> Mapping[int, Box]:
    """Return the box of every label, found in one pass; the background is taken to be everywhere."""
    from scipy.ndimage import find_objects

    z, y, x = labels.shape
    boxes = {value: Box(*sides) for value, sides in enumerate(find_objects(labels), 1) if sides is not None}
    return {0: Box.whole((z, y, x)), **boxes}


def _around(boxes: Sequence[Box]) -> Box:
    return Box.between(np.min([box.start for box in boxes], axis=0), np.max([box.stop for box in boxes], axis=0))
