"""A training run: stretches of epochs with nnU-Net, a validation after each, and all of it resumable."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from flare_export.source.checkpoint import load_checkpoint, read_checkpoint
from flare_runtime.errors import DeviceError, UsageError
from flare_runtime.files.output import check_folder
from flare_runtime.files.target import check_targets
from flare_train.data.cases import TrainingCase, find_cases
from flare_train.data.selection import original_labels
from flare_train.data.split import read_split, stems_of
from flare_train.planning.plan import CONFIGURATION
from flare_train.planning.preprocessing import check_preprocessed, digest, planned, preprocess, read_plans
from flare_train.processes import only_process
from flare_train.training.checkpoint import FINAL, LATEST, newest_checkpoint, save, trained_epochs, training_log
from flare_train.training.emissions import check_country
from flare_train.training.record import FILE, RunRecord, Validation
from flare_train.training.run import ALL, Run
from flare_train.training.stretch import Report, train_stretch
from flare_train.training.validation import check_cases, means, validate

# nnU-Net's own class: whoever gets the validated checkpoints predicts with them without this package.
_STOCK_TRAINER = "nnUNetTrainer"
_LOCK = ".lock"


def train(run: Run, report: Report, workers: int = 1) -> RunRecord:
    """Train until the schedule is over, from wherever an earlier run of the same kind got to; return the record.

    After every stretch the network is validated on whole volumes and kept as `checkpoint_epoch_N.pth`, which any
    nnU-Net predicts with.

    Args:
        run: what to train.
        report: takes lines for the user; has to be picklable for several GPUs.
        workers: processes for what comes before the training.

    Raises:
        UsageError: where the run was begun otherwise, another process is at it, or its cases cannot be validated on.
        ModelError: where the plans, a checkpoint or the preprocessed data must not be used.
        DeviceError: where there are not as many GPUs.
        TrainingError: where the network holds no numbers any more.
        OutputError: where something cannot be written.
    """
    if run.gpus > torch.cuda.device_count():
        raise DeviceError(f"{run.gpus} GPUs were asked for and {torch.cuda.device_count()} are there")
    if run.initial_weights is not None:
        if not run.initial_weights.is_file():
            raise UsageError(f"{run.initial_weights}: there is no such checkpoint to begin with")
        load_checkpoint(run.initial_weights, run.fold)
    plans = read_plans(run.dataset, run.plans)
    batch = planned(plans)["batch_size"]
    if run.gpus > batch:
        raise UsageError(f"{run.gpus} GPUs share a batch of {batch}; plan with a larger --batch-size")
    if run.country:
        check_country(run.country)
    cases = validation_cases(run, workers)
    if not cases:
        report("no cases to validate on: the schedule goes to its end (name a data set with --validation)")
    check_targets(run.folder / name for name in (FILE, _LOCK))
    check_folder(run.folder)
    with only_process(run.folder / _LOCK, f"{run.folder}: another process is training there; wait, or stop it"):
        record = _open_record(run, plans, cases)
        preprocess(run.dataset, run.plans, workers)
        check_preprocessed(run.dataset, plans)
        return _train(run, record, cases, report)


def _train(run: Run, record: RunRecord, cases: Sequence[TrainingCase], report: Report) -> RunRecord:
    while True:
        done = _settled_epochs(run)
        final = run.folder / FINAL
        if final.is_file() and trained_epochs(final) == done:
            name = _release(run, done)
            if cases and done not in [validation.epochs for validation in record.validations]:
                record.validations.append(_validated(run, name, done, cases))
                record.save(run.folder)
                report(_line(record.validations[-1]))
        if run.schedule.is_over(done, [validation.dsc for validation in record.validations]):
            return record
        train_stretch(run, run.schedule.end_after(done), report)
        record = RunRecord.load(run.folder) or record


def validation_cases(run: Run, workers: int = 1) -> list[TrainingCase]:
    """Return the cases to validate on: those of `run.validation`, else the fold's; none for fold `all`.

    Raises:
        UsageError: where the fold is not in the split, or a case cannot be validated on.
    """
    if run.validation is not None:
        cases = [case for case in find_cases(run.validation) if case.label is not None]
        if not cases:
            raise UsageError(f"{run.validation}: holds no label; give a FLARE-style data set of images and labels")
        check_cases(cases, workers)
        return cases
    if run.fold == ALL:
        return []
    chosen = read_split(run.dataset, int(run.fold))["val"]
    originals = original_labels(run.dataset.raw)  # what nnU-Net is told to ignore counts in no score
    of_fold = [case for case in find_cases(run.dataset.raw) if case.stem in chosen]
    return [replace(case, label=originals.get(case.stem, case.label)) for case in of_fold]


def _open_record(run: Run, plans: Mapping[str, Any], cases: Sequence[TrainingCase]) -> RunRecord:
    """Return the record of the run, a new one where none was begun.

    Raises:
        UsageError: where it was begun otherwise.
    """
    stems = stems_of(run.dataset) if run.fold == ALL else read_split(run.dataset, int(run.fold))["train"]
    record = RunRecord(
        dataset=run.dataset.name,
        plans=run.plans,
        plans_sha256=digest(planned(plans), plans),
        configuration=CONFIGURATION,
        fold=run.fold,
        training_cases=len(stems),
        validation_cases=[case.stem for case in cases],
        recipe=run.recipe,
        schedule=run.schedule,
        initial_weights=str(run.initial_weights.resolve()) if run.initial_weights else "",
        gpus=run.gpus,
    )
    earlier = RunRecord.load(run.folder)
    if earlier is not None:
        if other := earlier.differences(record):
            shown = "; ".join(f"{name} was {was}, is {now}" for name, (was, now) in other.items())
            raise UsageError(f"{run.folder}: was begun otherwise: {shown}; repeat that, or remove the folder")
        record.sessions, record.validations = earlier.sessions, earlier.validations
    record.save(run.folder)
    return record


def _settled_epochs(run: Run) -> int:
    """Return the epochs trained; a stretch whose end nnU-Net was kept from noting is ended."""
    path, done = newest_checkpoint(run.folder)
    if path is not None and path.name == LATEST and run.schedule.is_end(done):
        path.replace(run.folder / FINAL)
    return done


def _release(run: Run, epochs: int) -> str:
    """Keep the network of a finished stretch under a name of its own, without the optimiser, and return that name."""
    name = f"checkpoint_epoch_{epochs}.pth"
    target = run.folder / name
    if not target.is_file():
        content = read_checkpoint(run.folder / FINAL)
        content |= {"optimizer_state": None, "grad_scaler_state": None, "trainer_name": _STOCK_TRAINER}
        save(content, target)
    return name


def _validated(run: Run, name: str, epochs: int, cases: Sequence[TrainingCase]) -> Validation:
    output = run.folder / f"validation_epoch_{epochs}"
    shutil.rmtree(output, ignore_errors=True)
    scores = validate(run.model_folder, run.fold, name, cases, output, run.device)
    dsc, nsd = means(scores)
    rate = float(training_log(run.folder / name)["lrs"][-1])
    return Validation(epochs=epochs, learning_rate=rate, dsc=dsc, nsd=nsd, cases=scores)


def _line(validation: Validation) -> str:
    scores = f"DSC {validation.dsc:.4f}, NSD {validation.nsd:.4f}"
    return f"validation after {validation.epochs} epochs: {scores} ({len(validation.cases)} cases)"
