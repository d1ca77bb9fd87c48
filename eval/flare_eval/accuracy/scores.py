"""Scores every case by the challenge's rules: DSC and NSD, of a lesion with what was found, or of several classes."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from flare_eval.accuracy.classes import means, score_classes
from flare_eval.accuracy.detection import detect
from flare_eval.accuracy.label_image import LabelImage, read_label_image
from flare_eval.accuracy.label_set import LabelSet
from flare_eval.accuracy.rules import TOLERANCE_MM, same_at_all, score_masks
from flare_eval.labels import read_labels
from flare_eval.results import Accuracy, CaseAccuracy
from flare_eval.sources import source_of
from flare_runtime.compute.arrays import MaskArray
from flare_runtime.errors import CaseError, UsageError
from flare_runtime.files.naming import visible
from flare_runtime.imaging.file_names import is_image_name, strip_suffix

Progress = Callable[[Iterable[CaseAccuracy], int], Iterable[CaseAccuracy]]


@dataclass(frozen=True)
class Pair:
    """A reference and the prediction for it, if there is one."""

    case: str
    reference: Path
    prediction: Path | None


@dataclass(frozen=True)
class Rules:
    """How cases are scored.

    Attributes:
        tolerances_mm: of the surface Dice.
        official: as the challenge's script does: it reads as `read_label_image` says and leaves out missing
            predictions.
        strict: read as images are read, and refuse a prediction on another grid than its reference.
        labels: the classes; None for one lesion, of the value 1.
    """

    tolerances_mm: tuple[float, ...] = (TOLERANCE_MM,)
    official: bool = False
    strict: bool = False
    labels: LabelSet | None = None


DEFAULT_RULES = Rules()


def find_pairs(references: Path, predictions: Path) -> list[Pair]:
    """Match <case>.nii.gz of two folders, or two files; every reference is a pair, in order of their names.

    Args:
        references: a folder, or one file.
        predictions: likewise.

    Raises:
        UsageError: where a folder is missing, holds nothing, or nothing matches.
    """
    if references.is_file() and predictions.is_file():
        return [Pair(visible(strip_suffix(references.name)), references, predictions)]
    for folder in (references, predictions):
        if not folder.is_dir():
            raise UsageError(f"{folder}: there is no such folder; give two folders of <case>.nii.gz, or two files")
    truths, masks = (_by_case(folder) for folder in (references, predictions))
    if not truths:
        raise UsageError(f"{references}: holds no .nii.gz or .nii file")
    if not truths.keys() & masks.keys():
        raise UsageError(
            f"{predictions}: holds no prediction for any of the {len(truths)} references; names must match"
        )
    return [Pair(case, path, masks.get(case)) for case, path in truths.items()]


def pairs_of(cases: Sequence[str], references: Path, predictions: Path) -> list[Pair]:
    """Return the pairs of named cases: those that have a reference, whether or not there is a prediction."""
    truths, masks = (_by_case(folder) for folder in (references, predictions))
    return [Pair(case, truths[case], masks.get(case)) for case in cases if case in truths]


def _by_case(folder: Path) -> dict[str, Path]:
    try:
        files = sorted(folder.iterdir())
    except OSError as error:
        raise UsageError(f"{folder}: cannot be read ({error.strerror or error})") from error
    return {visible(strip_suffix(path.name)): path for path in files if is_image_name(path.name)}


def evaluate(
    method: str,
    pairs: Sequence[Pair],
    rules: Rules = DEFAULT_RULES,
    *,
    workers: int = 1,
    progress: Progress = lambda cases, _count: cases,
) -> Accuracy:
    """Score every pair, several at a time.

    Args:
        method: the name of what made the predictions.
        pairs: from `find_pairs`.
        rules: how.
        workers: processes.
        progress: wraps the scores as they come, for a progress bar.
    """
    left_out = [pair.case for pair in pairs if rules.official and pair.prediction is None]
    taken = [pair for pair in pairs if not rules.official or pair.prediction is not None]
    score = partial(score_case, rules=rules)
    if workers == 1:
        cases = list(progress(map(score, taken), len(taken)))
    else:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            cases = list(progress(pool.map(score, taken), len(taken)))
    return Accuracy(
        method=method,
        tolerances_mm=list(rules.tolerances_mm),
        official=rules.official,
        cases=cases,
        labels=list(rules.labels.classes) if rules.labels else [],
        left_out=left_out,
    )


def score_case(pair: Pair, rules: Rules = DEFAULT_RULES) -> CaseAccuracy:
    """Score one pair of files; what is wrong with them is in the result, nothing is raised for it."""
    result = CaseAccuracy(case=pair.case, source=source_of(pair.case), reference=visible(pair.reference.resolve()))
    if pair.prediction is not None:
        result.prediction = visible(pair.prediction.resolve())
    try:
        truth = _read(pair.reference, rules)
        if rules.labels is None and truth.labels.max() > 1:
            raise CaseError(
                "not_binary",
                f"{pair.reference.name}: holds {truth.labels.max()}; a reference holds 0 and 1, or name its classes "
                "(--labels)",
            )
    except CaseError as error:
        result.status, result.message = "bad_reference", visible(error)
        return result
    mask = _prediction(pair, truth, rules, result)
    _score(result, truth, mask, rules)
    return result


def _read(path: Path, rules: Rules) -> LabelImage:
    if not rules.strict:
        return read_label_image(path, official=rules.official)
    volume, labels = read_labels(path)
    return LabelImage(labels, volume.geometry)


def _prediction(pair: Pair, truth: LabelImage, rules: Rules, result: CaseAccuracy) -> MaskArray:
    """Return the prediction, all 0 where there is none to be used, and note what is wrong or odd."""
    nothing = np.zeros_like(truth.labels)
    if pair.prediction is None:
        result.status, result.message = "missing", "there is no prediction; it counts as 0, 0"
        return nothing
    try:
        mask = _read(pair.prediction, rules)
        difference = truth.geometry.difference(mask.geometry)
        same_shape = mask.labels.shape == truth.labels.shape
        if rules.official and not same_shape and not (mask.labels.any() or truth.labels.any()):
            return nothing  # the challenge's script finds both empty before it compares their voxels
        if difference and (rules.strict or not same_shape):
            raise CaseError("geometry", f"against the reference, the prediction {difference}")
    except CaseError as error:
        result.status, result.message = "bad_prediction", f"{visible(error)}; it counts as 0, 0"
        return nothing
    if difference:
        result.message = f"against the reference, the prediction {difference}; scored voxel by voxel all the same"
    return mask.labels


def _score(result: CaseAccuracy, truth: LabelImage, mask: MaskArray, rules: Rules) -> None:
    """Set the scores and volumes of a case."""
    reference, spacing, tolerances = truth.labels, truth.spacing_mm, rules.tolerances_mm
    result.dsc, result.nsd = 0.0, same_at_all(0.0, tolerances)
    if spacing is None:
        result.message = "; ".join(filter(None, [result.message, "the reference has no spacing, so no NSD above 0"]))
    else:
        voxel_ml = float(np.prod(spacing)) / 1000
        result.reference_ml = round(int(np.count_nonzero(reference)) * voxel_ml, 4)
        result.prediction_ml = round(int(np.count_nonzero(mask)) * voxel_ml, 4)
    if rules.labels:
        _score_classes(result, truth, mask, rules.labels, tolerances)
        return
    result.lesions, result.false_positives = detect(reference, mask, voxel_ml if spacing else 0.0)
    if result.status == "scored":
        if mask.max(initial=0) > 1:
            result.message = f"the prediction holds {mask.max()}; only 0 and 1 are allowed, it counts as 0, 0"
        else:
            result.dsc, result.nsd = score_masks(reference, mask, spacing, tolerances)


def _score_classes(
    result: CaseAccuracy, truth: LabelImage, mask: MaskArray, labels: LabelSet, tolerances_mm: Sequence[float]
) -> None:
    result.classes = score_classes(truth.labels, mask, labels, truth.spacing_mm, tolerances_mm)
    if result.status != "scored":  # also for a class that the reference lacks
        for score in result.classes:
            score.dsc, score.nsd = 0.0, same_at_all(0.0, tolerances_mm)
    result.dsc, result.nsd = means(result.classes)
