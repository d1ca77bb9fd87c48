"""An nnU-Net trained-model folder: its plan, its labels, its folds."""

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from flare_export.errors import ModelError
from flare_export.source import plans as plan_rules
from flare_export.source.architecture import build_network, importable, load_weights
from flare_export.source.checkpoint import Checkpoint, load_checkpoint
from flare_export.source.dataset import channel_names, labels
from flare_export.source.json_file import read_json
from flare_export.source.known_trainers import BATCH_NORM_TRAINER, with_batch_norm
from flare_export.source.nnunet_trainer import build_by, find_builder
from flare_export.source.slice_layers import as_volume_network
from flare_runtime.compute.arrays import Shape3


@dataclass(frozen=True)
class ModelFolder:
    """What was read from the folder.

    Attributes:
        path: the folder.
        plans, dataset: its two JSON files.
        configuration: the resolved configuration the checkpoints were trained in, its `architecture` block as the
            trainer changes it where that is one of nnU-Net's own.
        checkpoints: one per fold.
        builder: the trainer class that has to be asked for the network; None where the block says which it is.
        previous: of a cascade the model whose masks its network sees.
    """

    path: Path
    plans: Mapping[str, Any]
    dataset: Mapping[str, Any]
    configuration: Mapping[str, Any]
    checkpoints: tuple[Checkpoint, ...]
    builder: Any = None
    previous: "ModelFolder | None" = None

    @classmethod
    def read(
        cls,
        path: Path,
        folds: Sequence[str] | None = None,
        checkpoint: str = "checkpoint_final.pth",
        previous_stage: Path | None = None,
        *,
        trust_plans: bool = False,
    ) -> "ModelFolder":
        """Read a folder; without `folds`, all numbered folds that have the checkpoint, else fold `all`.

        The previous stage of a cascade is read alike: from `previous_stage`, or where nnU-Net keeps it beside.
        `trust_plans` takes the network of an unknown trainer for that of the plans.

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
            if other.trainer != first.trainer:
                raise ModelError(f"fold {first.fold} is of {first.trainer}, and fold {other.fold} of {other.trainer}")
        configuration = plan_rules.resolve_configuration(plans, first.configuration)
        if any(axis >= len(configuration["patch_size"]) for axis in first.mirror_axes):
            raise ModelError(f"{path}: configuration {first.configuration!r} has no axes {first.mirror_axes} to mirror")
        if first.trainer == BATCH_NORM_TRAINER:
            configuration["architecture"] = with_batch_norm(configuration["architecture"])
        builder = find_builder(first.trainer, trust_plans=trust_plans)
        folder = cls(path, plans, dataset, configuration, checkpoints, builder)
        wanted = configuration.get("previous_stage")
        if not wanted:
            if previous_stage is not None:
                raise ModelError(f"{path}: {first.configuration} is no cascade and has no previous stage")
            return folder
        place = previous_stage or _beside(path, first.configuration, wanted)
        previous = cls.read(place, folds, checkpoint, trust_plans=trust_plans)
        _check_stages(folder, previous, wanted)
        return replace(folder, previous=previous)

    @property
    def stages(self) -> tuple["ModelFolder", ...]:
        """The models that segment a case one after the other; this one is the last."""
        return (self,) if self.previous is None else (*self.previous.stages, self)

    @property
    def image_channels(self) -> int:
        """The number of images of a case."""
        return len(channel_names(self.dataset))

    @property
    def inputs(self) -> int:
        """The number of channels that the network takes: the images, and behind them a previous stage's labels."""
        return self.image_channels + (len(_label_values(self)) if self.configuration.get("previous_stage") else 0)

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
        name, found = self.checkpoints[0].configuration, False
        while name:
            own = plans["configurations"][name]
            if block := own.pop("architecture", None):
                own |= {} if found else {"architecture": importable(block)}
                found = True
            name = own.get("inherits_from")
        return plans

    def untrained(self) -> nn.Module:
        """Return the network as the trainer builds it; where the block says which it is, its weights take no memory."""
        if self.builder is None:
            return build_network(self.configuration["architecture"], self.inputs, self.outputs, "meta")
        configuration = self.checkpoints[0].configuration
        return build_by(self.builder, self.importable_plans, configuration, self.inputs, self.outputs)

    def network(self, checkpoint: Checkpoint) -> nn.Module:
        """Build the network and load one fold's weights into it; a 2D one takes volumes one slice deep."""
        loaded = load_weights(self.untrained(), checkpoint.weights, checkpoint.trainer)
        return as_volume_network(loaded) if self.dimensions == 2 else loaded


def _label_values(folder: ModelFolder) -> set[int]:
    structures, _ = labels(folder.dataset)
    return {value for structure in structures for value in structure.values} - {0}


def _beside(path: Path, configuration: str, previous: str) -> Path:
    """Return the folder where nnU-Net keeps a cascade's previous stage: TRAINER__PLANS__PREVIOUS beside its own."""
    name = path.absolute().name
    beside = path.absolute().with_name(f"{name.rpartition('__')[0]}__{Path(previous).name}")
    if "__" not in name or not beside.is_dir():
        raise ModelError(
            f"{path}: {configuration} is a cascade behind {previous}, and there is no {beside.name} beside it; name "
            "that model's folder with --previous-stage"
        )
    return beside


def _check_stages(folder: ModelFolder, previous: ModelFolder, wanted: str) -> None:
    found = previous.checkpoints[0].configuration
    if found != wanted or previous.previous is not None:
        raise ModelError(f"{previous.path}: holds {found}; {folder.checkpoints[0].configuration} comes behind {wanted}")
    if channel_names(previous.dataset) != channel_names(folder.dataset):
        raise ModelError(f"{previous.path} and {folder.path} have other channels")
    if _label_values(previous) != _label_values(folder):
        raise ModelError(f"{previous.path} and {folder.path} have other labels")


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
