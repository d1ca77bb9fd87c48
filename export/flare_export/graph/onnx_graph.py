"""Exports a trained U-Net as ONNX: one head, native InstanceNormalization, float32, a static patch."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from tempfile import gettempdir

import onnx
import torch
from torch import nn

from flare_export.errors import ModelError
from flare_runtime.compute.arrays import Shape3
from flare_runtime.files.temporary import temporary_folder
from flare_runtime.model.onnx_shapes import OPERATORS

INPUT, OUTPUT = "tiles", "logits"


def opset_of(network: nn.Module) -> int:
    """Return the version of ONNX's operators that a network needs: GELU is one since version 20."""
    return 20 if any(isinstance(layer, nn.GELU) for layer in network.modules()) else 18


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
            opset_version=opset_of(network),
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
            f"the network's graph holds {', '.join(sorted(foreign))}; flare-infer runs {', '.join(sorted(OPERATORS))}"
        )
    if len(model.graph.output) != 1:
        raise ModelError(f"the exported graph has {len(model.graph.output)} outputs; one head is expected")
