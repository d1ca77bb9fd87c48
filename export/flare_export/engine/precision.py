"""Checks that an engine computes in float16, by what TensorRT says of its layers and by its size."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flare_export.errors import DisagreementError

Kind = Literal["half", "single", "other"]

# Kernels, and for a version-compatible engine the lean runtime inside it, beside the weights.
_CODE_BYTES = 64 << 20


@dataclass(frozen=True)
class Layer:
    """What an engine, or a network that is to become one, says of a layer.

    Attributes:
        name: as TensorRT calls it.
        convolves: whether it is a convolution or a transposed one, alone or fused with others.
        inputs: the types of its input tensors, the activations first.
        weights: the types of its constants, the kernel first, where they are told apart from the inputs.
    """

    name: str
    convolves: bool
    inputs: tuple[Kind, ...]
    weights: tuple[Kind, ...] = ()


def kind_of(text: str) -> Kind:
    """Return which type TensorRT names: `Half`, `FLOAT`, `Row major linear FP16 format`, `Half(64,1:8,...)`, ..."""
    if re.search(r"\b(half|fp16|float16)\b", text, re.IGNORECASE):
        return "half"
    return "single" if re.search(r"\b(float|fp32|float32)\b", text, re.IGNORECASE) else "other"


def is_convolution(role: str) -> bool:
    """Whether TensorRT's word for a layer's type means a convolution, or a transposed one."""
    return "conv" in role.lower() or "correlation" in role.lower()


def read_layers(information: str) -> list[Layer]:
    """Return the layers of an engine that was built with detailed profiling verbosity.

    Args:
        information: the engine inspector's JSON, of TensorRT 10 or 11; anything else has no layers.
    """
    try:
        content = json.loads(information)
    except ValueError:
        return []
    entries = content.get("Layers", []) if isinstance(content, dict) else []
    # Without details a layer is its name alone.
    return [_layer(entry) for entry in entries if isinstance(entry, dict)]


def _layer(entry: dict[str, Any]) -> Layer:
    convolves = is_convolution(f"{entry.get('LayerType', '')} {entry.get('ParameterType', '')}")
    return Layer(str(entry.get("Name", "")), convolves, tuple(_tensor_kind(t) for t in entry.get("Inputs", [])))


def _tensor_kind(tensor: dict[str, Any]) -> Kind:
    # TensorRT 10 has one field for layout and type, TensorRT 11 two.
    for field in ("Format/Datatype", "Datatype", "DataType"):
        if field in tensor:
            return kind_of(str(tensor[field]))
    return "other"


def check_layers(layers: Sequence[Layer], *, described: bool = True) -> str:
    """Return in one line how many layers compute in float16.

    A convolution's activations have to be float16; norms are float32 on purpose. Where TensorRT has fused every
    convolution beyond recognition, some layer has to be float16.

    Args:
        layers: of an engine, or of a network before it is built.
        described: whether there must be layers to judge.

    Raises:
        DisagreementError: where a convolution computes in float32, or nothing in float16.
    """
    convolutions = [layer for layer in layers if layer.convolves]
    wide = [layer.name for layer in convolutions if "single" in layer.inputs[:1] + layer.weights[:1]]
    if wide:
        raise DisagreementError(
            f"{len(wide)} of {len(convolutions)} convolutions compute in float32 in place of float16 ({wide[0]})"
        )
    half = sum(layer.inputs[:1] == ("half",) for layer in convolutions)
    if half:
        return f"{half} of {len(convolutions)} convolutions say that they compute in float16, none in float32"
    half = sum("half" in layer.inputs for layer in layers)
    if half:
        return f"{half} of {len(layers)} layers take float16; TensorRT names no convolution"
    if described or layers:
        raise DisagreementError(f"none of the {len(layers)} layers that TensorRT describes computes in float16")
    return "TensorRT describes no layer of this engine"


def check_size(engine_bytes: int, onnx_bytes: int) -> None:
    """Refuse an engine that is too large to hold its weights in float16.

    Args:
        engine_bytes: of the engine.
        onnx_bytes: of the float16 network it was built from.

    Raises:
        DisagreementError: with both sizes.
    """
    most = onnx_bytes * 3 // 2 + _CODE_BYTES
    if engine_bytes > most:
        raise DisagreementError(
            f"the engine holds {engine_bytes:,} bytes, and at most {most:,} are expected of a float16 network of "
            f"{onnx_bytes:,}: its weights seem to be float32"
        )
