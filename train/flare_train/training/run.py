"""What is to be trained, how, and where nnU-Net keeps it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import torch

from flare_train.data.nnunet_folders import RESULTS, DatasetFolders
from flare_train.planning.plan import CONFIGURATION
from flare_train.planning.recipe import Recipe
from flare_train.training.schedule import Schedule

ALL = "all"
TRAINER = "FlareTrainer"


@dataclass(frozen=True)
class Run:
    """What is to be trained, and how.

    Attributes:
        dataset: its folders.
        plans: the name of the plans.
        fold: `0` to `4`, or `all` for every case.
        recipe, schedule: of the training.
        gpus: how many; 0 for the CPU.
        initial_weights: a checkpoint to take the first weights from.
        validation: folder of a FLARE-style data set to validate on in place of the fold's own cases.
        country: whose electricity is used, for the CO2; None leaves it unmeasured.
    """

    dataset: DatasetFolders
    plans: str
    fold: str = ALL
    recipe: Recipe = field(default_factory=Recipe)
    schedule: Schedule = field(default_factory=Schedule)
    gpus: int = 0
    initial_weights: Path | None = None
    validation: Path | None = None
    country: str | None = None

    @property
    def model_folder(self) -> Path:
        """Where nnU-Net keeps the trained model."""
        name = f"{TRAINER}__{self.plans}__{CONFIGURATION}"
        return Path(os.environ[RESULTS], self.dataset.name, name)

    @property
    def folder(self) -> Path:
        """Where nnU-Net keeps the fold."""
        return self.model_folder / f"fold_{self.fold}"

    @property
    def device(self) -> torch.device:
        """What trains, and predicts in validation."""
        return torch.device("cuda" if self.gpus else "cpu")
