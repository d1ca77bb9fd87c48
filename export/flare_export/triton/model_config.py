"""Triton's model configurations, in the text format of its protobuf schema."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

DataType: TypeAlias = Literal["TYPE_FP32", "TYPE_FP64", "TYPE_STRING", "TYPE_UINT8"]


@dataclass(frozen=True)
class Tensor:
    """What a model takes or gives.

    Attributes:
        name: of the tensor.
        data_type: of its elements.
        dims: its shape, -1 where a side is not fixed.
        optional: of an input, whether a request may leave it out.
    """

    name: str
    data_type: DataType
    dims: Sequence[int]
    optional: bool = False


@dataclass(frozen=True)
class ModelConfig:
    """One model of a repository, which takes one request at a time.

    Attributes:
        name: of the model, which is that of its folder.
        backend: what runs it: `onnxruntime`, `tensorrt` or `python`.
        file: of the model, in the folder of its version.
        inputs, outputs: its tensors.
        kind: where an instance runs; `KIND_AUTO` is a GPU where the server has one.
        comment: stands above, a line each.
    """

    name: str
    backend: Literal["onnxruntime", "tensorrt", "python"]
    file: str
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]
    kind: Literal["KIND_AUTO", "KIND_GPU"] = "KIND_AUTO"
    comment: Sequence[str] = ()

    def encode(self) -> str:
        """Return the content of config.pbtxt."""
        lines = [
            *(f"# {line}" for line in self.comment),
            f'name: "{self.name}"',
            f'backend: "{self.backend}"',
            f'default_model_filename: "{self.file}"',
            "max_batch_size: 0",
            *_tensors("input", self.inputs),
            *_tensors("output", self.outputs),
            f"instance_group [ {{ count: 1 kind: {self.kind} }} ]",
        ]
        return "\n".join(lines) + "\n"


def _tensors(field: str, tensors: Sequence[Tensor]) -> Iterable[str]:
    for tensor in tensors:
        dims = ", ".join(map(str, tensor.dims))
        optional = " optional: true" if tensor.optional else ""
        yield f'{field} [ {{ name: "{tensor.name}" data_type: {tensor.data_type} dims: [ {dims} ]{optional} }} ]'
