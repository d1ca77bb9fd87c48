"""Checkpoints that are almost sound: entries and bytes changed at random."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch

from tests.fuzz.json_inputs import change, odd_entry
from tests.fuzz.nifti_inputs import damaged


def odd_checkpoint(rng: Random, file: Path) -> bytes:
    """Return a checkpoint with entries, its pickle or the bytes of its archive changed."""
    kind = rng.random()
    if kind < 0.5:
        content = torch.load(file, weights_only=False)
        for _ in range(rng.choice((1, 1, 2, 3))):
            change(rng, content, _odd_value)
        stream = io.BytesIO()
        torch.save(content, stream)
        return stream.getvalue()
    if kind < 0.8:
        return _with_odd_pickle(rng, file)
    return damaged(rng, file.read_bytes())


def _with_odd_pickle(rng: Random, file: Path) -> bytes:
    """Change bytes of the pickle and write an archive around it whose checksums are right."""
    stream = io.BytesIO()
    with zipfile.ZipFile(file) as archive, zipfile.ZipFile(stream, "w") as other:
        for entry in archive.infolist():
            data = archive.read(entry)
            if entry.filename.endswith("/data.pkl"):
                for _ in range(rng.choice((1, 2, 5))):
                    data = _odd_pickle(rng, data)
            elif rng.random() < 0.02:
                data = damaged(rng, data)
            other.writestr(zipfile.ZipInfo(entry.filename), data)
    return stream.getvalue()


def _odd_pickle(rng: Random, data: bytes) -> bytes:
    place = rng.randrange(len(data))
    if rng.random() < 0.3:
        return damaged(rng, data)
    if rng.random() < 0.5:  # an opcode for another
        return (
            data[:place] + bytes([rng.choice(b"().01KMJGNtuesabRQ}]l2q r\x85\x86\x87\x88\x89\x8a")]) + data[place + 1 :]
        )
    start = rng.randrange(len(data))
    piece = data[start : start + rng.choice((1, 2, 5, 20, 200))]
    return data[:place] + piece + data[place + rng.choice((0, len(piece))) :]


def _odd_value(rng: Random, value: Any) -> Any:
    """Return a tensor that is off for a tensor, anything for anything else."""
    if not isinstance(value, torch.Tensor) or rng.random() < 0.2:
        return rng.choice((odd_entry(rng, value), torch.zeros(2), torch.device("cpu"), (0, 0), (0, 1, 2, 3), value))
    tensor = value.detach()
    odd: tuple[Callable[[], Any], ...] = (
        lambda: tensor * float("nan"),
        lambda: tensor + float("inf"),
        lambda: tensor.to(torch.complex64),
        lambda: tensor.to(torch.int64),
        lambda: tensor.to(torch.bool),
        lambda: tensor.to(torch.float8_e5m2),
        lambda: tensor.double() * 1e300,
        lambda: tensor.half(),
        lambda: tensor.to("meta"),
        lambda: tensor.to_sparse(),
        lambda: tensor.flatten(),
        lambda: tensor[None],
        lambda: tensor[:0].clone(),
        lambda: torch.zeros(1).expand(1 << 30, 1 << 30),
        lambda: torch.nn.Parameter(tensor),
    )
    return rng.choice(odd)()
