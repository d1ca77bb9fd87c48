"""A training run: stretches of epochs with nnU-Net, a validation after each, and all of it resumable."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import torch

from flare_runtime.errors import DeviceError, UsageError
from flare_runtime.output import replacing
from flare_train.cases import SUFFIX, TrainingCase, find_cases
from flare_train.nnunet_folders import SPLITS
from flare_train.plan import CONFIGURATION
from flare_train.run import ALL, Run
from flare_train.run_record import RunRecord, Validation
from flare_train.schedule import learning_rate
from flare_train.selection import original_labels
from flare_train.stretch import train_stretch
from flare_train.trainer import FINAL, LATEST, newest_checkpoint, trained_epochs
from flare_train.validation import check_cases, means, validate

# nnU-Net's own class: whoever gets the validated checkpoints predicts with them without this package.
_STOCK_TRAINER = "nnUNetTrainer"
# What may differ between a run's beginning and its continuation.
_MAY_CHANGE = {"schedule", "gpus", "sessions", "validations"}


def train(run: Run, tell: Callable[[str], None] = print) -> RunRecord:
    """Train until the schedule is over, from wherever an earlier run of the same kind got to; return the record.

    After every stretch the network is validated on whole volumes and kept as `checkpoint_epoch_N.pth`, which any
    nnU-Net predicts with.

    Args:
        run: what to train.
        tell: takes lines for the user; has to be picklable for several GPUs.

    Raises:
        UsageError: where the run was begun with another recipe, another process is at it, or its cases cannot be
            validated on.
        DeviceError: where there are not as many GPUs.
    """
    if run.gpus > torch.cuda.device_count():
        raise DeviceError(f"{run.gpus} GPUs were asked for and {torch.cuda.device_count()} are there")
    cases = validation_cases(run)
    if not cases:
        tell("no cases to validate on: the schedule goes to its end (name a data set with --validation)")
    run.folder.mkdir(parents=True, exist_ok=True)
    with _alone(run.folder):
        return _train(run, cases, tell)


def _train(run: Run, cases: Sequence[TrainingCase], tell: Callable[[str], None]) -> RunRecord:
    record = _record(run)
    while True:
        done = _settled_epochs(run)
        final = run.folder / FINAL
        if final.is_file() and trained_epochs(final) == done:
            name = _release(run, done)
            if cases and done not in [validation.epochs for validation in record.validations]:
                record.validations.append(_validated(run, name, done, cases))
                record.save(run.folder)
                tell(_line(record.validations[-1]))
        if run.schedule.is_over(done, [validation.dsc for validation in record.validations]):
            return record
        train_stretch(run, run.schedule.end_after(done), tell)
        record = RunRecord.load(run.folder) or record


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a lock on a fold's folder, which goes with the process however it ends."""
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(f"{folder}: another process is training there; wait for it, or stop it") from error
        yield


def validation_cases(run: Run) -> list[TrainingCase]:
    """Return the cases to validate on: those of `run.validation`, else the fold's; none for fold `all`.

    Raises:
        UsageError: where the fold is not in the split, or a case lacks its image or label.
    """
    if run.validation is not None:
        cases = [case for case in find_cases(run.validation) if case.label is not None]
        check_cases(cases, str(run.validation))
        if not cases:
            raise UsageError(f"{run.validation}: holds no label; give a FLARE-style data set of images and labels")
        return cases
    if run.fold == ALL:
        return []
    chosen = _split(run)["val"]
    originals = original_labels(run.dataset.raw)  # what nnU-Net is told to ignore counts in no score
    found = [case for case in find_cases(run.dataset.raw) if case.stem in chosen]
    cases = [replace(case, label=originals.get(case.stem, case.label)) for case in found]
    check_cases(cases, str(run.dataset.raw))
    return cases


def _split(run: Run) -> dict[str, list[str]]:
    """Return the stems of a numbered fold, `train` and `val`; nnU-Net's own split is made if there is none."""
    file = run.dataset.preprocessed / SPLITS
    if not file.is_file():
        from nnunetv2.utilities.crossval_split import generate_crossval_split

        stems = sorted(path.name.removesuffix(SUFFIX) for path in (run.dataset.raw / "labelsTr").glob(f"*{SUFFIX}"))
        if len(stems) < 5:
            raise UsageError(f"{run.dataset.name}: {len(stems)} cases make no five folds; choose --fold all")
        with replacing(file) as target:
            target.write(json.dumps(generate_crossval_split(stems), indent=2).encode())
    splits: list[dict[str, list[str]]] = json.loads(file.read_text(encoding="utf-8"))
    if int(run.fold) >= len(splits):
        raise UsageError(f"fold {run.fold}: {file} has {len(splits)}, counted from 0")
    return splits[int(run.fold)]


def _record(run: Run) -> RunRecord:
    """Return the record of the run, a new one where none was begun."""
    stems = list((run.dataset.raw / "labelsTr").glob(f"*{SUFFIX}")) if run.fold == ALL else _split(run)["train"]
    fresh = RunRecord(
        dataset=run.dataset.name,
        plans=run.plans,
        configuration=CONFIGURATION,
        fold=run.fold,
        training_cases=len(stems),
        recipe=run.recipe,
        schedule=run.schedule,
        initial_weights=str(run.initial_weights.resolve()) if run.initial_weights else "",
        gpus=run.gpus,
    )
    begun = RunRecord.load(run.folder)
    if begun is not None:
        ours, theirs = (msgspec.to_builtins(record) for record in (fresh, begun))
        other = [key for key in ours if key not in _MAY_CHANGE and ours[key] != theirs[key]]
        if other:
            shown = "; ".join(f"{key} was {theirs[key]}, is {ours[key]}" for key in other)
            raise UsageError(f"{run.folder}: was begun otherwise: {shown}; repeat that, or remove the folder")
        fresh.sessions, fresh.validations = begun.sessions, begun.validations
    fresh.save(run.folder)
    return fresh


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
        content = torch.load(run.folder / FINAL, map_location="cpu", weights_only=False)
        content |= {"optimizer_state": None, "grad_scaler_state": None, "trainer_name": _STOCK_TRAINER}
        with replacing(target) as file:
            torch.save(content, file)
    return name


def _validated(run: Run, name: str, epochs: int, cases: Sequence[TrainingCase]) -> Validation:
    output = run.folder / f"validation_epoch_{epochs}"
    shutil.rmtree(output, ignore_errors=True)
    scores = validate(run.model_folder, run.fold, name, cases, output, run.device)
    dsc, nsd = means(scores)
    rate = learning_rate(run.recipe.learning_rate, epochs - 1, epochs)
    return Validation(epochs=epochs, learning_rate=rate, dsc=dsc, nsd=nsd, cases=scores)


def _line(validation: Validation) -> str:
    scores = f"DSC {validation.dsc:.4f}, NSD {validation.nsd:.4f}"
    return f"validation after {validation.epochs} epochs: {scores} ({len(validation.cases)} cases)"
