"""Tables of accuracy: over all cases, by source and by volume of the lesions; and tables as Markdown."""

from collections.abc import Iterable, Sequence
from statistics import fmean, stdev
from typing import TypeAlias

from flare_eval.results import Accuracy, CaseAccuracy, LesionFinding

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
    """Return per method the mean and standard deviation of DSC and of NSD at each tolerance."""
    tolerances = results[0].tolerances_mm
    head = ["Method", "Cases", "DSC (%)", *(f"NSD at {tolerance:g} mm (%)" for tolerance in tolerances)]
    rows = []
    for result in results:
        scored = result.scored
        surfaces = [mean_and_deviation([case.nsd[f"{tolerance:g}"] for case in scored]) for tolerance in tolerances]
        rows.append([result.method, str(len(scored)), mean_and_deviation(_dscs(scored)), *surfaces])
    return head, rows


def source_table(result: Accuracy) -> Content:
    """Return DSC, NSD and, of lesions, detection by collection."""
    tolerance = f"{result.tolerances_mm[0]:g}"
    rows = []
    for source in sorted({case.source for case in result.scored}):
        cases = [case for case in result.scored if case.source == source]
        lesions = [lesion for case in cases for lesion in case.lesions]
        shares = [_dscs(cases), [case.nsd[tolerance] for case in cases]]
        row = [source, str(len(cases)), *map(mean_and_deviation, shares)]
        if not result.labels:
            row += [found_of(lesions), f"{fmean(case.false_positives for case in cases):.2f}"]
        rows.append(row)
    head = ["Source", "Cases", "DSC (%)", f"NSD at {tolerance} mm (%)"]
    return head if result.labels else [*head, "Lesions found", "False positives a case"], rows


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
