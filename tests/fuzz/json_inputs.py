"""JSON that is almost sound: entries and bytes changed at random."""

import json
from collections.abc import Callable
from copy import deepcopy
from random import Random
from typing import Any

from tests.fuzz.nifti_inputs import damaged

_TEXTS = (
    "",
    "0",
    "2",
    "all",
    "abc",
    "os.system",
    "torch.nn.Conv2d",
    "InstanceNorm3d",
    "\ud800",
    "\x00\n\x1b[31m",
    "x" * 9999,
)
_NUMBERS = (0, 1, 2, 3, -1, 7, 255, 256, 1 << 31, 1 << 63, 10**30, 10**400, 0.0, 0.5, 1e-300, 1e300, -0.0)
_NUMBERS += (float("nan"), float("inf"), -float("inf"))
_PLAIN: tuple[Any, ...] = (None, True, False, [], {}, [[]], [0], {"0": 0}, *_TEXTS, *_NUMBERS)


def odd_json(rng: Random, content: Any) -> bytes:
    """Return JSON with one to three changes, of entries or of bytes."""
    content = deepcopy(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        change(rng, content, odd_entry)
    data = json.dumps(content).encode()
    if rng.random() < 0.2:
        data = damaged(rng, data)
    if rng.random() < 0.05:
        depth = rng.choice((50, 100, 1000, 100_000))
        data = rng.choice((b"[" * depth, b'{"a":' * depth, b"[" * depth + b"]" * depth))
    return data


def change(rng: Random, content: Any, odd: Callable[[Random, Any], Any]) -> None:
    """Change one entry somewhere in nested containers."""
    while isinstance(content, dict | list) and content:
        keys = sorted(content, key=str) if isinstance(content, dict) else range(len(content))
        key = rng.choice(keys)
        inner = content[key]
        if isinstance(inner, dict | list) and inner and rng.random() < 0.8:
            content = inner
            continue
        if rng.random() < 0.25:
            del content[key]
        elif isinstance(content, dict) and rng.random() < 0.2:
            content[rng.choice((*_TEXTS, *map(str, content)))] = content.pop(key)
        else:
            content[key] = odd(rng, inner)
        return


def odd_entry(rng: Random, value: Any) -> Any:
    """Return something of the same kind that is off, or of another kind."""
    if isinstance(value, int | float) and rng.random() < 0.5:
        return rng.choice(_NUMBERS)
    if isinstance(value, list) and value and rng.random() < 0.6:
        return rng.choice((value[:-1], [*value, value[-1]], value * 100, [value], [rng.choice(_PLAIN)] * len(value)))
    if isinstance(value, str) and rng.random() < 0.5:
        return rng.choice(_TEXTS)
    return rng.choice(_PLAIN)
