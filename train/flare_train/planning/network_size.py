"""The size of a planned network: coverage, parameters, arithmetic and an estimate of training memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from flare_export.source.architecture import build_network, count_macs

_GIB = 2**30
_INPUTS, _OUTPUTS = 1, 2
# Of a convolution's output, mixed precision keeps for the backward pass the output itself and the normalised one
# (two bytes each); the nonlinearity works in place.
_KEPT_BYTES = 4
# Weights, gradients and momentum in float32.
_WEIGHT_BYTES = 12


@dataclass(frozen=True)
class NetworkSize:
    """The size of a network for one patch.

    Attributes:
        coverage_mm: what a patch sees, (z, y, x).
        parameters: trained numbers.
        gmac: multiply-accumulates of the convolutions for one patch, in thousand millions.
        tool_parameters: as tools print them that count the encoder again inside the decoder, which refers to it; the
            paper's figures are of this kind.
        tool_gmac: for a whole batch, with transposed convolutions counted at their output's size, as the same tools do.
        memory_gib: an estimate of what training a batch takes on a GPU in mixed precision.
    """

    coverage_mm: tuple[float, float, float]
    parameters: int
    gmac: float
    tool_parameters: int
    tool_gmac: float
    memory_gib: float

    @property
    def lines(self) -> list[str]:
        """The same for a person."""
        z, y, x = self.coverage_mm
        return [
            f"a patch sees {z:.0f} x {y:.0f} x {x:.0f} mm (z, y, x)",
            f"{self.parameters:,} parameters (with the encoder counted twice {self.tool_parameters / 1e6:.1f} M)",
            f"{self.gmac:.1f} GMAC a patch (as the same tools count a batch: {self.tool_gmac:.1f} G)",
            f"about {self.memory_gib:.1f} GiB of GPU memory to train, an estimate",
        ]


def network_size(configuration: Mapping[str, Any]) -> NetworkSize:
    """Measure the network of a configuration of plans, one image in and two classes out, without computing anything.

    Raises:
        ModelError: where the `architecture` block is none that can be built.
    """
    network = build_network(configuration["architecture"], _INPUTS, _OUTPUTS, "meta")
    patch = tuple(int(side) for side in configuration["patch_size"])
    batch = int(configuration["batch_size"])
    kept, surplus = _outputs(network, (_INPUTS, *patch))
    macs = count_macs(network, (_INPUTS, *patch))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    encoder = sum(tensor.numel() for name, tensor in network.named_parameters() if name.startswith("encoder."))
    z, y, x = (side * spacing for side, spacing in zip(patch, configuration["spacing"], strict=True))
    return NetworkSize(
        coverage_mm=(z, y, x),
        parameters=parameters,
        gmac=macs / 1e9,
        tool_parameters=parameters + encoder,
        tool_gmac=batch * (macs + surplus) / 1e9,
        memory_gib=(batch * kept * _KEPT_BYTES + parameters * _WEIGHT_BYTES) / _GIB,
    )


def _outputs(network: nn.Module, input_shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the numbers that all convolutions put out, and what counting at output size adds in MACs."""
    kept = surplus = 0

    def count(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal kept, surplus
        kept += output.numel()
        if isinstance(module, nn.ConvTranspose3d):
            surplus += (output[0, 0].numel() - args[0][0, 0].numel()) * module.weight.numel()

    for module in network.modules():
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            module.register_forward_hook(count)
    with torch.no_grad():
        network(torch.empty(1, *input_shape, device="meta"))
    return kept, surplus
