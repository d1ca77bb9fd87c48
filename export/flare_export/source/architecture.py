"""Builds the network that a plan describes, from an allow-list, and loads a checkpoint's weights into it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from flare_export.errors import ModelError
from flare_export.source.known_trainers import DEFAULT_TRAINER
from flare_export.source.schema import check_architecture
from flare_export.source.slice_layers import as_volume_network
from flare_runtime.compute.arrays import Shape3
from flare_runtime.errors import first_line
from flare_runtime.model.manifest import NetworkInfo

_OPERATIONS: dict[str, type[nn.Module]] = {
    kind.__name__: kind
    for kind in (
        *(nn.Conv2d, nn.Conv3d),
        *(nn.InstanceNorm2d, nn.InstanceNorm3d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm),
        *(nn.Dropout, nn.Dropout2d, nn.Dropout3d),
        *(nn.LeakyReLU, nn.ReLU, nn.ELU, nn.GELU, nn.SiLU),
    )
}
# Of a residual encoder.
_BLOCKS = ("BasicBlockD", "BottleneckD")


def build_network(architecture: Mapping[str, Any], inputs: int, outputs: int, device: str = "cpu") -> nn.Module:
    """Build an untrained network from a plan's `architecture` block.

    Only the class names count, never the module paths before them, so a plan cannot import anything.

    Args:
        architecture: the block.
        inputs: image channels.
        outputs: logit channels.
        device: where its weights lie; on `meta` they take no memory, however large the block says they are.

    Raises:
        ModelError: for an architecture or operation that is not on the list, or arguments it does not take.
    """
    from dynamic_network_architectures.architectures import unet

    name = check_architecture(architecture)
    arguments = dict(architecture["arch_kwargs"])
    for key in architecture["_kw_requires_import"]:
        if arguments.get(key) is not None:
            arguments[key] = _operation(key, arguments[key])
    arguments["deep_supervision"] = False
    try:
        with torch.device(device):
            network: nn.Module = getattr(unet, name)(input_channels=inputs, num_classes=outputs, **arguments)
    except Exception as error:  # the network's classes raise whatever wrong arguments lead them to
        raise ModelError(f"the `architecture` block does not describe a {name}: {first_line(error)}") from error
    return network.eval()


def importable(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """Return a plan's `architecture` block with every class by the path of the one that it is built from here.

    Raises:
        ModelError: as `build_network`, for what is not on the list.
    """
    arguments = dict(architecture["arch_kwargs"])
    for key in architecture["_kw_requires_import"]:
        if arguments.get(key) is not None:
            operation = _operation(key, arguments[key])
            arguments[key] = f"{operation.__module__}.{operation.__name__}"
    name = f"dynamic_network_architectures.architectures.unet.{check_architecture(architecture)}"
    return {**architecture, "network_class_name": name, "arch_kwargs": arguments}


def _operation(key: str, path: object) -> type[nn.Module]:
    name = path.rpartition(".")[2] if isinstance(path, str) else ""
    if name in _BLOCKS:
        from dynamic_network_architectures.building_blocks import residual

        block: type[nn.Module] = getattr(residual, name)
        return block
    if name not in _OPERATIONS:
        allowed = ", ".join((*_OPERATIONS, *_BLOCKS))
        raise ModelError(f"the {key} {path!r} of the `architecture` block is not supported; only {allowed}")
    return _OPERATIONS[name]


def load_weights(network: nn.Module, weights: Mapping[str, torch.Tensor], trainer: str = DEFAULT_TRAINER) -> nn.Module:
    """Load a checkpoint's tensors after comparing every name and shape with the network, and return it on the CPU.

    Args:
        network: as the trainer builds it.
        weights: of the checkpoint.
        trainer: the class, for the message.

    Raises:
        ModelError: that counts stages and parameters on both sides where they differ.
    """
    expected = network.state_dict()
    wrong = [name for name in expected.keys() & weights.keys() if expected[name].shape != weights[name].shape]
    missing, surplus = expected.keys() - weights.keys(), weights.keys() - expected.keys()
    if wrong or missing or surplus:
        example = sorted([*wrong, *missing, *surplus])[0]
        raise ModelError(
            f"plans.json and the checkpoint describe different networks: {_size(expected, network)} in what {trainer} "
            f"builds of the plan, {_size(weights)} in the checkpoint ({len(missing)} tensors missing, "
            f"{len(surplus)} surplus, {len(wrong)} of another shape; {example} for one). Use the plans.json the "
            f"checkpoint was trained with, and the {trainer} that trained it"
        )
    if any(tensor.is_meta for tensor in expected.values()):
        network.to_empty(device="cpu")
    network.load_state_dict(dict(weights))
    return network


def _size(weights: Mapping[str, torch.Tensor], network: nn.Module | None = None) -> str:
    """Say how large a state dict is; nnU-Net's name most tensors twice."""
    stages = {key.split(".")[2] for key in weights if key.startswith("encoder.stages.")}
    shared = {tensor.data_ptr(): tensor for tensor in weights.values()} if network is None else {}
    tensors = shared.values() if network is None else network.parameters()
    return f"{len(stages)} stages and {sum(tensor.numel() for tensor in tensors):,} parameters"


def describe(
    architecture: Mapping[str, Any],
    inputs: int,
    outputs: int,
    patch: Shape3,
    *,
    slices: bool = False,
    network: nn.Module | None = None,
) -> NetworkInfo:
    """Return the network's size; GMAC are true multiply-accumulates of all convolutions for one patch.

    `slices` is for a 2D network, whose patch is one slice; `network` is what a trainer built in place of the block's.

    Raises:
        ModelError: where there is no such network, or it does not take the patch.
    """
    planned = build_network(architecture, inputs, outputs, "meta")
    network = planned if network is None else network
    if slices:
        network = as_volume_network(network)
    arguments = architecture["arch_kwargs"]
    stages, features = arguments["n_stages"], arguments["features_per_stage"]
    return NetworkInfo(
        architecture=type(network).__name__,
        stages=stages,
        features=tuple(features) if isinstance(features, list) else (features,) * stages,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        gmac=round(count_macs(network, (inputs, *patch)) / 1e9, 1) or 0.1,
        outputs=outputs,
    )


def count_macs(network: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Return the multiply-accumulates of all convolutions for one input (channels, z, y, x); nothing is computed.

    Raises:
        ModelError: where the network does not take such an input.
    """
    total = 0

    def count(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal total
        assert isinstance(module, nn.Conv3d | nn.ConvTranspose3d)
        # A transposed convolution multiplies each input voxel by its whole kernel, a plain one each output voxel.
        positions = args[0] if isinstance(module, nn.ConvTranspose3d) else output
        total += positions[0, 0].numel() * module.weight.numel()

    for module in network.modules():
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            module.register_forward_hook(count)
    try:
        with torch.no_grad():
            network.to("meta")(torch.empty(1, *input_shape, device="meta"))
    except Exception as error:  # layers raise whatever a shape that does not fit leads them to
        raise ModelError(f"the network does not take a patch of {input_shape[1:]}: {first_line(error)}") from error
    return total
