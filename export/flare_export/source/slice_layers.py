"""Turns a network of slices into one of volumes one slice deep, which every engine runs like any other."""

from collections.abc import Callable
from typing import Any, TypeAlias

from torch import Tensor, nn

_Pair: TypeAlias = int | tuple[int, ...]


def as_volume_network(network: nn.Module) -> nn.Module:
    """Put, in place, a 3D layer for every 2D one that computes the same of each slice, and return the network.

    Kernels become (1, y, x); the weights are views of those before. A layer that is there under several names stays
    one. Layers of other kinds are left as they are.
    """
    layers = {path: layer for path, layer in network.named_modules(remove_duplicate=False) if type(layer) in _RULES}
    made = {layer: _RULES[type(layer)](layer) for layer in set(layers.values())}
    for path, layer in layers.items():
        parent, _, name = path.rpartition(".")
        setattr(network.get_submodule(parent), name, made[layer].train(layer.training))
    return network


def _sides(pair: _Pair, z: int) -> tuple[int, int, int]:
    """Return what holds for (z, y, x) where a layer says it for (y, x)."""
    y, x = (pair, pair) if isinstance(pair, int) else pair
    return z, y, x


def _convolution(layer: Any) -> nn.Module:
    made: nn.Conv3d | nn.ConvTranspose3d
    shared: dict[str, Any] = {
        "stride": _sides(layer.stride, 1),
        "padding": _sides(layer.padding, 0),
        "dilation": _sides(layer.dilation, 1),
        "groups": layer.groups,
        "bias": False,
        "device": "meta",
    }
    sizes = (layer.in_channels, layer.out_channels, _sides(layer.kernel_size, 1))
    if isinstance(layer, nn.ConvTranspose2d):
        made = nn.ConvTranspose3d(*sizes, output_padding=_sides(layer.output_padding, 0), **shared)
    else:
        made = nn.Conv3d(*sizes, **shared)
    made.weight = nn.Parameter(layer.weight.detach().unsqueeze(2))
    made.bias = layer.bias
    return made


def _norm(kind: type[Any]) -> Callable[[Any], nn.Module]:
    def made_of(layer: Any) -> nn.Module:
        made: nn.Module = kind(layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
        tensors: dict[str, Tensor] = layer.state_dict(keep_vars=True)
        made.to("meta").load_state_dict(tensors, assign=True)
        return made

    return made_of


def _pool(layer: Any) -> nn.Module:
    sides = (_sides(layer.kernel_size, 1), _sides(layer.stride, 1), _sides(layer.padding, 0))
    return nn.AvgPool3d(*sides, ceil_mode=layer.ceil_mode, count_include_pad=layer.count_include_pad)


_RULES: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
    nn.Conv2d: _convolution,
    nn.ConvTranspose2d: _convolution,
    nn.InstanceNorm2d: _norm(nn.InstanceNorm3d),
    nn.BatchNorm2d: _norm(nn.BatchNorm3d),
    nn.AvgPool2d: _pool,
    nn.Dropout2d: lambda layer: nn.Dropout3d(layer.p),
}
