"""The settings of a training that its plans do not hold: optimiser, rates, lengths, seed and sampling."""

from __future__ import annotations

from typing import Literal

import msgspec


class Recipe(msgspec.Struct, frozen=True):
    """The paper's by default: SGD with momentum 0.99, lr 0.001, 250 batches an epoch, nnU-Net's sampling.

    Attributes:
        learning_rate: of the first epoch; nnU-Net's poly curve follows.
        optimizer: `sgd` as the paper's, or `adamw`, which finds lesions sooner in trainings of a few thousand batches.
        weight_decay: of the optimiser.
        iterations: batches an epoch.
        val_iterations: batches an epoch for nnU-Net's pseudo Dice.
        small_lesions: draw every lesion of a case as often, whatever its size; nnU-Net draws every voxel as often.
        seed: of the first weights and of every epoch's batches. On a CPU with `nnUNet_n_proc_DA=0` a run then comes
            out the same to the bit, however often it is interrupted; augmentation processes draw at random.
    """

    learning_rate: float = 1e-3
    optimizer: Literal["sgd", "adamw"] = "sgd"
    weight_decay: float = 3e-5
    iterations: int = 250
    val_iterations: int = 50
    small_lesions: bool = False
    seed: int = 0
