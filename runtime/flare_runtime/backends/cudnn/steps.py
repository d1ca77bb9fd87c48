"""A U-Net as convolutions, each with what follows it: a norm or a bias, a sum, an activation."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from flare_runtime.compute.arrays import FloatArray, Shape3
from flare_runtime.errors import DeviceError
from flare_runtime.model.onnx_graph import Layer, OnnxGraph

# A tensor's voxels and channels, (z, y, x, channels).
Shape4 = tuple[int, int, int, int]
# Channels are handled in groups of so many, 16 bytes of float16.
GROUP = 8
_MOST_CHANNELS = 256 * GROUP
_ONES = (1, 1, 1)
# What every layer must have, where it says anything of it.
_PLAIN: dict[str, object] = {"group": 1, "dilations": [1, 1, 1], "auto_pad": "NOTSET", "ceil_mode": 0, "axis": 1}


@dataclass(frozen=True)
class Norm:
    """An instance norm: what the normalised channels are multiplied with, what is added, and its epsilon."""

    gamma: FloatArray
    beta: FloatArray
    epsilon: float


@dataclass
class Step:
    """One convolution, then norm or bias, the sum with another tensor if there is one, and a leaky ReLU.

    Attributes:
        inputs: the names of the tensors that are convolved and, if there is one, added.
        output: the name of the result.
        filters: (outputs, z, y, x, inputs); those of a transposed convolution make all its output voxels of one input
            voxel at once.
        bias: one number a channel.
        stride, pads: (z, y, x), and the same before and behind.
        up: how many output voxels a transposed convolution has for an input voxel, (z, y, x).
        norm: after the convolution; its bias is left out then, as the norm takes it away again.
        slope: what negative values are multiplied with.
    """

    inputs: list[str]
    output: str
    filters: FloatArray
    bias: FloatArray
    stride: Shape3 = _ONES
    pads: tuple[int, ...] = (0,) * 6
    up: Shape3 = _ONES
    norm: Norm | None = None
    slope: float = 1.0


@dataclass
class Steps:
    """A whole network for one tile.

    Attributes:
        source: the name of the tile.
        channels: of the tile.
        steps: in order, without the last convolution.
        head: the last convolution, 1x1x1, which makes the logits.
        shapes: of every tensor, by name; the tile's channels are filled up to a whole group.
        parts: for each tensor the concatenations it is a part of, and its first channel there.
    """

    source: str
    channels: int
    steps: list[Step] = field(default_factory=list)
    head: Step = field(init=False)
    shapes: dict[str, Shape4] = field(default_factory=dict)
    parts: dict[str, list[tuple[str, int]]] = field(default_factory=lambda: defaultdict(list))


def read_steps(graph: OnnxGraph) -> Steps:
    """Return the steps of a network.

    Raises:
        DeviceError: where it is built of something else than nnU-Net's networks are.
    """
    source, shape = next(iter(graph.inputs.items()))
    if len(graph.inputs) != 1 or len(shape) != 5 or min(shape) < 1 or shape[0] != 1:
        raise unsupported(f"it takes {graph.inputs}, not one tile of a fixed size")
    _, channels, *size = shape
    steps = Steps(source, channels)
    steps.shapes[source] = (size[0], size[1], size[2], -(-channels // GROUP) * GROUP)
    reader = _Reader(graph, steps)
    try:
        for layer in graph.layers:
            reader.add(layer)
        reader.finish()
    except (KeyError, ValueError, IndexError) as error:  # weights that are computed, other numbers of axes
        raise unsupported(f"{type(error).__name__} {error}") from error
    return steps


class _Reader:
    def __init__(self, graph: OnnxGraph, result: Steps) -> None:
        self._weights = graph.weights
        self._outputs = graph.outputs
        self._result = result
        self._users = defaultdict[str, list[str]](list)  # the kinds of the layers that read a tensor
        for layer in graph.layers:
            for name in layer.inputs:
                self._users[name].append(layer.kind)
        self._follow: dict[str, Callable[[Layer, Step, bool], bool]] = {
            "InstanceNormalization": self._norm,
            "Add": self._add,
            "LeakyRelu": self._activation,
            "Relu": self._activation,
        }

    def add(self, layer: Layer) -> None:
        """Make a layer a step, or a part of the step whose result it alone reads."""
        given = layer.attributes
        if odd := {name: given[name] for name, plain in _PLAIN.items() if given.get(name, plain) != plain}:
            raise unsupported(f"{layer.kind} {layer.output} has {odd}")
        shapes = self._result.shapes
        if layer.kind in ("Conv", "AveragePool", "ConvTranspose"):
            self._convolution(layer)
        elif layer.kind == "Concat":
            for name in layer.inputs:
                first = shapes[layer.output][3] if layer.output in shapes else 0
                self._result.parts[name].append((layer.output, first))
                shapes[layer.output] = (*shapes[name][:3], first + shapes[name][3])
        else:
            self._join(layer)

    def _join(self, layer: Layer) -> None:
        """Make a layer a part of the last step, whose result it alone reads."""
        follow = self._follow.get(layer.kind)
        step = self._result.steps[-1] if self._result.steps else None
        if (
            follow is None
            or step is None
            or step.slope != 1
            or step.output not in layer.inputs
            or self._users[step.output] != [layer.kind]
            or not follow(layer, step, len(step.inputs) == 1)
        ):
            raise unsupported(f"{layer.kind} {layer.output} follows nothing that it can be computed with")
        shapes = self._result.shapes
        shapes[layer.output], step.output = shapes[step.output], layer.output

    def finish(self) -> None:
        """Take the last step for the head."""
        if not self._result.steps:
            raise unsupported("it has no convolution")
        head = self._result.head = self._result.steps.pop()
        pointwise = head.filters.shape[1:4] == head.stride == head.up == _ONES and not any(head.pads)
        plain = head.norm is None and head.slope == 1 and len(head.inputs) == 1
        if not (pointwise and plain and self._outputs == [head.output]):
            raise unsupported("it does not end with one 1x1x1 convolution")
        for step in self._result.steps:
            channels = self._result.shapes[step.output][3]
            if channels % GROUP or channels > _MOST_CHANNELS:
                raise unsupported(f"{step.output} has {channels} channels, not a multiple of {GROUP}")
        made = {step.output for step in self._result.steps}
        if self._result.parts.keys() - made:
            raise unsupported("it concatenates something else than results of convolutions")

    def _norm(self, layer: Layer, step: Step, alone: bool) -> bool:
        if not alone or step.norm or step.up != _ONES:
            return False
        gamma, beta = (self._weights[name] for name in layer.inputs[1:])
        step.norm, step.bias = Norm(gamma, beta, _number(layer, "epsilon", 1e-5)), np.zeros_like(beta)
        return True

    def _add(self, layer: Layer, step: Step, alone: bool) -> bool:
        others = [name for name in layer.inputs if name != step.output]
        if not alone or len(others) != 1 or others[0] in self._weights:
            return False
        step.inputs += others
        return True

    def _activation(self, layer: Layer, step: Step, _alone: bool) -> bool:
        step.slope = _number(layer, "alpha", 0.01) if layer.kind == "LeakyRelu" else 0.0
        return True

    def _convolution(self, layer: Layer) -> None:
        """Add a convolution; an average pooling is one, and a transposed convolution a 1x1x1 one with more outputs."""
        source, *names = layer.inputs
        *size, channels = self._result.shapes[source]
        weights = self._weights[names[0]] if names else np.eye(channels, dtype=np.float32)
        kernel = _sides(layer, "kernel_shape", weights.shape[2:])
        stride, pads = _sides(layer, "strides", _ONES), _sides(layer, "pads", (0,) * 6)
        up = _ONES
        if layer.kind != "Conv" and (any(pads) or (layer.kind == "ConvTranspose" and kernel != stride)):
            raise unsupported(f"{layer.kind} {layer.output} has padding, or a kernel other than its stride")
        if layer.kind == "AveragePool":
            weights = np.tile(weights[:, :, None, None, None] / prod(kernel), (1, 1, *kernel))
        elif layer.kind == "ConvTranspose":
            weights = np.moveaxis(weights, (0, 1), (4, 3)).reshape(-1, channels, 1, 1, 1)
            kernel, stride, up = _ONES, _ONES, (stride[0], stride[1], stride[2])
        filters = np.moveaxis(weights, 1, -1).astype(np.float32)
        filters = np.pad(filters, [*[(0, 0)] * 4, (0, channels - filters.shape[-1])])
        ahead = [side + pads[i] + pads[i + 3] - kernel[i] for i, side in enumerate(size)]
        z, y, x = ((ahead[i] // stride[i] + 1) * up[i] for i in range(3))
        outputs = len(filters) // prod(up)
        bias = self._weights[names[1]] if len(names) > 1 else np.zeros(outputs, np.float32)
        self._result.shapes[layer.output] = (z, y, x, outputs)
        strides = (stride[0], stride[1], stride[2])
        self._result.steps.append(Step([source], layer.output, filters, bias, strides, tuple(pads), up))


def _sides(layer: Layer, name: str, default: Sequence[int]) -> tuple[int, ...]:
    given: Any = layer.attributes.get(name, default)
    return tuple(given)


def _number(layer: Layer, name: str, default: float) -> float:
    given: Any = layer.attributes.get(name, default)
    return float(given)


def unsupported(why: str) -> DeviceError:
    """Return the error that says why a network cannot run here."""
    return DeviceError(f"the cudnn backend cannot run this network ({why}); use --backend onnxruntime")
