"""Layers that nnU-Net's builder makes, as layers that every engine runs."""

from copy import deepcopy
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from flare_export.errors import ModelError
from flare_export.graph.fp16_graph import to_fp16
from flare_export.graph.onnx_graph import to_onnx
from flare_export.graph.plain_layers import make_plain
from flare_export.source.architecture import build_network, describe
from flare_runtime.backends.cudnn.steps import read_steps
from flare_runtime.backends.onnxruntime_cpu import OnnxRuntimeNetwork
from flare_runtime.backends.openvino.network import OpenVINONetwork
from flare_runtime.errors import DeviceError
from flare_runtime.model.onnx_graph import read_graph
from flare_runtime.model.onnx_shapes import computed
from tests.model_folders import CONFIGURATION, make_plans

BATCH = {"norm_op": "torch.nn.BatchNorm3d", "norm_op_kwargs": {"eps": 1e-3, "affine": True}}
TILE = np.random.default_rng(0).standard_normal((1, 1, 16, 16, 16), np.float32)

# name: (the `architecture` block's layers, ONNX operators beside Conv, ConvTranspose and Concat)
CASES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "InstanceNorm without weights": ({"norm_op_kwargs": {"affine": False}}, {"InstanceNormalization", "LeakyRelu"}),
    "InstanceNorm of fixed numbers": ({"norm_op_kwargs": {"track_running_stats": True}}, {"LeakyRelu"}),
    "BatchNorm": (BATCH, {"LeakyRelu"}),
    "BatchNorm without weights": ({**BATCH, "norm_op_kwargs": {"affine": False}}, {"LeakyRelu"}),
    "BatchNorm of each batch": (
        {**BATCH, "norm_op_kwargs": {"track_running_stats": False}},
        {"InstanceNormalization", "LeakyRelu"},
    ),
    "BatchNorm behind the activation": ({**BATCH, "nonlin_first": True}, {"LeakyRelu"}),
    "BatchNorm without biases": ({**BATCH, "conv_bias": False}, {"LeakyRelu"}),
    "BatchNorm behind dropout": (
        {**BATCH, "dropout_op": "torch.nn.Dropout3d", "dropout_op_kwargs": {"p": 0.5}},
        {"LeakyRelu"},
    ),
    "no norm": ({"norm_op": None, "norm_op_kwargs": None}, {"LeakyRelu"}),
    "GroupNorm of every channel": (
        {"norm_op": "torch.nn.GroupNorm", "norm_op_kwargs": {"num_channels": 8}, "features_per_stage": [8, 8]},
        {"InstanceNormalization", "LeakyRelu"},
    ),
    "ReLU": ({"nonlin": "torch.nn.ReLU"}, {"InstanceNormalization", "Relu"}),
    "a steep LeakyReLU": ({"nonlin_kwargs": {"negative_slope": 0.3}}, {"InstanceNormalization", "LeakyRelu"}),
    "GELU": ({"nonlin": "torch.nn.GELU", "nonlin_kwargs": {}}, {"InstanceNormalization", "Gelu"}),
    "GELU by tanh": (
        {"nonlin": "torch.nn.GELU", "nonlin_kwargs": {"approximate": "tanh"}},
        {"InstanceNormalization", "Gelu"},
    ),
    "SiLU": ({"nonlin": "torch.nn.SiLU"}, {"InstanceNormalization", "Sigmoid", "Mul"}),
    "ELU": ({"nonlin": "torch.nn.ELU", "nonlin_kwargs": {"alpha": 0.7}}, {"InstanceNormalization", "Elu"}),
}
# What the cuDNN engine has no kernel for.
NOT_ON_CUDNN = {"GELU", "GELU by tanh", "SiLU", "ELU"}


def make_network(layers: dict[str, Any], name: str | None = None) -> nn.Module:
    """A network with weights, scales and fixed numbers that are nothing plain."""
    block = make_plans(features=(8, 16), network=name, layers=layers)["configurations"][CONFIGURATION]["architecture"]
    torch.manual_seed(0)
    network = build_network(block, 1, 2)
    with torch.no_grad():
        for key, tensor in network.state_dict().items():
            if tensor.is_floating_point() and tensor.ndim == 1:
                tensor.uniform_(0.5, 1.5) if key.endswith(("weight", "var")) else tensor.uniform_(-0.5, 0.5)
    return network


@pytest.mark.parametrize("name", CASES)
def test_every_layer_gives_what_pytorch_gives(name: str) -> None:
    layers, operators = CASES[name]
    network = make_network(layers)
    plain = deepcopy(network)
    make_plain(plain)
    data = to_onnx(plain, 1, TILE.shape[2:], {})
    graph = read_graph(data)
    assert computed(graph)[graph.outputs[0]].shape == (1, 2, 16, 16, 16)
    assert {layer.kind for layer in graph.layers} - {"Identity"} == {"Conv", "ConvTranspose", "Concat"} | operators
    with torch.no_grad():
        expected = network(torch.from_numpy(TILE)).numpy()
    limit = 1e-5 * max(np.abs(expected).max(), 1)
    for engine in (OnnxRuntimeNetwork(data, "fp32"), OpenVINONetwork(data, "fp32")):
        assert np.abs(engine.run(TILE) - expected).max() < limit
    half = to_fp16(data)
    assert computed(read_graph(half))
    assert np.abs(OnnxRuntimeNetwork(half, "fp16").run(TILE) - expected).max() < 1e3 * limit
    if name in NOT_ON_CUDNN:
        with pytest.raises(DeviceError, match=r"the cudnn backend cannot run this network \(\w+ .*; use --backend"):
            read_steps(graph)
    else:
        assert read_steps(graph).steps


def test_a_batch_norm_becomes_a_part_of_its_convolution() -> None:
    """By hand: 3x + 1 with mean 2 and variance 8 + 1, then times 6 and minus 5, is 6 (3x + 1 - 2) / 3 - 5 = 6x - 7."""
    convolution, norm = nn.Conv3d(1, 1, 1), nn.BatchNorm3d(1, eps=1.0)
    convolution.load_state_dict({"weight": torch.full((1, 1, 1, 1, 1), 3.0), "bias": torch.tensor([1.0])})
    numbers = {"weight": 6.0, "bias": -5.0, "running_mean": 2.0, "running_var": 8.0}
    norm.load_state_dict({**{k: torch.tensor([v]) for k, v in numbers.items()}, "num_batches_tracked": torch.tensor(1)})
    network = nn.Sequential(convolution, norm).eval()
    make_plain(network)
    assert convolution.weight.item() == pytest.approx(6.0)
    assert convolution.bias is not None
    assert convolution.bias.item() == pytest.approx(-7.0)
    assert isinstance(network[1], nn.Identity)


@pytest.mark.parametrize(
    ("name", "block"),  # nnU-Net's residual decoder cannot be made of bottlenecks
    [("ResidualEncoderUNet", "BasicBlockD"), ("ResidualEncoderUNet", "BottleneckD"), ("ResidualUNet", "BasicBlockD")],
)
def test_residual_networks_of_every_block_run(name: str, block: str) -> None:
    path = f"dynamic_network_architectures.building_blocks.residual.{block}"
    layers: dict[str, Any] = {"bottleneck_channels": 8, "stem_channels": 8} if block == "BottleneckD" else {}
    network = make_network({"block": path, **layers}, name)
    plain = deepcopy(network)
    make_plain(plain)
    with torch.no_grad():
        expected = network(torch.from_numpy(TILE)).numpy()
    data = to_onnx(plain, 1, TILE.shape[2:], {})
    assert np.abs(OpenVINONetwork(data, "fp32").run(TILE) - expected).max() < 1e-4
    assert read_steps(read_graph(data)).steps


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"norm_op": "torch.nn.GroupNorm"}, r"GroupNorm.* missing 1 required positional argument: 'num_channels'"),
        ({"norm_op": "torch.nn.LayerNorm"}, r"the norm_op 'torch.nn.LayerNorm' of the `architecture` block is not"),
        ({"nonlin": "torch.nn.PReLU"}, r"the nonlin 'torch.nn.PReLU' of the `architecture` block is not supported"),
        ({"squeeze_excitation": True}, r"unexpected keyword argument 'squeeze_excitation'"),
        ({"norm_op_kwargs": {"epsilon": 1}}, r"InstanceNorm.*unexpected keyword argument 'epsilon'"),
    ],
)
def test_what_does_not_run_is_refused_by_its_name(layers: dict[str, Any], message: str) -> None:
    block = make_plans(layers=layers)["configurations"][CONFIGURATION]["architecture"]
    with pytest.raises(ModelError, match=message):
        describe(block, 1, 2, (16, 16, 16))


@pytest.mark.parametrize("layer", [nn.GroupNorm(2, 8), nn.LayerNorm(16), nn.Softmax(1), nn.PixelShuffle(1)])
def test_what_a_users_trainer_builds_and_no_engine_runs_is_refused_by_its_name(layer: nn.Module) -> None:
    with pytest.raises(ModelError, match=f"the network holds {type(layer).__name__}, for which flare-infer has no"):
        make_plain(nn.Sequential(nn.Conv3d(1, 8, 3, padding=1), layer))


class Resized(nn.Module):
    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        return nn.functional.interpolate(tiles, scale_factor=2.0)


def test_what_is_computed_without_a_layer_is_refused_by_its_operator() -> None:
    with pytest.raises(ModelError, match=r"the network's graph holds Constant, Resize; flare-infer runs Add, "):
        to_onnx(nn.Sequential(nn.Conv3d(1, 2, 1), Resized()), 1, (8, 8, 8), {})


def test_gelu_alone_asks_for_later_operators() -> None:
    versions = {}
    for name in ("ReLU", "GELU"):
        plain = make_network(CASES[name][0])
        make_plain(plain)
        data = to_onnx(plain, 1, TILE.shape[2:], {})
        versions[name] = onnx.load_from_string(data).opset_import[0].version
    assert versions == {"ReLU": 18, "GELU": 20}
