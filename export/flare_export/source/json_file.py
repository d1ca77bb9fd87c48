"""Reads JSON files of an nnU-Net model, which may hold anything, and says what they hold."""

import json
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from flare_export.errors import ModelError
from flare_runtime.files.naming import visible

_MAX_BYTES = 16 << 20  # a data set of 10,000 cases lists them in one or two
_MAX_DEPTH = 64
# How much of a value messages show: so many letters in all and of a text, so many parts, so deep.
_LETTERS, _LETTERS_OF_TEXT, _PARTS, _DEPTH = 240, 60, 8, 3


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ModelError: where the file is missing, is no plain file, or holds something else.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise ValueError("it is no plain file")
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise ValueError(f"it is larger than {_MAX_BYTES >> 20} MiB")
        content = json.loads(data.decode("utf-8"))
        _check(content)
    except FileNotFoundError as error:
        where = "nnUNet_results/DATASET/TRAINER__PLANS__CONFIGURATION"
        raise ModelError(f"{path.parent}: holds no {path.name}; give nnU-Net's model folder, {where}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read ({error}); give an nnU-Net trained-model folder") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: holds {shown(content)}; nnU-Net expects an object, {{...}}")
    return content


def _check(content: object) -> None:
    """Refuse what nests so deep that reading on would fail, and texts that cannot be written as UTF-8."""
    level = [content]
    for _ in range(_MAX_DEPTH):
        level = [part for value in level for part in _parts(value)]
        if not level:
            return
    raise ValueError(f"it is nested more than {_MAX_DEPTH} deep")


def _parts(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return [*value, *value.values()]
    if isinstance(value, str):
        value.encode()
    return value if isinstance(value, list) else ()


def shown(value: object) -> str:
    """Return a value in short, in one line, as JSON writes it; of what JSON does not know, its type."""
    return _cut(visible(_spelled(value, _DEPTH)), _LETTERS)


def _spelled(value: object, depth: int) -> str:
    if isinstance(value, dict | list):
        opening, closing = "{}" if isinstance(value, dict) else "[]"
        parts = islice(value.items() if isinstance(value, dict) else value, _PARTS if depth else 0)
        spelled = [_entry(part, depth - 1) if isinstance(value, dict) else _spelled(part, depth - 1) for part in parts]
        return f"{opening}{', '.join(spelled + ['...'] * (len(spelled) < len(value)))}{closing}"
    if value is None or isinstance(value, str | int | float):
        return _cut(json.dumps(value, ensure_ascii=False), _LETTERS_OF_TEXT)
    return f"of type {type(value).__name__}"


def _entry(entry: tuple[object, object], depth: int) -> str:
    key, value = entry
    return f"{_spelled(key, 0)}: {_spelled(value, depth)}"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}..."
