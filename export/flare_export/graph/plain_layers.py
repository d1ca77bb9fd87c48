"""Puts layers that every engine runs in place of others that compute the same for one tile, and drops idle biases."""

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn

from flare_export.errors import ModelError

_DROPOUTS = (nn.Dropout, nn.Dropout2d, nn.Dropout3d)
# What is exported as it is, beside the containers of others.
_LAYERS = (
    nn.Conv3d,
    nn.ConvTranspose3d,
    nn.InstanceNorm3d,
    nn.AvgPool3d,
    nn.Identity,
    nn.LeakyReLU,
    nn.ReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    *_DROPOUTS,
)
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def make_plain(network: nn.Module) -> None:
    """Replace layers, in place, until the network holds only such as every engine runs.

    Norms of each tile become instance norms with weights; norms of fixed numbers, a part of the convolution before
    them, or one of single voxels where none is there.

    Raises:
        ModelError: naming what cannot be replaced.
    """
    _replace(network, _plain_norm)
    _check(network)
    for block in _sequences(network):
        _merge_scalings(block)
    fold_biases(network)


def fold_biases(network: nn.Module) -> int:
    """Drop, in place, the bias of every convolution that an InstanceNorm follows, and return how many there were.

    The norm subtracts the channel's mean, and with it any constant that was added before.
    """
    count = 0
    for block in _sequences(network):
        layers = [layer for layer in block if not isinstance(layer, _DROPOUTS)]
        for layer, following in pairwise(layers):
            if isinstance(layer, nn.Conv3d) and isinstance(following, nn.InstanceNorm3d):
                count += layer.bias is not None
                layer.bias = None
    return count


def _sequences(network: nn.Module) -> Iterator[nn.Sequential]:
    return (module for module in network.modules() if isinstance(module, nn.Sequential))


def _replace(network: nn.Module, rule: Callable[[nn.Module], nn.Module]) -> None:
    """Put `rule(layer)` for every layer under all its names."""
    layers = dict(network.named_modules(remove_duplicate=False))
    made = {layer: rule(layer) for layer in set(layers.values())}
    for path, layer in layers.items():
        if made[layer] is not layer:
            parent, _, name = path.rpartition(".")
            setattr(network.get_submodule(parent), name, made[layer])


class _Scaling(nn.Conv3d):
    """A convolution of single voxels that multiplies every channel by itself and shifts it."""

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__(len(scale), len(scale), 1)
        self.load_state_dict({"weight": torch.diag(scale)[:, :, None, None, None], "bias": shift})
        self.scale, self.shift = scale, shift


def _plain_norm(layer: nn.Module) -> nn.Module:
    """Return what computes the same as a norm, and every other layer as it is."""
    if isinstance(layer, nn.BatchNorm3d | nn.SyncBatchNorm | nn.InstanceNorm3d):
        if layer.running_mean is not None and layer.running_var is not None:
            scale = (layer.running_var.double() + layer.eps).rsqrt() * (layer.weight if layer.affine else 1)
            shift = (layer.bias if layer.affine else 0) - layer.running_mean.double() * scale
            return _Scaling(scale.detach(), shift.detach())
        # Without fixed numbers a BatchNorm takes those of its batch, which is one tile.
        return _instance_norm(layer.num_features, layer.eps, layer)
    if isinstance(layer, nn.GroupNorm) and layer.num_groups == layer.num_channels:
        return _instance_norm(layer.num_channels, layer.eps, layer)
    return layer


def _instance_norm(channels: int, epsilon: float, norm: nn.Module) -> nn.InstanceNorm3d:
    """Return a norm of each channel of a tile with the weights of another, where it has any."""
    made = nn.InstanceNorm3d(channels, epsilon, affine=True)
    made.load_state_dict(norm.state_dict(), strict=False)
    return made.eval()


def _merge_scalings(block: nn.Sequential) -> None:
    """Merge every scaling with the convolution before it, in place."""
    places = [place for place, layer in enumerate(block) if not isinstance(layer, _DROPOUTS)]
    for first, second in pairwise(places):
        convolution, scaling = block[first], block[second]
        if isinstance(convolution, nn.Conv3d) and isinstance(scaling, _Scaling):
            before = 0 if convolution.bias is None else convolution.bias.double() * scaling.scale
            weight = convolution.weight.double() * scaling.scale[:, None, None, None, None]
            convolution.weight = nn.Parameter(weight.float())
            convolution.bias = nn.Parameter((before + scaling.shift).float())
            block[second] = nn.Identity()


def _check(network: nn.Module) -> None:
    leaves = [layer for layer in network.modules() if not [*layer.children()]]
    foreign = {type(layer).__name__ for layer in leaves if not isinstance(layer, (*_LAYERS, *_CONTAINERS))}
    if foreign:
        allowed = ", ".join(kind.__name__ for kind in _LAYERS)
        raise ModelError(
            f"the network holds {', '.join(sorted(foreign))}, for which flare-infer has no layer; it has {allowed}, "
            "BatchNorm3d, and GroupNorm with as many groups as channels"
        )
