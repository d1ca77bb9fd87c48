"""The table of classes: the means of DSC and NSD of every class, as the challenge and as nnU-Net take them."""

from collections.abc import Sequence
from math import isnan
from statistics import fmean

from flare_eval.report.tables import Content, mean_and_deviation
from flare_eval.results import Accuracy, ClassAccuracy

CLASS_MEANS = (
    "DSC and NSD are means over all cases: 1 where a class is in neither mask, 0 where the prediction is missing. The "
    "Dice of nnU-Net's summary.json is the mean over the cases that have the class, in either mask, and a prediction."
)


def class_table(results: Sequence[Accuracy]) -> Content:
    """Return per method and class the means that the challenge and that nnU-Net's summary.json give.

    The last row of a method is the mean over its classes; see `CLASS_MEANS`.
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
