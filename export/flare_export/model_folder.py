"""An nnU-Net trained-model folder: its plan, its labels, its folds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from flare_export import plans as plan_rules
from flare_export.architecture import build_network, load_weights
from flare_export.checkpoint import Checkpoint, load_checkpoint
from flare_export.errors import ModelError
from flare_runtime.arrays import Shape3


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
        plans = plan_rules.read_json(path / "plans.json")
        dataset = plan_rules.read_json(path / "dataset.json")
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
        return len(self.dataset.get("channel_names") or self.dataset["modality"])

    @property
    def outputs(self) -> int:
        """The number of logit channels: regions, or classes with background."""
        structures, regions = plan_rules.labels(self.dataset)
        return len(structures) + (regions is None)

    @property
    def patch(self) -> Shape3:
        """The network's input size, (z, y, x)."""
        z, y, x = self.configuration["patch_size"]
        return int(z), int(y), int(x)

    def network(self, checkpoint: Checkpoint) -> nn.Module:
        """Build the network and load one fold's weights into it."""
        network = build_network(self.configuration["architecture"], self.inputs, self.outputs)
        load_weights(network, checkpoint.weights)
        return network


def _available_folds(path: Path, checkpoint: str) -> list[str]:
    folds = sorted(file.parent.name.removeprefix("fold_") for file in path.glob(f"fold_*/{checkpoint}"))
    if not folds:
        raise ModelError(f"{path}: no fold_*/{checkpoint}; give an nnU-Net trained-model folder, or --checkpoint")
    return [fold for fold in folds if fold != "all"] or folds
