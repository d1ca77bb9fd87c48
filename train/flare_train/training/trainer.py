"""nnU-Net's own trainer with the paper's recipe, checkpoints that a kill cannot tear, and seeded epochs."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from tqdm import tqdm

from flare_export.errors import ModelError
from flare_export.source.checkpoint import read_checkpoint
from flare_runtime.errors import FlareError, OutputError, UsageError, first_line
from flare_train.planning.recipe import Recipe
from flare_train.training.checkpoint import LATEST
from flare_train.training.cpu_network import compute_in_bfloat16
from flare_train.training.schedule import POLY_EXPONENT, Schedule

# nnU-Net saves every so many epochs; this class saves after each, once nnU-Net has noted the epoch's scores.
_NEVER = 2**31
_CUDA = torch.device("cuda")


class TrainingError(FlareError):
    """The training cannot go on."""

    exit_code = 4


class FlareTrainer(nnUNetTrainer):  # type: ignore[misc]  # nnunetv2 is untyped
    """nnU-Net's network, loss, augmentation, loader and steps with the paper's optimiser and length.

    By itself, as `nnUNetv2_train -tr FlareTrainer` with `nnUNet_extTrainer` naming this module's folder, it trains the
    first stretch of the schedule; `flare-train run` adds extensions and validation.

    Attributes:
        recipe: set it before `initialize()`.
        silent: whether nnU-Net's own lines, but for those of making the trainer, go to its log file alone.
        on_epoch: called with the trainer after every epoch, once its checkpoint is written.
    """

    silent = False  # of the class, since nnU-Net logs before its constructor returns

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int | str,
        dataset_json: dict[str, Any],
        device: torch.device = _CUDA,
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.recipe = Recipe()
        self.on_epoch: Callable[[FlareTrainer], None] | None = None
        self.num_epochs = Schedule().first
        self.save_every = _NEVER
        self._bar: tqdm[Any] | None = None

    def initialize(self) -> None:
        """Take over the recipe, then build network, optimizer and loss as nnU-Net does; a CPU computes in bfloat16."""
        self.initial_lr, self.weight_decay = self.recipe.learning_rate, self.recipe.weight_decay
        self.num_iterations_per_epoch = self.recipe.iterations
        self.num_val_iterations_per_epoch = self.recipe.val_iterations
        torch.manual_seed(self.recipe.seed)
        super().initialize()
        if self.device.type == "cpu":
            compute_in_bfloat16(self.network)

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, PolyLRScheduler]:
        """Return the recipe's optimiser and nnU-Net's poly curve up to `num_epochs`."""
        if self.recipe.optimizer == "sgd":
            return super().configure_optimizers()  # type: ignore[no-any-return]
        optimizer = torch.optim.AdamW(self.network.parameters(), self.initial_lr, weight_decay=self.weight_decay)
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs, POLY_EXPONENT)

    def get_tr_and_val_datasets(self) -> tuple[Any, Any]:
        """Return nnU-Net's datasets, the first with every lesion as likely as any other if the recipe says so."""
        training, validation = super().get_tr_and_val_datasets()
        if self.recipe.small_lesions:
            from flare_train.training.lesion_sampling import LesionDataset

            training = LesionDataset(training)
        return training, validation

    @staticmethod
    def get_training_transforms(*args: Any, **kwargs: Any) -> Any:
        """Return nnU-Net's augmentation, its blur by one way of computing it.

        nnU-Net times two ways on every start and takes the faster: no training would come out the same twice.
        """
        transforms = nnUNetTrainer.get_training_transforms(*args, **kwargs)
        for transform in transforms.transforms:
            inner = getattr(transform, "transform", transform)
            if isinstance(inner, GaussianBlurTransform):
                inner.benchmark = False
        return transforms

    def begin_with(self, weights: Mapping[str, torch.Tensor], origin: str) -> None:
        """Take over the weights of another network of the same shape.

        Raises:
            UsageError: naming what does not fit; `origin` is what the message calls the weights.
        """
        network: Any = getattr(self.network, "module", self.network)  # DistributedDataParallel's
        network = getattr(network, "_orig_mod", network)  # torch.compile's
        ours = {name: tuple(value.shape) for name, value in network.state_dict().items()}
        theirs = {name: tuple(value.shape) for name, value in weights.items()}
        if odd := sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name)):
            raise UsageError(
                f"{origin}: its network is another: {odd[0]} is {theirs.get(odd[0], 'not there')}, and the plan's "
                f"{ours.get(odd[0], 'has none')} ({len(odd)} such)"
            )
        network.load_state_dict(weights)

    def load_checkpoint(self, filename_or_checkpoint: str) -> None:
        """Go on from a checkpoint; nnU-Net would run what is in it, so it is read without that first.

        Raises:
            ModelError: where it must not be loaded, or no training can go on from it.
        """
        read_checkpoint(Path(filename_or_checkpoint))
        try:
            super().load_checkpoint(filename_or_checkpoint)
        except torch.OutOfMemoryError:  # is the GPU's, not the checkpoint's
            raise
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise ModelError(f"{filename_or_checkpoint}: no training can go on from it ({reason})") from error

    def on_train_epoch_start(self) -> None:
        """Seed the epoch, so that one that was interrupted comes out as if it had not been."""
        seeds = np.random.SeedSequence([self.recipe.seed, self.current_epoch, self.local_rank]).generate_state(3)
        random.seed(int(seeds[0]))
        np.random.seed(seeds[1])  # noqa: NPY002  # nnU-Net draws from the global generator
        torch.manual_seed(int(seeds[2]))
        super().on_train_epoch_start()
        if self.local_rank == 0:
            total, name = self.num_iterations_per_epoch, f"epoch {self.current_epoch + 1} of {self.num_epochs}"
            self._bar = tqdm(total=total, desc=name, unit="batch", leave=False, disable=None)

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Train on a batch and move the progress bar on."""
        result: dict[str, Any] = super().train_step(batch)
        if self._bar is not None:
            self._bar.update()
        return result

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        """Take the progress bar away.

        Raises:
            TrainingError: where a weight is no number; the checkpoint is still the last good epoch's.
        """
        super().on_train_epoch_end(train_outputs)
        if self._bar is not None:
            self._bar.close()
        if not all(bool(torch.isfinite(parameter).all()) for parameter in self.network.parameters()):
            raise TrainingError(
                f"after epoch {self.current_epoch + 1} the network holds weights that are no numbers; lower the "
                f"learning rate of {self.recipe.learning_rate:g}, or look at the plan with `flare-train lint`"
            )

    def on_epoch_end(self) -> None:
        """Let nnU-Net end the epoch, then save all of it.

        nnU-Net saves before it has noted a new best score, which a resumed training would then note again for a
        worse network.
        """
        super().on_epoch_end()
        self.current_epoch -= 1  # `save_checkpoint` counts the epoch that is running
        self.save_checkpoint(os.path.join(self.output_folder, LATEST))  # noqa: PTH118  # nnU-Net's paths are strings
        self.current_epoch += 1
        if self.on_epoch is not None:
            self.on_epoch(self)

    def save_checkpoint(self, filename: str) -> None:
        """Write a checkpoint under another name first, so that `filename` never holds half of one.

        Raises:
            OutputError: where it cannot be written.
        """
        target = Path(filename)
        partial = target.with_name(f".partial-{target.name}")
        try:
            super().save_checkpoint(str(partial))
            if self.local_rank == 0 and partial.is_file():
                with partial.open("rb") as file:
                    os.fsync(file.fileno())
                partial.replace(target)
        except (OSError, RuntimeError) as error:  # RuntimeError is what a full disk is to PyTorch
            raise OutputError(f"{target}: cannot be written ({str(error).splitlines()[0]})") from error

    def print_to_log_file(self, *args: Any, also_print_to_console: bool = True, add_timestamp: bool = True) -> None:
        """Log as nnU-Net does; to the log file alone if `silent`."""
        show = also_print_to_console and not self.silent
        super().print_to_log_file(*args, also_print_to_console=show, add_timestamp=add_timestamp)
