"""A trainer as a user writes one: nnU-Net's network with another activation, which its tensors do not tell."""

from typing import Any

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn


class SwishTrainer(nnUNetTrainer):  # type: ignore[misc]  # nnunetv2 is untyped
    """Puts SiLU in place of what the plans say."""

    @staticmethod
    def build_network_architecture(plans_manager: Any, *others: Any, enable_deep_supervision: bool = True) -> nn.Module:
        """Return the network."""
        network: nn.Module = nnUNetTrainer.build_network_architecture(plans_manager, *others, enable_deep_supervision)
        for module in list(network.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.LeakyReLU):
                    setattr(module, name, nn.SiLU())
        return network
