"""An nnU-Net trained-model folder: its plan, its labels, its folds."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from flare_export.errors import ModelError
from flare_export.source import plans as plan_rules
from flare_export.source.architecture import build_network, load_weights
from flare_export.source.checkpoint import Checkpoint, load_checkpoint
from flare_export.source.dataset import channel_names, labels
from flare_export.source.json_file import read_json
from flare_runtime.compute.arrays import Shape3


@dataclass(frozen=True)
class ModelFolder:
    """What was read from the folder.

    Attributes:
        path: the folder.
        plans, dataset: its two JSON files.
        configuration: the resolved configuration the checkpoints were trained in.
        checkpoints: one per fold.
    """

    path: Path
    plans: Mapping[str, Any]
    dataset: Mapping[str, Any]
    configuration: Mapping[str, Any]
    checkpoints: tuple[Checkpoint, ...]

    @classmethod
    def read(
        cls, path: Path, folds: Sequence[str] | None = None, checkpoint: str = "checkpoint_final.pth"
    ) -> "ModelFolder":
        """Read a folder; without `folds`, all numbered folds that have the checkpoint, else fold `all`.

        Raises:
            ModelError: for anything missing, inconsistent or unsupported.
        """
        plans = read_json(path / "plans.json")
        dataset = read_json(path / "dataset.json")
        chosen = list(folds) if folds else _available_folds(path, checkpoint)
        checkpoints = tuple(load_checkpoint(path / f"fold_{fold}" / checkpoint, fold) for fold in chosen)
        first = checkpoints[0]
        for other in checkpoints[1:]:
            if (other.configuration, other.mirror_axes) != (first.configuration, first.mirror_axes):
                raise ModelError(f"folds {first.fold} and {other.fold} were trained in different configurations")
        configuration = plan_rules.resolve_configuration(plans, first.configuration)
        return cls(path, plans, dataset, configuration, checkpoints)

    @property
    def inputs(self) -> int:
        """The number of image channels."""
        return len(channel_names(self.dataset))

    @property
    def outputs(self) -> int:
        """The number of logit channels: regions, or classes with background."""
        structures, regions = labels(self.dataset)
        return len(structures) + (regions is None)

    @property
    def patch(self) -> Shape3:
        """The network's input size, (z, y, x)."""
        z, y, x = self.configuration["patch_size"]
        return z, y, x

    def network(self, checkpoint: Checkpoint) -> nn.Module:
        """Build the network and load one fold's weights into it."""
        network = build_network(self.configuration["architecture"], self.inputs, self.outputs, "meta")
        return load_weights(network, checkpoint.weights)


def is_fold(name: str) -> bool:
    """Tell whether nnU-Net calls a fold so: a number, or `all`."""
    return name == "all" or re.fullmatch("0|[1-9][0-9]{0,2}", name) is not None


def _available_folds(path: Path, checkpoint: str) -> list[str]:
    names = [folder.name.removeprefix("fold_") for folder in path.glob("fold_*") if (folder / checkpoint).is_file()]
    folds = sorted(filter(is_fold, names), key=lambda fold: (len(fold), fold))
    if not folds:
        raise ModelError(
            f"{path}: no fold_<number>/{checkpoint} and no fold_all/{checkpoint}; give an nnU-Net trained-model "
            "folder, or --checkpoint"
        )
    return [fold for fold in folds if fold != "all"] or folds
