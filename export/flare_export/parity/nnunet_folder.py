"""Writes a model folder anew for nnU-Net, from what was read of it without trusting it."""

import json
from pathlib import Path

import torch

from flare_export.source.checkpoint import Checkpoint
from flare_export.source.known_trainers import DEFAULT_TRAINER, FLARE_TRAINER
from flare_export.source.model_folder import ModelFolder

CHECKPOINT = "checkpoint_final.pth"


def write_nnunet_folder(folder: ModelFolder, target: Path) -> None:
    """Write what nnU-Net's predictor reads of a model folder to `target`, an empty folder.

    nnU-Net unpickles checkpoints and imports what the `architecture` block names, whatever they hold. The copy holds
    only tensors, texts and numbers, and names only classes of the allow-list.
    """
    (target / "plans.json").write_text(json.dumps(folder.importable_plans), encoding="utf-8")
    (target / "dataset.json").write_text(json.dumps(folder.dataset), encoding="utf-8")
    for checkpoint in folder.checkpoints:
        place = target / f"fold_{checkpoint.fold}"
        place.mkdir()
        torch.save(_content(checkpoint), place / CHECKPOINT)


def _content(checkpoint: Checkpoint) -> dict[str, object]:
    # nnU-Net does not find flare_train's trainer, which builds what nnU-Net's own does.
    trainer = DEFAULT_TRAINER if checkpoint.trainer == FLARE_TRAINER else checkpoint.trainer
    return {
        "network_weights": dict(checkpoint.weights),
        "init_args": {"configuration": checkpoint.configuration},
        "trainer_name": trainer,
        "inference_allowed_mirroring_axes": checkpoint.mirror_axes or None,
    }
