"""The record of a training run, beside nnU-Net's own files: recipe, sessions, validations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from flare_eval.results import CaseAccuracy
from flare_runtime.errors import UsageError
from flare_runtime.files.json_file import write_json
from flare_train.planning.recipe import Recipe
from flare_train.training.schedule import Schedule

FILE = "flare_run.json"


class Session(msgspec.Struct, kw_only=True):
    """One stretch of epochs, or the part of it that one process trained.

    Attributes:
        started: local time, ISO 8601.
        machine: what it ran on: system, processor, memory, GPU, versions.
        first_epoch, last_epoch: that it trained, counted from 1.
        energy_kwh, co2_kg: as codecarbon measured or estimated them; None where no country was named.
    """

    started: str
    machine: dict[str, str]
    first_epoch: int
    last_epoch: int
    energy_kwh: float | None = None
    co2_kg: float | None = None


class Validation(msgspec.Struct, kw_only=True):
    """The full-volume validation after a stretch of epochs.

    Attributes:
        epochs: trained so far.
        learning_rate: of the last epoch.
        dsc, nsd: means over the cases, NSD at 2 mm, by the challenge's rules.
        cases: each case.
    """

    epochs: int
    learning_rate: float
    dsc: float
    nsd: float
    cases: list[CaseAccuracy]


class RunRecord(msgspec.Struct, kw_only=True):
    """A training run.

    Attributes:
        dataset, plans, configuration, fold: nnU-Net's names.
        plans_sha256: of what the plans say of the configuration and of intensities.
        training_cases: how many.
        validation_cases: their stems.
        recipe, schedule: as given; a resumed run has the same recipe.
        initial_weights: the checkpoint that the first weights were taken from, empty for random ones.
        gpus: how many, 0 for a CPU.
        sessions, validations: in order.
    """

    dataset: str
    plans: str
    plans_sha256: str
    configuration: str
    fold: str
    training_cases: int
    validation_cases: list[str]
    recipe: Recipe
    schedule: Schedule
    initial_weights: str = ""
    gpus: int = 0
    sessions: list[Session] = []
    validations: list[Validation] = []

    @property
    def best(self) -> Validation | None:
        """The first of the validations with the highest mean DSC."""
        return max(self.validations, key=lambda validation: validation.dsc, default=None)

    def differences(self, other: RunRecord) -> dict[str, tuple[Any, Any]]:
        """Return what two runs were told differently, so that one cannot go on as the other: name to both values.

        A longer schedule or more GPUs may go on, and so may a run that is validated from now on.
        """
        free = {"schedule", "gpus", "sessions", "validations"}
        if not self.validations:
            free.add("validation_cases")
        mine, theirs = msgspec.to_builtins(self), msgspec.to_builtins(other)
        return {name: (mine[name], theirs[name]) for name in mine if name not in free and mine[name] != theirs[name]}

    @classmethod
    def load(cls, folder: Path) -> RunRecord | None:
        """Read the record of a fold's folder, or None where there is none.

        Raises:
            UsageError: where the file is not one of ours.
        """
        source = folder / FILE
        if not source.is_file():
            return None
        try:
            return msgspec.json.decode(source.read_bytes(), type=cls)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise UsageError(f"{source}: is not what flare-train writes ({error})") from error

    def save(self, folder: Path) -> None:
        """Write it into a fold's folder.

        Raises:
            OutputError: where it cannot be written.
        """
        write_json(folder / FILE, self)
