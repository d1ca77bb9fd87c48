"""nnU-Net's checkpoints of a training, written so that a kill cannot tear them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from flare_runtime.errors import OutputError
from flare_runtime.output import replacing

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


def load(checkpoint: Path) -> dict[str, Any]:
    """Read a checkpoint of our own making, its tensors from the file as they are needed."""
    content: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=False, mmap=True)
    return content


def trained_epochs(checkpoint: Path) -> int:
    """Return after how many epochs a checkpoint was written."""
    return int(load(checkpoint)["current_epoch"])


def newest_checkpoint(folder: Path) -> tuple[Path | None, int]:
    """Return the checkpoint of a fold with the most epochs and their number; None and 0 where there is none.

    A killed run can leave both: the final one of a stretch beside the latest one of the stretch before or after.
    """
    found = [(trained_epochs(path), path) for name in (FINAL, LATEST) if (path := folder / name).is_file()]
    if not found:
        return None, 0
    epochs, path = max(found, key=lambda pair: pair[0])
    return path, epochs
