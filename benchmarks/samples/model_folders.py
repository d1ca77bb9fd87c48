"""nnU-Net trained-model folders made by hand: real architectures and file formats, seeded random weights."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from pydoc import locate
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.samples.levels import fit_to_levels
from flare_export.source.known_trainers import BATCH_NORM_TRAINER, with_batch_norm
from flare_train.planning.plan import architecture

CONFIGURATION, CASCADE = "3d_fullres", "3d_cascade_fullres"
CT_STATISTICS = {
    "mean": 40.0,
    "median": 44.0,
    "std": 120.0,
    "min": -900.0,
    "max": 1200.0,
    "percentile_00_5": -600.0,
    "percentile_99_5": 500.0,
}
# The logits' standard deviation on structured noise: far from flat, far from saturated.
_LOGIT_SCALE = 3.0


@dataclass(frozen=True)
class PlanOptions:
    """What plans.json says of the network and of what comes before and after it.

    Attributes:
        channels: how many.
        residual: ResidualEncoderUNet in place of PlainConvUNet.
        network: the class, where it is neither.
        layers: what the `architecture` block says otherwise than nnU-Net's own, by its names.
        features: per stage; stages beyond the first halve the resolution.
        convs: convolutions (residual blocks) a stage, and convolutions a decoder stage.
        patch, spacing_mm: in the network's own axis order; of two axes for a 2D network.
        transpose_forward: from (z, y, x) of the file to the network's axes.
        normalisation, masked: one for all channels, or one each.
        force_separate_z: of both resampling rules.
        reader: of images, by nnU-Net's name.
    """

    channels: int = 1
    residual: bool = False
    network: str | None = None
    layers: Mapping[str, Any] = field(default_factory=dict)
    features: Sequence[int] = (4, 8)
    convs: int = 1
    patch: Sequence[int] = (16, 16, 16)
    spacing_mm: Sequence[float] = (2.5, 1.5, 1.5)
    transpose_forward: Sequence[int] = (0, 1, 2)
    normalisation: str | Sequence[str] = "CTNormalization"
    masked: bool | Sequence[bool] = False
    force_separate_z: bool | None = None
    reader: str = "SimpleITKIO"


@dataclass(frozen=True)
class CheckpointOptions:
    """What the checkpoints hold.

    Attributes:
        checkpoint: the file name in every fold.
        mirror_axes: allowed for test-time mirroring.
        trainer: the class name.
        seed: of the first fold; the others count up.
        background_bias: added to the first logit; 10 leaves a lesion-like share of the voxels to the others.
        trained_layers: what the trainer builds otherwise than the plans say, as `PlanOptions.layers`.
        decided: fit the last layer to the levels of `samples.levels.staircase`, so that few voxels are undecided, and
            move the logits so far towards the background.
    """

    checkpoint: str = "checkpoint_final.pth"
    mirror_axes: Sequence[int] | None = (0, 1, 2)
    trainer: str = "nnUNetTrainer"
    seed: int = 0
    background_bias: float = 0.0
    trained_layers: Mapping[str, Any] = field(default_factory=dict)
    decided: float | None = None


_OF_CHECKPOINTS = {one.name for one in fields(CheckpointOptions)}


def write_model_folder(
    path: Path,
    *,
    channels: Sequence[str] | Mapping[str, str] = ("CT",),
    labels: Mapping[str, int | Sequence[int]] | None = None,
    regions_class_order: Sequence[int] | None = None,
    folds: Sequence[str] = ("0",),
    **options: Any,
) -> Path:
    """Write plans.json, dataset.json and one checkpoint a fold, as nnU-Net 2.8 does, and return `path`.

    The last segmentation layer is scaled and centred on structured noise, so that every class gets some voxels.

    Args:
        path: the folder to make.
        channels: the names in dataset.json, keyed 0, 1, ... unless they come with keys.
        labels: with background; by default {"background": 0, "lesion": 1}. Sequences make it region-based.
        regions_class_order: the label each region writes, for region-based models.
        folds: their names, "0" to "4" or "all"; each has weights of its own.
        options: those of `CheckpointOptions` and `PlanOptions`.
    """
    labels = {"background": 0, "lesion": 1} if labels is None else labels
    of_checkpoints = CheckpointOptions(**{name: options.pop(name) for name in _OF_CHECKPOINTS & options.keys()})
    plans = make_plans(channels=len(channels), **options)
    dataset = make_dataset(channels=channels, labels=labels, regions_class_order=regions_class_order)
    (configuration,) = plans["configurations"]
    return _write(path, plans, dataset, configuration, folds, of_checkpoints)


def write_cascade(path: Path, *, lowres: Mapping[str, Any], **options: Any) -> Path:
    """Write the two trained-model folders of a cascade into `path`, as nnU-Net names them; return that of the cascade.

    Args:
        path: the folder to make, such as `nnUNet_results/Dataset999_Tiny`.
        lowres: the options in which the previous stage differs.
        options: those of `write_model_folder`.
    """
    of_checkpoints = CheckpointOptions(**{name: options.pop(name) for name in _OF_CHECKPOINTS & options.keys()})
    folds = options.pop("folds", ("0",))
    names = ("channels", "labels", "regions_class_order")
    of_dataset = {"channels": ("CT",), "labels": {"background": 0, "lesion": 1}}
    dataset = make_dataset(**(of_dataset | {name: options.pop(name) for name in names if name in options}))
    options["channels"] = len(dataset["channel_names"])
    plans = make_plans(**options)
    (first,) = make_plans(**(options | dict(lowres)))["configurations"].values()
    plans["configurations"] |= {
        "3d_lowres": first | {"next_stage": CASCADE},
        CASCADE: {"inherits_from": CONFIGURATION, "previous_stage": "3d_lowres"},
    }
    for seed, name in enumerate(("3d_lowres", CASCADE)):
        folder = path / f"{of_checkpoints.trainer}__nnUNetPlans__{name}"
        seeded = replace(of_checkpoints, seed=of_checkpoints.seed + 10 * seed)
        _write(folder, plans, dataset, name, folds, seeded)
    return folder


def _write(
    path: Path,
    plans: dict[str, Any],
    dataset: dict[str, Any],
    configuration: str,
    folds: Sequence[str],
    of_checkpoints: CheckpointOptions,
) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "plans.json").write_text(json.dumps(plans, indent=4))
    (path / "dataset.json").write_text(json.dumps(dataset, indent=4))
    for index, fold in enumerate(folds):
        seeded = replace(of_checkpoints, seed=of_checkpoints.seed + index)
        content = _checkpoint(plans, dataset, configuration, fold, seeded)
        (path / f"fold_{fold}").mkdir(exist_ok=True)
        torch.save(content, path / f"fold_{fold}" / of_checkpoints.checkpoint)
    return path


def make_dataset(
    *,
    channels: Sequence[str] | Mapping[str, str] = ("CT",),
    labels: Mapping[str, int | Sequence[int]],
    regions_class_order: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Return dataset.json; see `write_model_folder`."""
    named = channels if isinstance(channels, Mapping) else {str(index): name for index, name in enumerate(channels)}
    dataset: dict[str, Any] = {
        "channel_names": dict(named),
        "labels": {name: value if isinstance(value, int) else list(value) for name, value in labels.items()},
        "numTraining": 4,
        "file_ending": ".nii.gz",
    }
    return dataset if regions_class_order is None else {**dataset, "regions_class_order": list(regions_class_order)}


def make_plans(**options: Any) -> dict[str, Any]:
    """Return plans.json by `PlanOptions`."""
    model = PlanOptions(**options)
    return {
        "dataset_name": "Dataset999_Tiny",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [5.0, *model.spacing_mm][-3:],
        "original_median_shape_after_transp": [2 * side for side in model.patch],
        "image_reader_writer": model.reader,
        "transpose_forward": list(model.transpose_forward),
        "transpose_backward": [int(axis) for axis in np.argsort(model.transpose_forward)],
        "configurations": {_name(model.patch): _configuration(model)},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            str(index): dict(CT_STATISTICS) for index in range(model.channels)
        },
    }


def _configuration(model: PlanOptions) -> dict[str, Any]:
    def resampling(order: int, *, is_seg: bool = False) -> dict[str, Any]:
        return {"is_seg": is_seg, "order": order, "order_z": 0, "force_separate_z": model.force_separate_z}

    return {
        "data_identifier": f"nnUNetPlans_{_name(model.patch)}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(model.patch),
        "median_image_size_in_voxels": [2.0 * side for side in model.patch],
        "spacing": list(model.spacing_mm),
        "normalization_schemes": _each(model.normalisation, model.channels),
        "use_mask_for_norm": _each(model.masked, model.channels),
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling(3),
        "resampling_fn_seg_kwargs": resampling(1, is_seg=True),
        "resampling_fn_probabilities_kwargs": resampling(1),
        "architecture": _architecture(model),
        "batch_dice": False,
    }


def _each(value: Any, channels: int) -> list[Any]:
    return [value] * channels if isinstance(value, str | bool) else list(value)


def _name(patch: Sequence[int]) -> str:
    return "2d" if len(patch) == 2 else CONFIGURATION


def _architecture(model: PlanOptions) -> dict[str, Any]:
    block, dimensions = architecture(model.features), len(model.patch)
    arguments = block["arch_kwargs"]
    for key in ("kernel_sizes", "strides"):
        arguments[key] = [sides[-dimensions:] for sides in arguments[key]]
    for key in ("conv_op", "norm_op"):
        arguments[key] = arguments[key].replace("3d", f"{dimensions}d")
    arguments["n_conv_per_stage_decoder"] = [model.convs] * (len(model.features) - 1)
    network = model.network or ("ResidualEncoderUNet" if model.residual else "PlainConvUNet")
    per_stage = arguments.pop("n_conv_per_stage")
    key = "n_conv_per_stage" if network == "PlainConvUNet" else "n_blocks_per_stage"
    arguments |= {key: [model.convs] * len(per_stage), **model.layers}
    block["network_class_name"] = block["network_class_name"].replace("PlainConvUNet", network)
    block["_kw_requires_import"] += ["block"] if "block" in model.layers else []
    return block


def _checkpoint(
    plans: dict[str, Any], dataset: dict[str, Any], name: str, fold: str, options: CheckpointOptions
) -> dict[str, Any]:
    """Return what `nnUNetTrainer.save_checkpoint` would save after two epochs."""
    inputs = len(dataset["channel_names"])
    structures = [name for name in dataset["labels"] if name not in ("background", "ignore")]
    outputs = len(structures) + ("regions_class_order" not in dataset)
    configuration = plans["configurations"][name]
    configuration = plans["configurations"].get(configuration.get("inherits_from"), {}) | configuration
    if "previous_stage" in configuration:
        inputs += len(_label_values(dataset))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        network = _trained(configuration, inputs, outputs, options, regions="regions_class_order" in dataset)
    optimizer = torch.optim.SGD(network.parameters(), 1e-2, momentum=0.99, nesterov=True, weight_decay=3e-5)
    momentum = {i: {"momentum_buffer": torch.zeros_like(tensor)} for i, tensor in enumerate(network.parameters())}
    log = _log(outputs)
    weights = network.state_dict()
    head = max(key for key in weights if key.startswith("decoder.seg_layers.") and key.endswith("bias"))
    weights[head][0] += options.background_bias
    return {
        "network_weights": weights,
        "optimizer_state": {**optimizer.state_dict(), "state": momentum},
        "grad_scaler_state": None,
        "logging": log,
        "_best_ema": log["ema_fg_dice"][-1],
        "current_epoch": 2,
        "init_args": {
            "plans": plans,
            "configuration": name,
            "fold": fold if fold == "all" else int(fold),
            "dataset_json": dataset,
            "device": torch.device("cpu"),
        },
        "trainer_name": options.trainer,
        "inference_allowed_mirroring_axes": None if options.mirror_axes is None else tuple(options.mirror_axes),
    }


def _label_values(dataset: dict[str, Any]) -> set[int]:
    values = [value if isinstance(value, list) else [value] for value in dataset["labels"].values()]
    return {number for group in values for number in group} - {0}


def _trained(
    configuration: dict[str, Any], inputs: int, outputs: int, options: CheckpointOptions, *, regions: bool
) -> nn.Module:
    """Return the network that the trainer builds, with random weights."""
    block, patch = configuration["architecture"], configuration["patch_size"]
    built = with_batch_norm(block) if options.trainer == BATCH_NORM_TRAINER else block
    built = {**built, "arch_kwargs": {**built["arch_kwargs"], **options.trained_layers}}
    network = _random_network(built, inputs, outputs, patch)
    if options.decided is not None:
        fit_to_levels(network, inputs, outputs, patch, regions=regions, towards_background=options.decided)
    return network


def _log(outputs: int) -> dict[str, list[Any]]:
    dice = [np.float32(0.25), np.float32(0.5)]
    return {
        "mean_fg_dice": dice,
        "ema_fg_dice": dice,
        "dice_per_class_or_region": [[value] * max(outputs - 1, 1) for value in dice],
        "train_losses": dice,
        "val_losses": dice,
        "lrs": [0.01, 0.005],
        "epoch_start_timestamps": [0.0, 10.0],
        "epoch_end_timestamps": [9.5, 19.5],
    }


def _random_network(architecture: dict[str, Any], inputs: int, outputs: int, patch: Sequence[int]) -> nn.Module:
    arguments = dict(architecture["arch_kwargs"])
    for key in architecture["_kw_requires_import"]:
        if arguments[key] is not None:
            arguments[key] = locate(arguments[key])
    network_class: Any = locate(architecture["network_class_name"])
    network = network_class(input_channels=inputs, num_classes=outputs, deep_supervision=False, **arguments).eval()
    with torch.no_grad():
        for module in network.modules():
            if getattr(module, "affine", False):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
            if getattr(module, "track_running_stats", False):
                module.running_mean.uniform_(-0.5, 0.5)
                module.running_var.uniform_(0.5, 1.5)
        coarse = torch.randn(1, inputs, *(max(side // 4, 2) for side in patch))
        noise = torch.randn(1, inputs, *patch)
        mode = "bilinear" if len(patch) == 2 else "trilinear"
        image = nn.functional.interpolate(coarse, size=tuple(patch), mode=mode) + 0.2 * noise
        head = network.decoder.seg_layers[-1]
        others = (0, *range(2, 2 + len(patch)))
        head.weight *= (_LOGIT_SCALE / network(image).std(dim=others)).reshape(-1, *[1] * (1 + len(patch)))
        head.bias -= network(image).mean(dim=others)
    return network
