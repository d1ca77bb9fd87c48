"""Paths as callers in Python give them."""

import os
from pathlib import Path

from flare_runtime.errors import UsageError


def as_path(given: str | os.PathLike[str], what: str) -> Path:
    """Return what was given as a path.

    Raises:
        UsageError: naming `what` it is of, where it is of another type, or empty: that would be the current folder.
    """
    if not isinstance(given, str | os.PathLike):
        raise UsageError(f"{what} is of type {type(given).__qualname__}; give a path")
    if not os.fspath(given):
        raise UsageError(f"{what} is an empty path; give a file or folder, . for the current one")
    return Path(given)
