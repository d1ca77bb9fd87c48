"""An nnU-Net trained-model folder: its plan, its labels, its folds."""

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from flare_export.errors import ModelError
from flare_export.source import plans as plan_rules
from flare_export.source.architecture import build_network, importable, load_weights
from flare_export.source.checkpoint import Checkpoint, load_checkpoint
from flare_export.source.dataset import channel_names, labels
from flare_export.source.json_file import read_json
from flare_export.source.slice_layers import as_volume_network
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
        if any(axis >= len(configuration["patch_size"]) for axis in first.mirror_axes):
            raise ModelError(f"{path}: configuration {first.configuration!r} has no axes {first.mirror_axes} to mirror")
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
        """The network's input size, (z, y, x); of a 2D network one slice."""
        z, y, x = (1, *self.configuration["patch_size"])[-3:]
        return z, y, x

    @property
    def dimensions(self) -> Literal[2, 3]:
        """Whether the network takes slices or volumes."""
        return 2 if len(self.configuration["patch_size"]) == 2 else 3

    @property
    def mirror_axes(self) -> tuple[int, ...]:
        """The axes that may be mirrored; 0 is z."""
        return tuple(axis + 3 - self.dimensions for axis in self.checkpoints[0].mirror_axes)

    @property
    def importable_plans(self) -> dict[str, Any]:
        """The plans, in which the configuration names no class to import but those that are built from here."""
        plans = deepcopy(dict(self.plans))
        name, block = self.checkpoints[0].configuration, self.configuration["architecture"]
        while name:
            own = plans["configurations"][name]
            if own.pop("architecture", None) is not None and block is not None:
                own["architecture"], block = importable(block), None
            name = own.get("inherits_from")
        return plans

    def network(self, checkpoint: Checkpoint) -> nn.Module:
        """Build the network and load one fold's weights into it; a 2D one takes volumes one slice deep."""
        network = build_network(self.configuration["architecture"], self.inputs, self.outputs, "meta")
        loaded = load_weights(network, checkpoint.weights)
        return as_volume_network(loaded) if self.dimensions == 2 else loaded


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
