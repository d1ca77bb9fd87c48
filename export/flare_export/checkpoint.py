"""nnU-Net checkpoints, read without running what is in them."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flare_export.errors import ModelError

# Beyond tensors and plain containers a genuine nnU-Net checkpoint holds only NumPy scalars, in its training log.
# NumPy 1 pickled them under `numpy.core`, NumPy 2 under `numpy._core`.
_SCALAR = np.float64(0).__reduce__()[0]
_ALLOWED: list[Any] = [
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("float32", "float64", "int64", "bool")),
]
_ALLOWED_NAMES = {
    entry[1] if isinstance(entry, tuple) else f"{entry.__module__}.{entry.__qualname__}" for entry in _ALLOWED
}


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


def load_checkpoint(path: Path, fold: str) -> Checkpoint:
    """Read a checkpoint with PyTorch's restricted unpickler.

    Raises:
        ModelError: where it is missing, is not a PyTorch zip archive, or holds a type that genuine checkpoints do not;
            the type is named and never imported.
    """
    if not path.is_file():
        raise ModelError(f"{path}: there is no such checkpoint; choose one with --fold and --checkpoint")
    try:
        foreign = sorted(set(torch.serialization.get_unsafe_globals_in_checkpoint(str(path))) - _ALLOWED_NAMES)
        if foreign:
            raise ModelError(f"{path.name}: refused, it holds {', '.join(foreign)}, which no nnU-Net checkpoint needs")
        with torch.serialization.safe_globals(_ALLOWED):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except ModelError:
        raise
    except Exception as error:  # the unpickler raises whatever a damaged file leads it to
        raise ModelError(f"{path}: not a readable PyTorch checkpoint ({str(error).splitlines()[0]})") from error
    try:
        return Checkpoint(
            fold=fold,
            weights={_plain_key(key): value for key, value in content["network_weights"].items()},
            configuration=str(content["init_args"]["configuration"]),
            trainer=str(content["trainer_name"]),
            epochs=int(content["current_epoch"]),
            mirror_axes=tuple(int(axis) for axis in content.get("inference_allowed_mirroring_axes") or ()),
            sha256=_sha256(path),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path.name}: not an nnU-Net v2 checkpoint, {error} is missing") from error


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
