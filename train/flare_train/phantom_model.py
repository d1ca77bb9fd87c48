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
from flare_train.plan import CONFIGURATION, make_plans

DATASET_ID = 701
DATASET = f"Dataset{DATASET_ID}_FlarePhantom"
PLANS = "nnUNetPlans"
FEATURES = (8, 16, 32, 64)
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
    dataset = json.loads((preprocessed / "dataset.json").read_text(encoding="utf-8"))
    weights: dict[str, Any] = {}
    for phase in phases:
        plans = json.loads((preprocessed / f"{PLANS}.json").read_text(encoding="utf-8"))
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
    _write_json(preprocessed / f"{PLANS}.json", make_plans(fingerprint, DATASET, PLANS, FEATURES, patch=PATCH))
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
