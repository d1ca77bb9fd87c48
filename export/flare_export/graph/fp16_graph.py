"""Converts an ONNX network to half precision, its types written into the graph, with the norms left in float32."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from flare_export.errors import ModelError

# Sums over a whole patch, which half precision cannot hold.
_FLOAT32 = "InstanceNormalization"
_HALF_MAX = float(np.finfo(np.float16).max)


def to_fp16(network: bytes) -> bytes:
    """Return an ONNX network that computes in float16 what the given one computes in float32.

    Inputs and outputs stay float32. Every tensor's type follows from the graph alone, as strongly typed engines
    (TensorRT 11, which has no other kind) demand: weights and activations are float16, and an InstanceNormalization
    stands between two casts with its own weights in float32.

    Args:
        network: float32, as `to_onnx` gives it.

    Raises:
        ModelError: where a weight is beyond what float16 holds.
    """
    model = onnx.load_from_string(network)
    graph = model.graph
    kept = {name for node in graph.node if node.op_type == _FLOAT32 for name in node.input[1:]}
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in kept:
            tensor.CopyFrom(_half(tensor))
    nodes: list[onnx.NodeProto] = []
    source, result = graph.input[0].name, graph.output[0].name
    nodes.append(_cast(source, f"{source}_fp16", TensorProto.FLOAT16))
    renamed = {source: f"{source}_fp16", result: f"{result}_fp16"}
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [renamed.get(name, name) for name in names]
        nodes += _in_float32(node) if node.op_type == _FLOAT32 else [node]
    nodes.append(_cast(f"{result}_fp16", result, TensorProto.FLOAT))
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model, full_check=True)
    serialized: bytes = model.SerializeToString()
    return serialized


def _half(tensor: onnx.TensorProto) -> onnx.TensorProto:
    values = numpy_helper.to_array(tensor)
    largest = float(np.abs(values).max(initial=0.0))
    if not largest <= _HALF_MAX:
        raise ModelError(f"{tensor.name}: holds {largest:g}, and float16 no more than {_HALF_MAX:g}")
    return numpy_helper.from_array(values.astype(np.float16), tensor.name)


def _in_float32(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    source, target = node.input[0], node.output[0]
    node.input[0], node.output[0] = f"{target}_wide_in", f"{target}_wide"
    return [
        _cast(source, node.input[0], TensorProto.FLOAT),
        node,
        _cast(node.output[0], target, TensorProto.FLOAT16),
    ]


def _cast(source: str, target: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"cast_{target}", to=kind)
