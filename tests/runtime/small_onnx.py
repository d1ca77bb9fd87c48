"""Small ONNX networks made by hand, as `flare-export` writes them and as it never does."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.runtime.manifests import FILE_FIELDS, write_bundle


def small_network(channels: int = 1, outputs: int = 2, patch: tuple[int, ...] = (8, 8, 8)) -> Any:
    """Return a `ModelProto` of two convolutions with a norm between them."""
    chance = np.random.default_rng(0)
    weights = {
        "first": chance.standard_normal((4, channels, 3, 3, 3)),
        "scale": np.ones(4),
        "bias": np.zeros(4),
        "last": chance.standard_normal((outputs, 4, 1, 1, 1)),
    }
    nodes = [
        helper.make_node("Conv", ["tiles", "first"], ["a"], name="conv", pads=[1] * 6, kernel_shape=[3] * 3),
        helper.make_node("InstanceNormalization", ["a", "scale", "bias"], ["b"], epsilon=1e-5),
        helper.make_node("LeakyRelu", ["b"], ["c"], alpha=0.01),
        helper.make_node("Conv", ["c", "last"], ["logits"], kernel_shape=[1] * 3),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, count, *patch])
        for name, count in (("tiles", channels), ("logits", outputs))
    ]
    tensors = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "small", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def changed_network(change: Callable[[Any], Any]) -> bytes:
    """Return a small network after `change` was made to it."""
    model = small_network()
    change(model)
    data: bytes = model.SerializeToString()
    return data


def network_bundle(path: Path, onnx: bytes, **changes: Any) -> Path:
    """Write a bundle that holds this network."""
    file = {**FILE_FIELDS, "sha256": hashlib.sha256(onnx).hexdigest(), "bytes": len(onnx)}
    write_bundle(path, files=[file], **changes)
    (path / "network.onnx").write_bytes(onnx)
    return path
