"""nnU-Net's checkpoints of a training, written so that a kill cannot tear them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
from msgspec import Meta

from flare_export.errors import ModelError
from flare_export.source.checkpoint import read_checkpoint
from flare_export.source.schema import checked
from flare_runtime.errors import OutputError
from flare_runtime.files.output import replacing

LATEST, FINAL = "checkpoint_latest.pth", "checkpoint_final.pth"


def save(content: dict[str, Any], target: Path) -> None:
    """Write a checkpoint.

    Raises:
        OutputError: where it cannot be written; what was there before is whole.
    """
    try:
        with replacing(target) as file:
            torch.save(content, file)
    except RuntimeError as error:  # what a full disk is to PyTorch
        raise OutputError(f"{target}: cannot be written ({str(error).splitlines()[0]})") from error


class _Progress(msgspec.Struct):
    current_epoch: Annotated[int, Meta(ge=0, le=10**9)]


class _Trained(_Progress):
    logging: dict[str, Any]


# Of nnU-Net's log, what is read again: a number for every epoch.
_LOGGED = (
    "train_losses",
    "val_losses",
    "mean_fg_dice",
    "ema_fg_dice",
    "lrs",
    "epoch_start_timestamps",
    "epoch_end_timestamps",
)


def trained_epochs(checkpoint: Path) -> int:
    """Return after how many epochs a checkpoint was written.

    Raises:
        ModelError: where the file is no checkpoint, or one that must not be loaded.
    """
    return checked(read_checkpoint(checkpoint), _Progress, f"{checkpoint}: not an nnU-Net v2 checkpoint").current_epoch


def training_log(checkpoint: Path) -> dict[str, list[float]]:
    """Return nnU-Net's log of a checkpoint, a number per epoch by name.

    Raises:
        ModelError: where the file is no checkpoint, one that must not be loaded, or without a number for every epoch.
    """
    content = checked(read_checkpoint(checkpoint), _Trained, f"{checkpoint}: not an nnU-Net v2 checkpoint")
    epochs = content.current_epoch
    try:
        log = {name: [float(value) for value in content.logging[name]] for name in _LOGGED}
    except (KeyError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:  # the last is a tensor's
        raise ModelError(f"{checkpoint}: its training log cannot be read ({type(error).__name__}: {error})") from error
    for name, values in log.items():
        if len(values) != epochs:
            raise ModelError(f"{checkpoint}: its training log has {len(values)} {name} for {epochs} epochs")
    return log


def newest_checkpoint(folder: Path) -> tuple[Path | None, int]:
    """Return the checkpoint of a fold with the most epochs and their number; None and 0 where there is none.

    A killed run can leave both: the final one of a stretch beside the latest one of the stretch before or after.

    Raises:
        ModelError: where one is no checkpoint, or must not be loaded.
    """
    checkpoints = [(trained_epochs(path), path) for name in (FINAL, LATEST) if (path := folder / name).is_file()]
    if not checkpoints:
        return None, 0
    epochs, path = max(checkpoints, key=lambda pair: pair[0])
    return path, epochs
