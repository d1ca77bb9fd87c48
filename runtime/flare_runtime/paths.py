"""Paths as callers in Python give them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from flare_runtime.errors import UsageError

TYPE_CHECKING = False  # of `typing`, which takes longer to import than all of this
if TYPE_CHECKING:
    from typing import TypeGuard

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def is_url(given: object) -> TypeGuard[str]:
    """Whether a text names a place by a URL, such as s3://bucket/scans."""
    return isinstance(given, str) and _URL.match(given) is not None


def check_no_secret(url: str) -> None:
    """Refuse a URL that holds a user, a password or a signature: command lines and records are no place for them.

    Raises:
        UsageError: which does not repeat it.
    """
    protocol, _, rest = url.partition("://")
    if "@" in rest.partition("/")[0] or ":" in rest.partition("/")[0] or "?" in rest:
        raise UsageError(
            f"{protocol}://... must hold no user, password or signature; credentials come from the environment or from "
            "the files of the store's own tools"
        )


def as_path(given: str | os.PathLike[str], what: str) -> Path:
    """Return what was given as a path.

    Raises:
        UsageError: naming `what` it is of, where it is of another type, or empty: that would be the current folder; or
            a URL.
    """
    if not isinstance(given, str | os.PathLike):
        raise UsageError(f"{what} is of type {type(given).__qualname__}; give a path")
    if not os.fspath(given):
        raise UsageError(f"{what} is an empty path; give a file or folder, . for the current one")
    if is_url(given):
        raise UsageError(f"{what} is a URL; give a local path")
    return Path(given)
