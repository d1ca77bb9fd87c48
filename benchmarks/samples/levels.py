"""Images of a few plateaus, and networks that tell them apart: on both, few voxels are undecided."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

# How far the plateaus are from ellipsoids, how steep the steps between them are, and the noise of all.
_UNEVEN, _STEEPNESS, _NOISE = 0.15, 20.0, 0.02
# The part of the lowest plateau, which lies around the others; and how much more a voxel of the border counts in a fit,
# since nnU-Net's sums have few bits there.
_AROUND, _BORDER = 0.6, 9.0
# Logits of a class that is there; those of the others are as far below zero.
_LOGIT = 6.0


def staircase(shape: Sequence[int], levels: int, seed: int) -> npt.NDArray[np.float64]:
    """Return an image of so many plateaus between -1 and 1, one in the other, with steep slopes between them.

    No side is like another, so that a turned image is another.

    Args:
        shape: of the image.
        levels: how many plateaus; but for the lowest, of about as many voxels each.
        seed: of their shape and of the noise.
    """
    random = np.random.default_rng(seed)
    noise = gaussian_filter(random.standard_normal(shape), [side / 6 for side in shape], mode="wrap")
    sides = np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij")
    distance = sum(((side - 0.1 * (axis + 1)) / (0.8 + 0.2 * axis)) ** 2 for axis, side in enumerate(sides))
    smooth = _UNEVEN * noise / noise.std() - np.asarray(distance)
    cuts = np.quantile(smooth, _AROUND + (1 - _AROUND) * np.arange(levels - 1) / (levels - 1))
    steps = np.sum([np.tanh(_STEEPNESS * (smooth - cut)) for cut in cuts], axis=0) / max(len(cuts), 1)
    image: npt.NDArray[np.float64] = steps + _NOISE * random.standard_normal(shape)
    return image


def fit_to_levels(
    network: nn.Module, inputs: int, outputs: int, patch: Sequence[int], *, regions: bool, towards_background: float
) -> None:
    """Fit, in place, a U-Net's last layer so that it gives each plateau of a staircase another label.

    Args:
        network: from patches to logits.
        inputs: image channels; all show the same plateaus.
        outputs: logit channels; each is a class, or a region that begins one plateau above the one before it.
        patch: of the network.
        regions: whether the outputs are regions.
        towards_background: how far logits are moved for the background, against all else.
    """
    levels = outputs + regions
    with torch.no_grad():
        image = staircase(patch, levels, seed=int(torch.randint(1 << 30, ())))
        level = np.clip(np.rint((image + 1) / 2 * (levels - 1)), 0, levels - 1)
        wanted = [level > index if regions else level == index for index in range(outputs)]
        targets = torch.from_numpy(np.where(wanted, _LOGIT, -_LOGIT).reshape(outputs, -1).T)
        head: Any = network.get_submodule("decoder.seg_layers")[-1]  # type: ignore[index]
        taken: list[torch.Tensor] = []
        hook = head.register_forward_hook(lambda _module, given, _output: taken.append(given[0]))
        network(torch.from_numpy(image).float().expand(1, inputs, *patch))
        hook.remove()
        features = taken[0][0].reshape(taken[0].shape[1], -1).T
        counted = np.full(patch, _BORDER)
        counted[tuple(slice(2, -2) for _ in patch)] = 1
        for one in range(levels):  # each as much as any other, however few its voxels
            counted[level == one] /= max(np.linalg.norm(counted[level == one]), 1.0)
        weights = torch.from_numpy(counted).reshape(-1, 1)
        given = weights * torch.cat([features, torch.ones(len(features), 1)], 1).double()
        solution = torch.linalg.lstsq(given, weights * targets, driver="gelsd").solution.float()
        head.weight.copy_(solution[:-1].T.reshape(head.weight.shape))
        head.bias.copy_(solution[-1])
        against = torch.tensor([1.0 if regions or index else -1.0 for index in range(outputs)])
        head.bias -= towards_background * against
