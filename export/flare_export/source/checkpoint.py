"""nnU-Net checkpoints, read without running what is in them."""

import hashlib
import pickletools
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import torch
from msgspec import Meta

from flare_export.errors import ModelError
from flare_export.source.schema import checked
from flare_runtime.errors import first_line
from flare_runtime.files.naming import visible
from flare_runtime.model.manifest import Axis

# What a genuine checkpoint calls on being read. PyTorch's own list of safe names is longer; some of them make as much
# memory as a file asks for.
_ALLOWED_NAMES = {
    "_codecs.encode",
    "collections.OrderedDict",
    "numpy.dtype",
    "numpy.core.multiarray.scalar",  # NumPy 1's name of it, then NumPy 2's
    "numpy._core.multiarray.scalar",
    "torch.device",
    "torch.Size",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor_v2",
    *(
        f"torch.{kind}Storage"
        for kind in ("BFloat16", "Half", "Float", "Double", "Bool", "Byte", "Short", "Int", "Long")
    ),
}
_SCALARS = ("b1", "i4", "i8", "f2", "f4", "f8")
_WEIGHTS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
# How many batches a norm has seen, which PyTorch keeps beside its weights.
_COUNT = ".num_batches_tracked"
# A log of 4,000 epochs and 117 classes takes 20 MiB and 6 million instructions, which PyTorch executes in Python.
_MAX_PICKLE_BYTES = 64 << 20
_MAX_OPCODES = 20_000_000
# Of the pickles that PyTorch writes, and the only one that its restricted unpickler reads.
_PROTOCOL = 2
# To use a tuple as a key means to go through all that is in it, however often the same tuple is in it.
_MAX_DEPTH = 16


@dataclass(frozen=True)
class Checkpoint:
    """What inference needs of one fold's checkpoint.

    Attributes:
        fold: `0` to `4`, or `all`.
        weights: the network's state dict without the prefixes of DataParallel and torch.compile.
        configuration: the nnU-Net configuration it was trained in, such as `3d_fullres`.
        trainer: the trainer class's name.
        epochs: how many were trained.
        mirror_axes: the axes that may be mirrored.
        sha256: of the file.
    """

    fold: str
    weights: Mapping[str, torch.Tensor]
    configuration: str
    trainer: str
    epochs: int
    mirror_axes: tuple[int, ...]
    sha256: str


class _InitArgs(msgspec.Struct):
    configuration: str


class _Content(msgspec.Struct):
    """What is used of a checkpoint; the optimiser's state and the log are in it as well."""

    network_weights: dict[str, Any]
    init_args: _InitArgs
    trainer_name: str
    current_epoch: Annotated[int, Meta(ge=0, le=10**9)]
    inference_allowed_mirroring_axes: Annotated[tuple[Axis, ...], Meta(max_length=3)] | None = None


def load_checkpoint(path: Path, fold: str) -> Checkpoint:
    """Read what inference needs of a checkpoint.

    Raises:
        ModelError: as `read_checkpoint`, or where something is missing, of a wrong type, or no number.
    """
    content = checked(read_checkpoint(path), _Content, f"{path}: not an nnU-Net v2 checkpoint")
    weights = {_plain_key(key): value for key, value in content.network_weights.items()}
    if len(weights) < len(content.network_weights):
        raise ModelError(f"{path}: refused, it holds a weight twice, with and without `module.` or `_orig_mod.`")
    for key, value in weights.items():
        if problem := _problem_of(key, value):
            raise ModelError(f"{path}: refused, the weight {key[:99]!r} {problem}")
    axes = content.inference_allowed_mirroring_axes or ()
    if len(set(axes)) < len(axes):
        raise ModelError(f"{path}: refused, inference_allowed_mirroring_axes {axes} names an axis twice")
    return Checkpoint(
        fold=fold,
        weights=deepcopy(weights),  # off the file, which may be written to; what is shared stays shared
        configuration=content.init_args.configuration,
        trainer=visible(content.trainer_name),
        epochs=content.current_epoch,
        mirror_axes=axes,
        sha256=_sha256(path),
    )


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint with PyTorch's restricted unpickler; its tensors are taken from the file as they are needed.

    Raises:
        ModelError: where it is missing, is not a PyTorch zip archive, or holds a type that genuine checkpoints do not;
            the type is named and never imported.
    """
    if not path.is_file():
        raise ModelError(f"{path}: there is no such checkpoint; choose one with --folds and --checkpoint")
    try:
        _check(_pickle_of(path))
        with torch.serialization.safe_globals(list(_STAND_INS)), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch warns of pickles that it may not read, and then reads none
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    except Exception as error:  # the unpickler raises whatever a damaged file leads it to
        raise ModelError(f"{path}: not a readable PyTorch checkpoint ({first_line(error)})") from error
    return checked(content, dict, f"{path}: not an nnU-Net v2 checkpoint")


def _pickle_of(path: Path) -> bytes:
    if not zipfile.is_zipfile(path):
        raise ValueError("it is no whole zip archive; one of before PyTorch 1.6 has to be loaded and saved anew")
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
        if not stored or sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise ValueError("its archive is compressed, or says that it holds more than the file")
        pickles = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
        if len(pickles) != 1 or pickles[0].file_size > _MAX_PICKLE_BYTES:
            raise ValueError(f"its archive needs one data.pkl of at most {_MAX_PICKLE_BYTES >> 20} MiB")
        return archive.read(pickles[0])


def _check(pickle: bytes) -> None:
    """Go through a pickle without building anything.

    Raises:
        ModelError: naming what it imports and no genuine checkpoint does.
        ValueError: where reading it would take time or memory without end.
    """
    stack: list[_Item] = []
    memo: dict[Any, _Item] = {}
    foreign = set()
    for count, (opcode, arg, _) in enumerate(pickletools.genops(pickle)):
        if count > _MAX_OPCODES:
            raise ValueError(f"its pickle has more than {_MAX_OPCODES:,} instructions")
        name, taken, item = opcode.name, _taken(opcode.stack_before, stack), _ANYTHING
        if name == "PROTO" and arg != _PROTOCOL:
            raise ValueError(f"its pickle is of protocol {arg}, and torch.save writes {_PROTOCOL}")
        if name == "GLOBAL":
            item = _Item(str(arg).replace(" ", "."))
            foreign |= {item.text} - _ALLOWED_NAMES
        elif name == "BINUNICODE":
            item = _Item(str(arg))
        elif name.startswith("TUPLE"):
            item = _Item(parts=taken, depth=1 + max((part.depth for part in taken), default=0))
            if item.depth > _MAX_DEPTH:
                raise ValueError("its pickle nests tuples without end")
        elif name == "REDUCE" and taken[1].text == "_codecs.encode":
            if [part.text for part in taken[0].parts[:-1]] != ["latin1"]:  # others make texts longer, again and again
                raise ValueError("its pickle uses another codec than latin1")
        elif name in ("BINGET", "LONG_BINGET"):
            item = memo[arg]
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[arg] = stack[-1]
        elif name == "MARK":
            item = _MARK
        stack += [item] * len(opcode.stack_after)
    if foreign:
        raise ModelError(f"refused, it holds {', '.join(sorted(foreign))}, which no nnU-Net checkpoint needs")


@dataclass(frozen=True, eq=False)
class _Item:
    """What an instruction of a pickle leaves on the stack: a text or name, or the parts of a tuple, the last first."""

    text: str = ""
    parts: Sequence["_Item"] = ()
    depth: int = 0


_ANYTHING, _MARK = _Item(), _Item()


def _taken(before: list[pickletools.StackObject], stack: list[_Item]) -> list[_Item]:
    """Take from the stack what an instruction needs, the topmost first."""
    if not before:
        return []
    parts = []
    if pickletools.markobject in before:
        while (item := stack.pop()) is not _MARK:
            parts.append(item)
        before = before[: before.index(pickletools.markobject)]
    return parts + [stack.pop() for _ in before]


class _Dtype:
    """Stands in for numpy.dtype, which would make types of any size."""

    def __init__(self, code: str, *_flags: object) -> None:
        if code not in _SCALARS:
            raise ValueError(f"a number of the type {code!r}")
        self.code = code

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in "<|":
            raise ValueError(f"a number of the byte order {state[1]!r}")


def _scalar(dtype: _Dtype, data: bytes) -> Any:
    """Return a NumPy scalar, of which a genuine checkpoint holds some in its training log."""
    (number,) = np.frombuffer(data, f"<{dtype.code}")
    return number


_STAND_INS: tuple[Any, ...] = (
    (_Dtype, "numpy.dtype"),
    (_scalar, "numpy.core.multiarray.scalar"),
    (_scalar, "numpy._core.multiarray.scalar"),
)


def _problem_of(key: str, weight: object) -> str | None:
    if not isinstance(weight, torch.Tensor) or weight.layout != torch.strided or weight.is_quantized:
        return "is not a plain tensor"
    counts = key.endswith(_COUNT) and weight.dtype == torch.int64
    if not counts and weight.dtype not in _WEIGHTS:
        return f"is of {weight.dtype}, no floating-point numbers"
    if weight.numel() * weight.element_size() > weight.untyped_storage().nbytes():
        return f"says that it holds {weight.numel():,} numbers, which are not in the file"
    if not bool(torch.isfinite(weight.to(torch.float32)).all()):
        return "holds what is no number (NaN or infinity)"
    return None


def _plain_key(key: str) -> str:
    for prefix in ("module.", "_orig_mod."):
        key = key.removeprefix(prefix)
    return key


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
