"""Faults to make in a sound model folder: each function here returns one, or makes one."""

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.model_folders import CONFIGURATION

Fault = Callable[[Path], None]
CHECKPOINT = Path("fold_0", "checkpoint_final.pth")
REMOVED: Any = object()


class Executes:
    """Unpickling it runs a shell command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


class Calls:
    """Unpickling it calls a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def set_entry(content: Any, path: str, value: Any) -> None:
    *parents, last = (int(key) if key.isdigit() and isinstance(content, list) else key for key in path.split("/"))
    for key in parents:
        content = content[int(key) if isinstance(content, list) else key]
    if value is REMOVED:
        del content[last]
    elif isinstance(content, list):
        content[int(last)] = value
    else:
        content[last] = value


def json_fault(name: str, path: str, value: Any) -> Fault:
    """Set one entry of a JSON file; `path` is its keys with / between them."""

    def apply(folder: Path) -> None:
        file = folder / name
        content = json.loads(file.read_text(encoding="utf-8"))
        set_entry(content, path, value)
        file.write_text(json.dumps(content), encoding="utf-8")

    return apply


def plan(path: str, value: Any) -> Fault:
    return json_fault("plans.json", path, value)


def configured(path: str, value: Any) -> Fault:
    return plan(f"configurations/{CONFIGURATION}/{path}", value)


def network(path: str, value: Any) -> Fault:
    return configured(f"architecture/arch_kwargs/{path}", value)


def dataset(path: str, value: Any) -> Fault:
    return json_fault("dataset.json", path, value)


def file_bytes(name: str | Path, data: bytes) -> Fault:
    return lambda folder: (folder / name).write_bytes(data) and None


def replaced(name: str | Path, make: Callable[[Path], Any]) -> Fault:
    def apply(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return apply


def old_style(folder: Path) -> None:
    configured("architecture", REMOVED)(folder)
    old = {"UNet_class_name": 7, "UNet_base_num_features": "4", "unet_max_num_features": None}
    old |= {"n_conv_per_stage_encoder": 3, "n_conv_per_stage_decoder": {}, "pool_op_kernel_sizes": [[1]]}
    for key, value in (old | {"conv_kernel_sizes": "3"}).items():
        configured(key, value)(folder)


def raw_plan(path: str, text: str) -> Fault:
    """Set an entry to what json.dumps would not write."""

    def apply(folder: Path) -> None:
        configured(path, "@here@")(folder)
        file = folder / "plans.json"
        file.write_text(file.read_text(encoding="utf-8").replace('"@here@"', text), encoding="utf-8")

    return apply


def checkpoint_fault(path: str, value: Any) -> Fault:
    """Set one entry of a checkpoint."""

    def apply(folder: Path) -> None:
        content = torch.load(folder / CHECKPOINT, weights_only=False)
        set_entry(content, path, value)
        torch.save(content, folder / CHECKPOINT)

    return apply


def first_weight(change: Callable[[torch.Tensor], Any]) -> Fault:
    """Change the first weight."""

    def apply(folder: Path) -> None:
        content = torch.load(folder / CHECKPOINT, weights_only=False)
        weights = content["network_weights"]
        name = next(iter(weights))
        weights[name] = change(weights[name])
        torch.save(content, folder / CHECKPOINT)

    return apply


def all_weights(change: Callable[[torch.Tensor], Any]) -> Fault:
    def apply(folder: Path) -> None:
        content = torch.load(folder / CHECKPOINT, weights_only=False)
        content["network_weights"] = {key: change(value) for key, value in content["network_weights"].items()}
        torch.save(content, folder / CHECKPOINT)

    return apply


def prefixed_weights(prefix: str) -> Fault:
    def apply(folder: Path) -> None:
        content = torch.load(folder / CHECKPOINT, weights_only=False)
        content["network_weights"] = {f"{prefix}{key}": value for key, value in content["network_weights"].items()}
        torch.save(content, folder / CHECKPOINT)

    return apply


def whole_checkpoint(content: Any) -> Fault:
    return lambda folder: torch.save(content, folder / CHECKPOINT)


def rewritten(change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> Fault:
    """Change the entries of the checkpoint's archive."""

    def apply(folder: Path) -> None:
        with zipfile.ZipFile(folder / CHECKPOINT) as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(folder / CHECKPOINT, "w", compression) as archive:
            for name, data in entries.items():
                archive.writestr(name, change(name, data))

    return apply


def pickled(change: Callable[[bytes], bytes]) -> Fault:
    return rewritten(lambda name, data: change(data) if name.endswith("/data.pkl") else data)


def weights_twice(folder: Path) -> None:
    content = torch.load(folder / CHECKPOINT, weights_only=False)
    weights = content["network_weights"]
    weights |= {f"module.{key}": value for key, value in weights.items()}
    torch.save(content, folder / CHECKPOINT)


def renamed_fold(name: str) -> Fault:
    return lambda folder: (folder / "fold_0").rename(folder / name) and None


def other_fold(path: str, value: Any) -> Fault:
    def apply(folder: Path) -> None:
        shutil.copytree(folder / "fold_0", folder / "fold_1")
        checkpoint_fault(path, value)(folder)

    return apply


def nested_lists(depth: int) -> Any:
    content: Any = []
    for _ in range(depth):
        content = [content]
    return content


def growing_text(times: int) -> bytes:
    """Return the pickle of a text that is written in hexadecimal, again and again."""
    encode, text = b"c_codecs\nencode\n", b"X\1\0\0\0a"
    first = encode + text + b"X\6\0\0\0latin1\x86R"
    return encode * times + first + b"X\3\0\0\0hex\x86R" * times
