"""One stretch of epochs: nnU-Net's training loop on a CPU, a GPU or several, from the newest checkpoint to an epoch."""

from __future__ import annotations

import platform
from collections.abc import Callable
from datetime import datetime
from importlib.metadata import version
from typing import Any

import torch

from flare_eval.efficiency.costs import machine
from flare_eval.efficiency.gpu import GpuMeter
from flare_export.source.checkpoint import load_checkpoint
from flare_export.source.json_file import read_json
from flare_runtime.errors import FlareError
from flare_train.planning.plan import CONFIGURATION
from flare_train.processes import end_children_with_me
from flare_train.training.checkpoint import newest_checkpoint
from flare_train.training.emissions import EmissionsMeter
from flare_train.training.record import RunRecord, Session
from flare_train.training.run import Run
from flare_train.training.trainer import FlareTrainer
from flare_train.training.validation import quiet

# Takes lines for the user.
Report = Callable[[str], None]


def train_stretch(run: Run, end: int, report: Report) -> None:
    """Train from where the newest checkpoint stands, or from the start, until `end` epochs are done.

    Raises:
        UsageError: where the initial weights are of another network.
        TrainingError: where the network holds no numbers any more.
        OutputError: where something cannot be written.
    """
    if run.gpus < 2:
        _train(run, end, report)
        return
    from nnunetv2.run.run_training import find_free_network_port
    from torch.multiprocessing.spawn import ProcessException, spawn

    errors: Any = torch.multiprocessing.get_context("spawn").SimpleQueue()
    arguments = (run, end, report, find_free_network_port(), errors)
    try:
        spawn(_on_one_of_several, arguments, nprocs=run.gpus)  # type: ignore[no-untyped-call]
    except ProcessException:
        if errors.empty():
            raise
        raise errors.get() from None


def _on_one_of_several(rank: int, run: Run, end: int, report: Report, port: int, errors: Any) -> None:
    torch.cuda.set_device(rank)
    address = f"tcp://localhost:{port}"
    torch.distributed.init_process_group("nccl", init_method=address, rank=rank, world_size=run.gpus)
    try:
        _train(run, end, report)
    except FlareError as error:
        errors.put(error)
        raise
    torch.distributed.destroy_process_group()


def _train(run: Run, end: int, report: Report) -> None:
    end_children_with_me()
    if run.gpus:  # as nnU-Net does
        torch.set_num_threads(1)
        torch.backends.cudnn.benchmark = True
    with quiet():
        trainer = _trainer(run)
        trainer.num_epochs = end
        trainer.initialize()
    checkpoint, done = newest_checkpoint(run.folder)
    if checkpoint is not None:
        trainer.load_checkpoint(str(checkpoint))
    elif run.initial_weights is not None:
        trainer.begin_with(load_checkpoint(run.initial_weights, run.fold).weights, str(run.initial_weights))
    meter = EmissionsMeter(run.country) if run.country and trainer.local_rank == 0 else None
    record = RunRecord.load(run.folder)
    if trainer.local_rank == 0 and record is not None:
        trainer.on_epoch = _EpochRecorder(run, record, done, meter, report)
    try:
        trainer.run_training()
    finally:
        if meter:
            meter.stop()


def _trainer(run: Run) -> FlareTrainer:
    plans, dataset = (read_json(run.dataset.preprocessed / name) for name in (f"{run.plans}.json", "dataset.json"))
    plans["continue_training"] = False  # a switch for a logging service, which nnU-Net takes out of the plans
    fold: int | str = int(run.fold) if run.fold.isdigit() else run.fold
    trainer = FlareTrainer(plans, CONFIGURATION, fold, dataset, run.device)
    trainer.silent = True
    trainer.recipe = run.recipe
    return trainer


class _EpochRecorder:
    """Adds every epoch to the run's record and reports it."""

    def __init__(self, run: Run, record: RunRecord, done: int, meter: EmissionsMeter | None, report: Report) -> None:
        self._folder, self._record, self._meter, self._report = run.folder, record, meter, report
        started = datetime.now().astimezone().isoformat(timespec="seconds")
        self._session = Session(started=started, machine=_machine(run), first_epoch=done + 1, last_epoch=done)
        if record.sessions:  # killed between an epoch's checkpoint and its record, the one before knows too little
            record.sessions[-1].last_epoch = done
        record.sessions = [session for session in record.sessions if session.last_epoch >= session.first_epoch]
        record.sessions.append(self._session)
        record.save(self._folder)

    def __call__(self, trainer: FlareTrainer) -> None:
        self._session.last_epoch = trainer.current_epoch
        if self._meter:
            self._session.energy_kwh, self._session.co2_kg = self._meter.read()
        self._record.save(self._folder)
        self._report(_line(trainer))


def _line(trainer: FlareTrainer) -> str:
    def last(name: str) -> Any:
        return trainer.logger.get_value(name, step=-1)

    seconds = last("epoch_end_timestamps") - last("epoch_start_timestamps")
    left = seconds * (trainer.num_epochs - trainer.current_epoch)
    return (
        f"epoch {trainer.current_epoch} of {trainer.num_epochs}: loss {last('train_losses'):.4f}, validation "
        f"{last('val_losses'):.4f}, pseudo Dice {last('mean_fg_dice'):.3f}, lr {last('lrs'):.2e}, {seconds:.0f} s, "
        f"{left / 3600:.1f} h left"
    )


def _machine(run: Run) -> dict[str, str]:
    return {
        **machine(GpuMeter.find() if run.gpus else None),
        "gpus": str(run.gpus),
        "cuda": str(torch.version.cuda) if run.gpus else "none",
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "nnunetv2": version("nnunetv2"),
    }
