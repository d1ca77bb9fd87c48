"""Scores every case by the challenge's rules: DSC, NSD, and which lesions are found."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from flare_eval.accuracy.detection import detect
from flare_eval.accuracy.surface import surface_distances
from flare_eval.labels import read_labels
from flare_eval.results import Accuracy, CaseAccuracy
from flare_eval.sources import source_of
from flare_runtime.compute.arrays import MaskArray
from flare_runtime.errors import CaseError, UsageError
from flare_runtime.files.naming import visible
from flare_runtime.imaging.file_names import is_image_name, strip_suffix

TOLERANCE_MM = 2.0
# Below this Dice the challenge gives no surface score.
MIN_DSC_FOR_NSD = 0.2

Progress = Callable[[Iterable[CaseAccuracy], int], Iterable[CaseAccuracy]]


@dataclass(frozen=True)
class Pair:
    """A reference and the prediction for it, if there is one."""

    case: str
    reference: Path
    prediction: Path | None


def find_pairs(references: Path, predictions: Path, *, official: bool = False) -> list[Pair]:
    """Match <case>.nii.gz of two folders, or two files; every reference is a pair, in order of their names.

    Args:
        references: a folder, or one file.
        predictions: likewise.
        official: leave out references without a prediction, as the challenge's script does.

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
    return [Pair(case, path, masks.get(case)) for case, path in truths.items() if not official or case in masks]


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
    *,
    tolerances_mm: Sequence[float] = (TOLERANCE_MM,),
    official: bool = False,
    workers: int = 1,
    progress: Progress = lambda cases, _count: cases,
) -> Accuracy:
    """Score every pair, several at a time.

    Args:
        method: the name of what made the predictions.
        pairs: from `find_pairs`.
        tolerances_mm: of the surface Dice.
        official: noted in the result.
        workers: processes.
        progress: wraps the scores as they come, for a progress bar.
    """
    score = partial(score_case, tolerances_mm=tuple(tolerances_mm))
    if workers == 1:
        cases = list(progress(map(score, pairs), len(pairs)))
    else:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            cases = list(progress(pool.map(score, pairs), len(pairs)))
    return Accuracy(method=method, tolerances_mm=list(tolerances_mm), official=official, cases=cases)


def score_case(pair: Pair, tolerances_mm: Sequence[float] = (TOLERANCE_MM,)) -> CaseAccuracy:
    """Score one pair of files; what is wrong with them is in the result, nothing is raised for it."""
    result = CaseAccuracy(case=pair.case, source=source_of(pair.case), reference=visible(pair.reference.resolve()))
    if pair.prediction is not None:
        result.prediction = visible(pair.prediction.resolve())
    try:
        reference, truth = read_labels(pair.reference)
        if truth.max() > 1:
            raise CaseError("not_binary", f"{pair.reference.name}: holds {truth.max()}; a reference holds 0 and 1")
    except CaseError as error:
        result.status, result.message = "bad_reference", visible(error)
        return result
    spacing = reference.spacing_mm
    voxel_ml = float(np.prod(spacing)) / 1000
    result.reference_ml = round(float(truth.sum(dtype=np.int64)) * voxel_ml, 4)
    result.dsc, result.nsd = 0.0, {f"{tolerance:g}": 0.0 for tolerance in tolerances_mm}
    prediction = np.zeros_like(truth)
    if pair.prediction is None:
        result.status, result.message = "missing", "there is no prediction; it counts as 0, 0"
    else:
        try:
            volume, prediction = read_labels(pair.prediction)
            if difference := reference.geometry.difference(volume.geometry):
                raise CaseError("geometry", f"against the reference, the prediction {difference}")
        except CaseError as error:
            prediction = np.zeros_like(truth)
            result.status, result.message = "bad_prediction", f"{visible(error)}; it counts as 0, 0"
    result.prediction_ml = round(float(np.count_nonzero(prediction)) * voxel_ml, 4)
    result.lesions, result.false_positives = detect(truth, prediction, voxel_ml)
    if result.status == "scored":
        if prediction.max(initial=0) > 1:
            result.message = f"the prediction holds {prediction.max()}; only 0 and 1 are allowed, it counts as 0, 0"
        else:
            result.dsc, result.nsd = score_masks(truth, prediction, spacing, tolerances_mm)
    return result


def dice(reference: MaskArray, prediction: MaskArray) -> float:
    """Return the Dice of the foreground of two label images (z, y, x); voxels of equal labels are what overlaps.

    Where both are empty it is 1.
    """
    total = int(np.count_nonzero(reference)) + int(np.count_nonzero(prediction))
    shared = int(np.count_nonzero((reference == prediction) & (reference > 0)))
    return 2 * shared / total if total else 1.0


def score_masks(
    reference: MaskArray, prediction: MaskArray, spacing_mm: tuple[float, float, float], tolerances_mm: Sequence[float]
) -> tuple[float, dict[str, float]]:
    """Return DSC and NSD by tolerance of two binary masks (z, y, x), spacing likewise, by the challenge's rules.

    In their order: both empty give 1, 1; one empty gives 0, 0; a DSC below 0.2 gives an NSD of 0. Each is rounded to
    4 decimals.
    """
    names = [f"{tolerance:g}" for tolerance in tolerances_mm]
    dsc = dice(reference, prediction)
    if not (reference.any() or prediction.any()):
        return dsc, dict.fromkeys(names, 1.0)
    if dsc < MIN_DSC_FOR_NSD:
        return round(dsc, 4), dict.fromkeys(names, 0.0)
    # The challenge reads (x, y, z), and ambiguous corners make the order of the axes count.
    truth, mask = ((labels != 0).transpose(2, 1, 0) for labels in (reference, prediction))
    z, y, x = spacing_mm
    surfaces = surface_distances(truth, mask, (x, y, z), max(tolerances_mm))
    nsd = {
        name: round(surfaces.surface_dice(tolerance), 4) for name, tolerance in zip(names, tolerances_mm, strict=True)
    }
    return round(dsc, 4), nsd
