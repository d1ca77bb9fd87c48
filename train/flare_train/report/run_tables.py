"""The paper's Tables 1 and 2 and the stretches of a training run, filled from its record, plans and curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flare_eval.report.tables import Content, mean_and_deviation
from flare_train.planning.network_size import network_size
from flare_train.planning.recipe import Recipe
from flare_train.training.record import RunRecord, Session
from flare_train.training.schedule import POLY_EXPONENT, learning_rate

NOT_MEASURED = "not measured (flare-train run --country)"
_UNKNOWN = "unknown"
_PAPER_MACHINE = {
    "Trained on it": "epochs 1 to 5000",
    "System": "Ubuntu 20.04.6 LTS",
    "CPU": "2x AMD EPYC 7542 32-Core Processor",
    "RAM": "512GB",
    "GPU (number and type)": "8x NVIDIA GeForce RTX 4090",
    "CUDA version": "12.6",
    "Programming language": "Python 3.10",
    "Deep learning framework": "PyTorch 2.7.1",
    "Specific dependencies": "nnU-Net 2.6.2",
}
# Its Table 2, and from its text and published plans what that leaves out.
_PAPER_PROTOCOL = {
    "Network initialization": "He",
    "Training cases": "5248",
    "Batch size": "2",
    "Patch size (z, y, x)": "128 x 160 x 160",
    "Spacing (z, y, x)": "2.4 x 1.6 x 1.6 mm",
    "Patch sampling": "nnU-Net's",
    "Total epochs": "5000",
    "Iterations an epoch": "250",
    "Optimizer": "SGD (momentum 0.99, Nesterov, weight decay 3e-05)",
    "Initial learning rate (lr)": "0.001",
    "Lr decay schedule": "poly, exponent 0.9",
    "Loss function": "Dice plus CE, deep supervision",
    "Training time": "62 hours",
    "Number of model parameters": "31,195,594",
    "The same with the encoder counted twice": "45.2M",
    "Number of MACs, one patch": "745.7G",
    "Number of FLOPs as the paper counts": "1665.8G",
    "CO2 eq": "34.14 kg",
}


def environments(record: RunRecord) -> Content:
    """Return the paper's Table 1 with a column for every machine that trained."""
    sessions: dict[tuple[tuple[str, str], ...], list[Session]] = {}
    for session in record.sessions:
        sessions.setdefault(tuple(sorted(session.machine.items())), []).append(session)
    columns = [_environment(group) for group in sessions.values()]
    names = ["This run"] if len(columns) == 1 else [f"Machine {number}" for number in range(1, len(columns) + 1)]
    rows = [[name, *(column[name] for column in columns), paper] for name, paper in _PAPER_MACHINE.items()]
    return ["", *names, "The paper"], rows


def _environment(sessions: Sequence[Session]) -> dict[str, str]:
    machine = sessions[0].machine

    def of(key: str) -> str:
        return machine.get(key, _UNKNOWN)

    return {
        "Trained on it": f"epochs {_epochs(sessions)}",
        "System": of("system"),
        "CPU": f"{of('processor')}, {of('cores')} cores",
        "RAM": of("memory"),
        "GPU (number and type)": "none" if of("gpus") == "0" else f"{of('gpus')}x {of('gpu')}",
        "CUDA version": of("cuda"),
        "Programming language": f"Python {of('python')}",
        "Deep learning framework": f"PyTorch {of('torch')}",
        "Specific dependencies": f"nnU-Net {of('nnunetv2')}",
    }


def _epochs(sessions: Sequence[Session]) -> str:
    """Return the epochs of sessions as "1 to 7, 9"."""
    spans: list[list[int]] = []
    for first, last in sorted((session.first_epoch, session.last_epoch) for session in sessions):
        if spans and first <= spans[-1][1] + 1:
            spans[-1][1] = max(spans[-1][1], last)
        else:
            spans.append([first, last])
    return ", ".join(_span(first, last) for first, last in spans)


def _span(first: int, last: int) -> str:
    return f"{first} to {last}" if first < last else str(first)


def protocols(record: RunRecord, configuration: Mapping[str, Any], epochs: int, seconds: float) -> Content:
    """Return the paper's Table 2 with the paper's own values beside.

    Args:
        record: of the run.
        configuration: of its plans.
        epochs: trained.
        seconds: that they took.
    """
    recipe, size = record.recipe, network_size(configuration)
    ours = {
        "Network initialization": _initialization(record),
        "Training cases": str(record.training_cases),
        "Batch size": str(configuration["batch_size"]),
        "Patch size (z, y, x)": _sides(configuration["patch_size"]),
        "Spacing (z, y, x)": f"{_sides(configuration['spacing'])} mm",
        "Patch sampling": "every lesion as often" if recipe.small_lesions else "nnU-Net's",
        "Total epochs": str(epochs),
        "Iterations an epoch": str(recipe.iterations),
        "Optimizer": _optimizer(recipe),
        "Initial learning rate (lr)": f"{recipe.learning_rate:g}",
        "Lr decay schedule": f"poly, exponent {POLY_EXPONENT:g}",
        "Loss function": "Dice plus CE, deep supervision",
        "Training time": duration(seconds),
        "Number of model parameters": f"{size.parameters:,}",
        "The same with the encoder counted twice": f"{size.tool_parameters / 1e6:.1f}M",
        "Number of MACs, one patch": f"{size.gmac:.1f}G",
        "Number of FLOPs as the paper counts": f"{size.tool_gmac:.1f}G",
        "CO2 eq": _measured([(session, session.co2_kg) for session in record.sessions], "kg", epochs),
        "Energy": _measured([(session, session.energy_kwh) for session in record.sessions], "kWh", epochs),
    }
    rows = [[name, value, _PAPER_PROTOCOL.get(name, "-")] for name, value in ours.items()]
    return ["", "This run", "The paper"], rows


def protocol_notes(record: RunRecord) -> list[str]:
    """Return what Table 2 has no room for."""
    schedule, notes = record.schedule, []
    if record.initial_weights:
        notes.append(f"Initial weights: {record.initial_weights}.")
    if schedule.first < schedule.last:
        longer = schedule.end_after(schedule.first)
        notes.append(
            "At an extension the poly curve is stretched to the new end, as nnU-Net does where a training is continued "
            "with more epochs: the learning rate has all but vanished when a stretch ends, and the extension starts "
            f"where the longer curve lies, from {schedule.first} to {longer} epochs at "
            f"{100 * learning_rate(1, schedule.first, longer):.0f} % of the initial rate."
        )
    notes.append(
        "Training time is the sum of the durations of the epochs that the network is made of; full-volume validation "
        "and what a kill lost are not in it. CO2 and energy are codecarbon's, of the whole machine."
    )
    notes.append(
        "The paper's parameters and FLOPs come from a tool that counts the encoder again inside the decoder and, for a "
        "whole batch, each multiply-accumulate (MAC) once, transposed convolutions at their output's size. Both ways "
        "of counting are given. The paper describes four stages, but the plan it published trains six, and its figures "
        "are of those. What its Table 2 does not say is from its text and that plan."
    )
    return notes


def _initialization(record: RunRecord) -> str:
    weights = record.initial_weights
    return f"from {Path(weights).name}" if weights else f"He (random, seed {record.recipe.seed})"


def _sides(values: Sequence[float]) -> str:
    return " x ".join(f"{value:g}" for value in values)


def _optimizer(recipe: Recipe) -> str:
    decay = f"weight decay {recipe.weight_decay:g}"
    return f"SGD (momentum 0.99, Nesterov, {decay})" if recipe.optimizer == "sgd" else f"AdamW ({decay})"


def _measured(values: Sequence[tuple[Session, float | None]], unit: str, epochs: int) -> str:
    """Return the sum over sessions, and which epochs it is of where it is not of all."""
    known = [(session, value) for session, value in values if value is not None]
    if not known:
        return NOT_MEASURED
    covered = _epochs([session for session, _ in known])
    part = "" if covered == _span(1, epochs) else f" (epochs {covered}; the others were not measured)"
    return f"{sum(value for _, value in known):.4g} {unit}{part}"


def duration(seconds: float) -> str:
    """Return a duration in the largest unit of which it is at least two."""
    for unit, length in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} seconds"


def stretches(record: RunRecord, tolerance: str) -> Content:
    """Return the validations at the ends of the stretches, the best one marked.

    Args:
        record: of the run.
        tolerance: of the surface Dice, mm, as its scores are named.
    """
    rows = []
    for number, validation in enumerate(record.validations):
        scored = [case for case in validation.cases if case.dsc is not None]
        rows.append(
            [
                f"Extension {number}" if number else "First stretch",
                str(validation.epochs),
                f"{validation.learning_rate:.2e}",
                mean_and_deviation([case.dsc or 0.0 for case in scored]),
                mean_and_deviation([case.nsd[tolerance] for case in scored]),
                str(len(scored)),
                "best" if validation is record.best else "",
            ]
        )
    head = ["", "Epochs", "Lr at the end", "DSC (%)", f"NSD at {tolerance} mm (%)", "Cases", "Best"]
    return head, rows
