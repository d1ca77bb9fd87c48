"""Tables of accuracy in the manner of the paper's Table 3, and tables as Markdown."""

from collections.abc import Iterable, Sequence
from math import isnan
from statistics import fmean, stdev
from typing import TypeAlias

from flare_eval.results import Accuracy, CaseAccuracy, ClassAccuracy, LesionFinding

# Lesion volumes in ml that the detection table is divided at.
VOLUME_CLASSES_ML = ((0.0, 1.0), (1.0, 10.0), (10.0, 100.0), (100.0, float("inf")))

# A table: its head, and rows of as many cells.
Content: TypeAlias = tuple[list[str], list[list[str]]]


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table whose first column is text and whose others are numbers."""
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines)


def mean_and_deviation(shares: Sequence[float]) -> str:
    """Return "mean ± standard deviation" of shares of 1, in percent with two decimals."""
    if not shares:
        return "-"
    deviation = stdev(shares) if len(shares) > 1 else 0.0
    return f"{100 * fmean(shares):.2f} ± {100 * deviation:.2f}"


def accuracy_table(results: Sequence[Accuracy]) -> Content:
    """Return the paper's Table 3: per method the mean and standard deviation of DSC and of NSD at each tolerance."""
    tolerances = results[0].tolerances_mm
    head = ["Method", "Cases", "DSC (%)", *(f"NSD at {tolerance:g} mm (%)" for tolerance in tolerances)]
    rows = []
    for result in results:
        scored = result.scored
        surfaces = [mean_and_deviation([case.nsd[f"{tolerance:g}"] for case in scored]) for tolerance in tolerances]
        rows.append([result.method, str(len(scored)), mean_and_deviation(_dscs(scored)), *surfaces])
    return head, rows


def class_table(results: Sequence[Accuracy]) -> Content:
    """Return per method and class the means that the challenge and that nnU-Net's summary.json give.

    The challenge's mean takes every case, and 1 where a class is in neither mask; nnU-Net's leaves such cases out, and
    those without a prediction. The last row of a method is the mean over its classes.
    """
    head = ["Class", "Method", "DSC (%)"]
    head += [f"NSD at {tolerance:g} mm (%)" for tolerance in results[0].tolerances_mm]
    head += ["Cases with it", "Dice as in summary.json (%)"]
    rows = []
    for result in results:
        columns = [[case.classes[at] for case in result.scored] for at in range(len(result.labels))]
        overlaps = [_overlaps(result, at) for at in range(len(result.labels))]
        for label, scores, found in zip(result.labels, columns, overlaps, strict=True):
            shares = [[score.dsc for score in scores], *_by_tolerance(result, scores)]
            cells = [*map(mean_and_deviation, shares), str(len(found)), _mean(found)]
            rows.append([label.name, result.method, *cells])
        every = [score for scores in columns for score in scores]
        shares = [[score.dsc for score in every], *_by_tolerance(result, every)]
        mean = _mean([fmean(found) for found in overlaps]) if all(overlaps) else "-"
        rows.append(["Mean of all", result.method, *map(_mean, shares), "", mean])
    return head, rows


def _overlaps(result: Accuracy, at: int) -> list[float]:
    """Return nnU-Net's Dice of a class in the cases that have it and a prediction."""
    overlaps = (case.classes[at].overlap for case in result.cases if case.status == "scored")
    return [overlap for overlap in overlaps if not isnan(overlap)]


def _by_tolerance(result: Accuracy, scores: Sequence[ClassAccuracy]) -> list[list[float]]:
    return [[score.nsd[f"{tolerance:g}"] for score in scores] for tolerance in result.tolerances_mm]


def _mean(shares: Sequence[float]) -> str:
    return f"{100 * fmean(shares):.2f}" if shares else "-"


def source_table(result: Accuracy) -> Content:
    """Return DSC, NSD and detection by collection."""
    tolerance = f"{result.tolerances_mm[0]:g}"
    rows = []
    for source in sorted({case.source for case in result.scored}):
        cases = [case for case in result.scored if case.source == source]
        lesions = [lesion for case in cases for lesion in case.lesions]
        rows.append(
            [
                source,
                str(len(cases)),
                mean_and_deviation(_dscs(cases)),
                mean_and_deviation([case.nsd[tolerance] for case in cases]),
                found_of(lesions),
                f"{fmean(case.false_positives for case in cases):.2f}",
            ]
        )
    head = ["Source", "Cases", "DSC (%)", f"NSD at {tolerance} mm (%)", "Lesions found", "False positives a case"]
    return head, rows


def volume_table(result: Accuracy) -> Content:
    """Return detection by the lesions' volumes."""
    lesions = [lesion for case in result.scored for lesion in case.lesions]
    rows = []
    for low, high in VOLUME_CLASSES_ML:
        inside = [lesion for lesion in lesions if low <= lesion.volume_ml < high]
        name = f"{low:g} to {high:g} ml" if high < float("inf") else f"{low:g} ml and more"
        rows.append([name, found_of(inside), mean_and_deviation([lesion.dice for lesion in inside])])
    return ["Lesion volume", "Lesions found", "Dice of a lesion (%)"], rows


def found_of(lesions: Sequence[LesionFinding]) -> str:
    """Return "found of all" lesions."""
    return f"{sum(lesion.found for lesion in lesions)} of {len(lesions)}"


def _dscs(cases: Sequence[CaseAccuracy]) -> list[float]:
    return [case.dsc for case in cases if case.dsc is not None]
