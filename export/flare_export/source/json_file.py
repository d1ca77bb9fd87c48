"""Reads JSON files of an nnU-Net model, which may hold anything."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flare_export.errors import ModelError

_MAX_BYTES = 16 << 20  # a data set of 10,000 cases lists them in one or two
_MAX_DEPTH = 64


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
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read ({error}); give an nnU-Net trained-model folder") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: holds no JSON object")
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
