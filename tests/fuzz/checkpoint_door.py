"""The door that every checkpoint takes: read for export, and for what a training or its report goes on from."""

from pathlib import Path
from random import Random

import torch

from flare_export.errors import ModelError
from flare_export.source.checkpoint import load_checkpoint
from flare_export.source.model_folder import ModelFolder
from flare_train.training.checkpoint import training_log
from tests.fuzz.model_inputs import odd_checkpoint

COUNT = 10_000


class CheckpointDoor:
    """Reads a checkpoint as every command does that is given one."""

    def __init__(self, model: Path) -> None:
        self._model = ModelFolder.read(model)
        self._sound = model / "fold_0" / "checkpoint_final.pth"

    def make(self, rng: Random, folder: Path) -> Path:
        """Write one odd checkpoint."""
        path = folder / "checkpoint_final.pth"
        path.write_bytes(odd_checkpoint(rng, self._sound))
        return path

    def enter(self, path: Path) -> None:
        """Read it, and assert that what is taken is a network that computes."""
        try:
            log = training_log(path)
        except ModelError:
            log = {}
        assert all(isinstance(value, float) for values in log.values() for value in values)
        checkpoint = load_checkpoint(path, "0")
        network = self._model.network(checkpoint)
        assert all(bool(torch.isfinite(parameter).all()) for parameter in network.parameters())
        assert all(axis in (0, 1, 2) for axis in checkpoint.mirror_axes)
        checkpoint.trainer.encode()


def open_door(workspace: Path) -> CheckpointDoor:
    """Return the door, with everything imported."""
    door = CheckpointDoor(workspace / "model")
    door.enter(workspace / "model" / "fold_0" / "checkpoint_final.pth")
    return door
