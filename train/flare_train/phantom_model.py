"""One command that trains a small nnU-Net on phantoms and leaves an nnU-Net trained-model folder."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from flare_train.phantom import Phantom, make_phantom, write_dataset

DATASET_ID = 701
DATASET = f"Dataset{DATASET_ID}_FlarePhantom"
PLANS, CONFIGURATION = "nnUNetPlans", "3d_fullres"
SPACING_MM = (2.4, 1.6, 1.6)
PATCH = (64, 96, 96)
VAL_ITERATIONS = 5
FIRST_SEED = 10_000  # training phantoms; smaller seeds stay unseen


@dataclass(frozen=True)
class Phase:
    """A stretch of training on patches (z, y, x) of one size: `epochs` of `iterations` batches."""

    patch: tuple[int, int, int]
    learning_rate: float
    epochs: int
    iterations: int


# Small patches first: they cost a fifth, and lesions fill enough of them to be found within minutes.
PHASES = (Phase((32, 64, 64), 2e-3, 20, 60), Phase(PATCH, 1e-3, 16, 30))


def training_phantoms(count: int, first_seed: int = FIRST_SEED) -> Iterator[tuple[str, Phantom]]:
    """Yield cases (stem, phantom) that cover the trunk with scans of varied length, width and spacing."""
    for seed in range(first_seed, first_seed + count):
        rng = np.random.default_rng([seed, 1])
        size_mm = rng.uniform((180, 300), (300, 420))
        step_z, step_xy = (round(float(s), 2) for s in rng.uniform((1.5, 0.9), (5.0, 2.0)))
        depth, width = round(size_mm[0] / step_z), round(size_mm[1] / step_xy)
        yield f"phantom_{seed}", make_phantom(seed, (depth, width, width), (step_z, step_xy, step_xy))


def write_raw(folder: Path, cases: int) -> dict[str, Any]:
    """Write the phantoms and their dataset.json as an nnU-Net raw data set; return the dataset.json."""
    stems = write_dataset(folder, training_phantoms(cases))
    dataset: dict[str, Any] = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "lesion": 1},
        "numTraining": len(stems),
        "file_ending": ".nii.gz",
    }
    _write_json(folder / "dataset.json", dataset)
    return dataset


def architecture() -> dict[str, Any]:
    """Return the plan's architecture block: a plain U-Net of four stages with 8, 16, 32 and 64 features."""
    stages = 4
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": [8, 16, 32, 64],
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3]] * stages,
            "strides": [[1, 1, 1]] + [[2, 2, 2]] * (stages - 1),
            "n_conv_per_stage": [2] * stages,
            "n_conv_per_stage_decoder": [2] * (stages - 1),
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def make_plans(fingerprint: dict[str, Any]) -> dict[str, Any]:
    """Return nnU-Net plans with one configuration, from the fingerprint of the data."""
    spacing = np.median(fingerprint["spacings"], axis=0)
    shapes = np.array(fingerprint["shapes_after_crop"])
    resampled = shapes * np.array(fingerprint["spacings"]) / SPACING_MM
    resampling = {"order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": f"{PLANS}_{CONFIGURATION}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(PATCH),
        "median_image_size_in_voxels": np.median(resampled, axis=0).tolist(),
        "spacing": list(SPACING_MM),
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, **resampling},
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, **resampling},
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, **resampling},
        "architecture": architecture(),
        "batch_dice": False,
    }
    return {
        "dataset_name": DATASET,
        "plans_name": PLANS,
        "original_median_spacing_after_transp": spacing.tolist(),
        "original_median_shape_after_transp": np.median(shapes, axis=0).round().astype(int).tolist(),
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {CONFIGURATION: configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": fingerprint["foreground_intensity_properties_per_channel"],
    }


def train(preprocessed: Path, phases: Sequence[Phase]) -> Path:
    """Train fold `all` of a preprocessed data set with nnU-Net's loop and return the trained-model folder.

    Each phase starts from the weights of the one before; the last one leaves its checkpoint. AdamW takes the place
    of nnU-Net's SGD, whose momentum of 0.99 needs more than such a short run to find the lesions.
    """
    import torch
    from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler

    from flare_train.trainer import FlareTrainer

    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dataset = json.loads((preprocessed / "dataset.json").read_text())
    weights: dict[str, Any] = {}
    for phase in phases:
        plans = json.loads((preprocessed / f"{PLANS}.json").read_text())
        plans["continue_training"] = False  # nnU-Net takes this switch out of the plans
        plans["configurations"][CONFIGURATION]["patch_size"] = list(phase.patch)
        trainer = FlareTrainer(plans, CONFIGURATION, "all", dataset, device)
        trainer.num_epochs, trainer.num_iterations_per_epoch = phase.epochs, phase.iterations
        trainer.num_val_iterations_per_epoch = VAL_ITERATIONS
        trainer.initial_lr, trainer.weight_decay = phase.learning_rate, 1e-4
        trainer.initialize()
        if weights:
            trainer.network.load_state_dict(weights)
        trainer.optimizer = torch.optim.AdamW(
            trainer.network.parameters(), trainer.initial_lr, weight_decay=trainer.weight_decay
        )
        trainer.lr_scheduler = PolyLRScheduler(trainer.optimizer, trainer.initial_lr, phase.epochs)
        trainer.disable_checkpointing = phase is not phases[-1]
        trainer.run_training()
        weights = trainer.network.state_dict()
    return Path(trainer.output_folder_base)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m flare_train.phantom_model", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder that gets nnU-Net's three folders")
    parser.add_argument("--cases", type=int, default=24)
    parser.add_argument("--epochs", type=int, nargs=2, default=[p.epochs for p in PHASES], metavar=("SMALL", "FULL"))
    parser.add_argument(
        "--iterations", type=int, nargs=2, default=[p.iterations for p in PHASES], metavar=("SMALL", "FULL")
    )
    parser.add_argument("--workers", type=int, default=2, help="preprocessing processes")
    parser.add_argument("--augmenters", type=int, default=1, help="augmentation processes; 0 augments in the trainer")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> Path:
    """Write phantoms, fingerprint, plan, preprocess and train; return the trained-model folder."""
    output = args.output.resolve()
    # Before nnunetv2 is imported: some versions read these once, at import.
    os.environ.update({name: str(output / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")})
    os.environ.update(nnUNet_n_proc_DA=str(args.augmenters))
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprint_dataset, preprocess_dataset

    dataset = write_raw(output / "nnUNet_raw" / DATASET, args.cases)
    fingerprint = extract_fingerprint_dataset(DATASET_ID, num_processes=args.workers, verbose=False)
    preprocessed = output / "nnUNet_preprocessed" / DATASET
    _write_json(preprocessed / "dataset.json", dataset)
    _write_json(preprocessed / f"{PLANS}.json", make_plans(fingerprint))
    preprocess_dataset(DATASET_ID, PLANS, (CONFIGURATION,), (args.workers,))
    lengths = zip(PHASES, args.epochs, args.iterations, strict=True)
    return train(preprocessed, [replace(phase, epochs=e, iterations=i) for phase, e, i in lengths])


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    """Train the phantom model."""
    run(parse_args(argv))


if __name__ == "__main__":
    main()
