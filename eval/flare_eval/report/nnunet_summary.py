"""nnU-Net's summary.json: what `nnUNetv2_evaluate_folder` writes, from the counts of every class."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flare_eval.results import Accuracy, ClassAccuracy
from flare_runtime.files.output import replacing

# A measure by its name in summary.json.
Measures = dict[str, float]


def write_summary(result: Accuracy, target: Path) -> None:
    """Write the summary of a method's cases that have a prediction that could be read.

    Raises:
        OutputError: where it cannot be written.
    """
    keys = [label.key for label in result.labels]
    cases = [case for case in result.cases if case.status == "scored"]
    metrics = [{key: _measures(score) for key, score in zip(keys, case.classes, strict=True)} for case in cases]
    mean = {key: _nan_mean([of_case[key] for of_case in metrics]) for key in keys}
    summary = {
        "foreground_mean": {name: float(np.mean([mean[key][name] for key in keys])) for name in mean[keys[0]]},
        "mean": mean,
        "metric_per_case": [
            {"metrics": of_case, "prediction_file": case.prediction, "reference_file": case.reference}
            for case, of_case in zip(cases, metrics, strict=True)
        ],
    }
    with replacing(target) as file:
        file.write(json.dumps(summary, sort_keys=True, indent=4).encode())


def _measures(score: ClassAccuracy) -> Measures:
    tp, fp, fn = score.tp, score.fp, score.fn
    overlap = tp / (tp + fp + fn) if tp + fp + fn else float("nan")
    counts = {"FN": fn, "FP": fp, "TN": score.tn, "TP": tp, "n_pred": tp + fp, "n_ref": tp + fn}
    return {"Dice": score.overlap, "IoU": overlap, **counts}


def _nan_mean(measures: Sequence[Measures]) -> Measures:
    """Return the means over the cases, each without those that have no such number."""
    means = {}
    for name in ("Dice", "IoU", "FN", "FP", "TN", "TP", "n_pred", "n_ref"):
        numbers = [of_case[name] for of_case in measures if not np.isnan(of_case[name])]
        means[name] = float(np.mean(numbers)) if numbers else float("nan")
    return means
