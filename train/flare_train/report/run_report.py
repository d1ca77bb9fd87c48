"""`flare-train report`: a training run as one Markdown and one self-contained HTML file, with the paper's tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from flare_eval.accuracy.rules import TOLERANCE_MM
from flare_eval.report.blocks import Block, Charts, Facts, Section, Table, Text, slug
from flare_eval.report.case_table import Method, case_table
from flare_eval.report.charts import Chart, line_chart
from flare_eval.report.documents import check_report, write_sections
from flare_eval.results import Accuracy
from flare_export.source.json_file import read_json
from flare_export.source.plans import resolve_configuration
from flare_runtime.errors import UsageError
from flare_train.planning.preprocessing import planned
from flare_train.report.run_tables import environments, protocol_notes, protocols, stretches
from flare_train.training.checkpoint import FINAL, LATEST, newest_checkpoint, training_log
from flare_train.training.record import FILE, RunRecord
from flare_train.training.run import ALL

_TOLERANCE = f"{TOLERANCE_MM:g}"
_NO_VALIDATION = "No stretch has been validated yet."


@dataclass(frozen=True)
class TrainedRun:
    """What is known of a training run.

    Attributes:
        record: as `flare-train run` wrote it.
        configuration: of its plans.
        epochs: trained.
        logging: nnU-Net's own, a number per epoch by name.
    """

    record: RunRecord
    configuration: Mapping[str, Any]
    epochs: int
    logging: Mapping[str, Sequence[float]]

    @classmethod
    def load(cls, folder: Path) -> TrainedRun:
        """Read a fold's folder.

        Raises:
            UsageError: where there is no record or no checkpoint.
            ModelError: where the checkpoint, or the plans beside it, cannot be used.
        """
        record = RunRecord.load(folder)
        if record is None:
            raise UsageError(f"{folder}: holds no {FILE}; give a fold's folder that `flare-train run` trained in")
        if any(_TOLERANCE not in case.nsd for one in record.validations for case in one.cases if case.dsc is not None):
            raise UsageError(f"{folder / FILE}: a case lacks its NSD at {_TOLERANCE} mm")
        checkpoint, epochs = newest_checkpoint(folder)
        if checkpoint is None:
            raise UsageError(f"{folder}: holds no {LATEST} and no {FINAL}; let `flare-train run` finish an epoch first")
        plans = read_json(folder.parent / "plans.json")
        planned(plans)
        configuration = resolve_configuration(plans, record.configuration)
        return cls(record, configuration, epochs, training_log(checkpoint))

    @property
    def seconds(self) -> float:
        """What the epochs took together, whatever was lost between them."""
        starts, ends = self.logging["epoch_start_timestamps"], self.logging["epoch_end_timestamps"]
        return float(sum(end - start for start, end in zip(starts, ends, strict=False)))

    @property
    def ends(self) -> list[int]:
        """The epochs after which a stretch has ended."""
        return [epoch for epoch in range(1, self.epochs + 1) if self.record.schedule.is_end(epoch)]

    def curve(self, name: str) -> list[tuple[float, float]]:
        """Return epochs, counted from 1, and what was logged of them."""
        return [(epoch, float(value)) for epoch, value in enumerate(self.logging[name], 1)]


def find_fold(folder: Path) -> Path:
    """Return the folder of a trained fold: the given one, or the only one in the given model's folder.

    Raises:
        UsageError: where there is none, or more than one.
    """
    if (folder / FILE).is_file():
        return folder
    folds = sorted(path.parent for path in folder.glob(f"fold_*/{FILE}"))
    if not folds:
        raise UsageError(
            f"{folder}: neither it nor a fold_* in it holds {FILE}; give a folder that `flare-train run` trained in"
        )
    if len(folds) > 1:
        names = ", ".join(path.name for path in folds)
        raise UsageError(f"{folder}: holds {len(folds)} trained folds, {names}; give the folder of one")
    return folds[0]


def write_run_report(fold_folder: Path, output: Path) -> list[Path]:
    """Write report.md, report.html and charts/*.svg of a training run into `output`; return the files.

    The HTML holds its charts and needs none of the other files. The run may still be going on.

    Args:
        fold_folder: nnU-Net's folder of the fold, in the model's folder with plans.json.
        output: the folder.

    Raises:
        UsageError: where there is no record or no checkpoint.
        ModelError: where the plans cannot be used.
        OutputError: where a file cannot be written.
    """
    run = TrainedRun.load(fold_folder)
    check_report(output)
    record = run.record
    title = f"Training of {record.plans} on {record.dataset}, fold {record.fold}"
    sections = [
        Section("The run", [Facts(list(_facts(run)))]),
        Section("Environment", _environment(record)),
        Section("Training protocol", _protocol(run)),
        Section("Stretches", _stretches(record)),
        Section("Curves", list(_curves(run))),
        Section("Validation cases", _cases(record)),
    ]
    return write_sections(title, sections, output)


def _facts(run: TrainedRun) -> Iterator[tuple[str, str]]:
    record = run.record
    yield "Data set", f"{record.dataset}, fold {record.fold}: {record.training_cases} training cases"
    yield "Plans", f"{record.plans}, configuration {record.configuration}"
    yield "State", _state(run)
    if record.best:
        best = record.best
        scores = f"DSC {100 * best.dsc:.2f} %, NSD at {_TOLERANCE} mm {100 * best.nsd:.2f} %"
        yield "Best network", f"checkpoint_epoch_{best.epochs}.pth: {scores}, {len(best.cases)} cases"
    yield "Report written", f"{datetime.now().astimezone():%Y-%m-%d}"


def _state(run: TrainedRun) -> str:
    schedule = run.record.schedule
    if run.epochs >= schedule.last:
        return f"ended after {run.epochs} epochs, the most that the schedule allows"
    if schedule.is_over(run.epochs, [validation.dsc for validation in run.record.validations]):
        return f"ended after {run.epochs} epochs: patience {schedule.patience}, and validation got no better"
    return f"not ended: {run.epochs} epochs, of a stretch that ends after {schedule.end_after(run.epochs)}"


def _environment(record: RunRecord) -> list[Block]:
    if not record.sessions:
        return [Text("No session has been recorded yet.")]
    return [Table("Table 1: development environments and requirements", *environments(record))]


def _protocol(run: TrainedRun) -> list[Block]:
    content = protocols(run.record, run.configuration, run.epochs, run.seconds)
    return [Table("Table 2: training protocols", *content), *map(Text, protocol_notes(run.record))]


def _stretches(record: RunRecord) -> list[Block]:
    schedule = record.schedule
    text = (
        f"The schedule: {schedule.first} epochs, then {schedule.extension} more at a time to at most {schedule.last}, "
        f"for as long as full-volume validation improves (patience {schedule.patience})."
    )
    if not record.validations:
        return [Text(text), Text(_NO_VALIDATION)]
    caption = "Full-volume validation after every stretch, mean ± standard deviation over the cases"
    return [Text(text), Table(caption, *stretches(record, _TOLERANCE))]


def _curves(run: TrainedRun) -> Iterator[Block]:
    validations, marks = run.record.validations, run.ends

    def over_epochs(title: str, names: Mapping[str, str]) -> tuple[str, Chart]:
        lines = {said: run.curve(name) for said, name in names.items()}
        return f"charts/{slug(title.lower())}.svg", line_chart(title, "epoch", lines, marks)

    charts = [
        over_epochs("Loss", {"training": "train_losses", "validation": "val_losses"}),
        over_epochs("Pseudo Dice", {"each epoch": "mean_fg_dice", "moving average": "ema_fg_dice"}),
        over_epochs("Learning rate", {"at the start of the epoch": "lrs"}),
    ]
    if validations:
        lines = {
            "DSC": [(validation.epochs, validation.dsc) for validation in validations],
            f"NSD at {_TOLERANCE} mm": [(validation.epochs, validation.nsd) for validation in validations],
        }
        charts.append(("charts/validation.svg", line_chart("Full-volume validation", "epoch", lines, marks)))
    yield Charts("nnU-Net's log over the epochs; dotted: ends of stretches", charts)
    where = "the training cases themselves" if run.record.fold == ALL else "the fold's validation cases"
    yield Text(f"Pseudo Dice and validation loss are nnU-Net's, over random patches of {where}.")


def _cases(record: RunRecord) -> list[Block]:
    best = record.best
    if best is None:
        return [Text(_NO_VALIDATION)]
    name = f"after {best.epochs} epochs"
    accuracy = Accuracy(method=name, tolerances_mm=[TOLERANCE_MM], official=False, cases=best.cases)
    return [replace(case_table([Method(name, accuracy, None)]), caption=f"The best validation, {name}")]
