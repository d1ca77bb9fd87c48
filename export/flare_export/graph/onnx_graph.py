"""Exports a trained U-Net as ONNX: one head, no idle biases, native InstanceNormalization, float32, a static patch."""

import warnings
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from tempfile import gettempdir

import onnx
import torch
from torch import nn

from flare_export.errors import ModelError
from flare_runtime.compute.arrays import Shape3
from flare_runtime.files.temporary import temporary_folder
from flare_runtime.model.onnx_shapes import OPERATORS

OPSET = 18
INPUT, OUTPUT = "tiles", "logits"


def fold_biases(network: nn.Module) -> int:
    """Drop, in place, the bias of every convolution that an InstanceNorm follows, and return how many there were.

    The norm subtracts the channel's mean, and with it any constant that was added before.
    """
    count = 0
    for block in network.modules():
        if isinstance(block, nn.Sequential):
            layers = [layer for layer in block if not isinstance(layer, nn.Dropout3d)]
            for layer, following in pairwise(layers):
                if isinstance(layer, nn.Conv3d) and isinstance(following, nn.InstanceNorm3d):
                    count += layer.bias is not None
                    layer.bias = None
    return count


def to_onnx(network: nn.Module, inputs: int, patch: Shape3, metadata: Mapping[str, str]) -> bytes:
    """Return the network as a serialized ONNX model that takes (1, inputs, *patch) and gives the last head's logits.

    Raises:
        ModelError: where the graph came out with anything the runtime's backends should not meet.
    """
    example = torch.zeros(1, inputs, *patch)
    with temporary_folder(Path(gettempdir())) as scratch, torch.no_grad(), warnings.catch_warnings():
        path = scratch / "network.onnx"
        warnings.simplefilter("ignore")  # tracing a U-Net is static; the exporter warns of what cannot happen here
        torch.onnx.export(
            network,
            (example,),
            path,
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=OPSET,
            dynamo=False,  # keeps InstanceNormalization one node, and needs no further package
            do_constant_folding=True,
        )
        model = onnx.load(path)
    del model.graph.value_info[:]
    _copy_shared_weights(model.graph)
    onnx.checker.check_model(model, full_check=True)
    _check_graph(model)
    onnx.helper.set_model_props(model, dict(metadata))
    serialized: bytes = model.SerializeToString()
    return serialized


def _copy_shared_weights(graph: onnx.GraphProto) -> None:
    """Give every layer weights of its own: the exporter lets layers of equal ones, as new norms are, share them."""
    weights = {weight.name: weight for weight in graph.initializer}
    for node in [node for node in graph.node if node.op_type == "Identity" and node.input[0] in weights]:
        copy = graph.initializer.add()
        copy.CopyFrom(weights[node.input[0]])
        copy.name = node.output[0]
        graph.node.remove(node)


def _check_graph(model: onnx.ModelProto) -> None:
    foreign = {node.op_type for node in model.graph.node} - OPERATORS
    if foreign:
        raise ModelError(
            f"the exported graph holds {', '.join(sorted(foreign))}, which no plain or residual U-Net needs"
        )
    if len(model.graph.output) != 1:
        raise ModelError(f"the exported graph has {len(model.graph.output)} outputs; one head is expected")
