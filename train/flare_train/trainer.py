"""nnU-Net's own trainer, made fast enough on a CPU to train the lightweight network there."""

from __future__ import annotations

from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn


class FlareTrainer(nnUNetTrainer):  # type: ignore[misc]  # nnunetv2 is untyped
    """nnU-Net's loss, augmentation, loader and schedule; only the network's precision on a CPU is ours.

    The length is nnU-Net's: set `num_epochs`, `num_iterations_per_epoch` and `num_val_iterations_per_epoch` before
    `run_training()`. nnU-Net loads the checkpoints where `nnUNet_extTrainer` names this module's folder.
    """

    def initialize(self) -> None:
        """Build network, optimizer and loss as nnU-Net does, then let a CPU run the network in bfloat16."""
        super().initialize()
        if self.device.type == "cpu":
            compute_in_bfloat16(self.network)


def compute_in_bfloat16(network: nn.Module) -> None:
    """Make a CPU network compute in bfloat16, channels last, and still take and give float32.

    nnU-Net's steps use autocast on CUDA alone. Wrapping the forward pass leaves them, and the loss in float32, as
    they are; the weights keep their names and their float32 values.
    """
    network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # torch's stub lacks it
    forward = network.forward

    def forward_in_bfloat16(image: torch.Tensor) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = forward(image.contiguous(memory_format=torch.channels_last_3d))
        # Deep supervision gives one output a scale.
        return [scale.float() for scale in output] if isinstance(output, list) else output.float()

    network.forward = forward_in_bfloat16
