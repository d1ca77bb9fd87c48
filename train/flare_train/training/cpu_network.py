"""An nnU-Net network made fast enough on a CPU to train it there: bfloat16, channels last, one sample at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.functional import batch_norm


def compute_in_bfloat16(network: nn.Module) -> None:
    """Make a CPU network compute in bfloat16, channels last, and still take and give float32.

    nnU-Net's steps use autocast on CUDA alone. Wrapping the forward pass leaves them, and the loss in float32, as
    they are; the weights keep their names and their float32 values.

    Samples go through one by one, which spares a copy at every norm: PyTorch's InstanceNorm folds the batch into the
    channels and leaves channels last for it, while for one sample its arithmetic is BatchNorm's, which does not.
    """
    network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # torch's stub lacks it
    for module in network.modules():
        if isinstance(module, nn.InstanceNorm3d):
            module.forward = _normalise_one.__get__(module)  # type: ignore[method-assign]
    forward = network.forward

    def forward_in_bfloat16(image: torch.Tensor) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            samples = [forward(one.contiguous(memory_format=torch.channels_last_3d)) for one in torch.split(image, 1)]
        # Deep supervision gives one output a scale.
        if isinstance(samples[0], list):
            return [torch.cat(scale).float() for scale in zip(*samples, strict=True)]
        return torch.cat(samples).float()

    network.forward = forward_in_bfloat16


def _normalise_one(norm: nn.InstanceNorm3d, image: torch.Tensor) -> torch.Tensor:
    """Return what an InstanceNorm without running statistics makes of a batch of one (1, c, z, y, x)."""
    return batch_norm(image, None, None, norm.weight, norm.bias, training=True, momentum=0.0, eps=norm.eps)
