"""What the builder of TensorRT for RTX says of an engine: its layers, their types, its ends, the memory it takes.

An engine's own inspector wants a GPU. The builder writes the same text into its log.
"""

import re
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import msgspec

from flare_export.engine.precision import Kind, Layer, check_layers, is_convolution, kind_of
from flare_export.errors import DisagreementError
from flare_runtime.backends.tensorrt.cache import EngineInspection

_LAYER = re.compile(
    r"^Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*?)\], Constants: \[(?P<constants>.*?)\], "
    r"Outputs: \[(?P<outputs>.*?)\], TacticName: ",
    re.MULTILINE,
)
_TENSOR = re.compile(
    r"\{ Name: (?P<name>.*?), Dimensions: \[(?P<shape>[\d,]*)\], .*?Datatype: (?P<type>\w+), Format: (?P<format>.*?) \}"
)
_END = re.compile(
    r"^ Name: (?P<name>.*?), IOMode: (?P<mode>Input|Output), DataType: (?P<type>\w+), Dimensions: \[(?P<shape>[\d,]*)\]"
    r".*?Format: (?P<format>.*?) \}\]$",
    re.MULTILINE,
)
_MEMORY = re.compile(r"^Total (Activation|Weights) Memory: (\d+) bytes$", re.MULTILINE)
Shape: TypeAlias = tuple[int, ...]


class Tensor(msgspec.Struct, frozen=True):
    """A tensor in TensorRT's words."""

    name: str
    shape: Shape
    type: str
    format: str

    def __str__(self) -> str:
        shape = " x ".join(map(str, self.shape))
        return f"{self.name}: {self.type}, {self.format}, {shape}"


class InspectedLayer(msgspec.Struct, frozen=True):
    """A layer of an engine."""

    name: str
    kind: str
    inputs: tuple[Tensor, ...]
    constants: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


class Description(msgspec.Struct, frozen=True):
    """Everything that the builder says of an engine.

    Attributes:
        layers: in the order in which they run.
        inputs: what it reads.
        outputs: what it writes.
        weights_bytes: what its weights take on the GPU.
        memory_bytes: what a run takes there beside the weights, the tiles and the logits.
    """

    layers: tuple[InspectedLayer, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    weights_bytes: int
    memory_bytes: int

    def check(self, tiles: Shape, logits: Shape) -> EngineInspection:
        """Return what matters of it.

        Args:
            tiles: the shape of the input that the runtime gives, (n, channels, z, y, x).
            logits: the shape of the output that it takes, (n, outputs, z, y, x).

        Raises:
            DisagreementError: where a convolution is not in float16, or the ends are not those of the runtime.
        """
        layers = [_precision(layer) for layer in self.layers]
        check_layers(layers)
        for what, ends, shape in (("reads", self.inputs, tiles), ("writes", self.outputs, logits)):
            if [(end.shape, _is_plain(end)) for end in ends] != [(shape, True)]:
                said = "; ".join(map(str, ends)) or "nothing"
                raise DisagreementError(f"the engine {what} {said}, and the runtime float32 of {shape}, row by row")
        return EngineInspection(
            layers=len(layers),
            convolutions=sum(layer.convolves and layer.inputs[:1] == ("half",) for layer in layers),
            inputs=tuple(map(str, self.inputs)),
            outputs=tuple(map(str, self.outputs)),
            weights_bytes=self.weights_bytes,
            memory_bytes=self.memory_bytes,
        )


def describe(details: Sequence[str]) -> Description:
    """Return what the messages of a detailed build say of the engine.

    Raises:
        DisagreementError: where they lack the layers or the memory.
    """
    told = next((message for message in details if message.startswith("Layers:")), "")
    layers = tuple(
        InspectedLayer(
            layer["name"],
            layer["kind"],
            tuple(_tensors(layer["inputs"])),
            tuple(_tensors(layer["constants"])),
            tuple(_tensors(layer["outputs"])),
        )
        for layer in _LAYER.finditer(told)
    )
    memory = {what: int(size) for message in details for what, size in _MEMORY.findall(message)}
    if len(layers) != told.count("\nName: ") or not layers or len(memory) != 2:
        raise DisagreementError("TensorRT does not describe the engine as the versions do that are known here")
    ends = [(end["mode"], _tensor(end)) for end in _END.finditer(told)]
    inputs, outputs = (tuple(end for mode, end in ends if mode == wanted) for wanted in ("Input", "Output"))
    return Description(layers, inputs, outputs, memory["Weights"], memory["Activation"])


def _tensors(text: str) -> Iterator[Tensor]:
    return map(_tensor, _TENSOR.finditer(text))


def _tensor(match: re.Match[str]) -> Tensor:
    shape = tuple(int(side) for side in match["shape"].split(",") if side)
    return Tensor(match["name"], shape, match["type"], match["format"])


def _precision(layer: InspectedLayer) -> Layer:
    return Layer(layer.name, is_convolution(layer.kind), _kinds(layer.inputs), _kinds(layer.constants))


def _kinds(tensors: Sequence[Tensor]) -> tuple[Kind, ...]:
    return tuple(kind_of(tensor.type) for tensor in tensors)


def _is_plain(end: Tensor) -> bool:
    return kind_of(end.type) == "single" and "kLINEAR" in end.format
