"""Small facts about this machine, each kept in the user's private cache under everything that it depends on."""

import logging
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from flare_runtime.errors import OutputError
from flare_runtime.files.cache_folder import cache_folder, read_private, write_private

_LOG = logging.getLogger(__name__)
_MAX_BYTES = 1 << 16

_T = TypeVar("_T")


class PrivateNotes:
    """A folder of the cache with one file for each note; without the folder nothing is found and nothing kept.

    Keys and notes are dataclasses of what JSON can hold.

    Args:
        name: of the folder.
    """

    def __init__(self, name: str) -> None:
        self._folder = cache_folder(name)

    @property
    def kept(self) -> bool:
        """Whether there is a folder."""
        return self._folder is not None

    def find(self, key: Any, kind: type[_T]) -> _T | None:
        """Return the note of exactly this key, or None where there is none that can be trusted."""
        path = self._path(key, kind)
        try:
            content = read_private(path, _MAX_BYTES) if path else b""
            return msgspec.json.decode(content, type=kind) if content else None
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            _LOG.info("%s is not used: %s", path, error)
            return None

    def keep(self, key: Any, note: object) -> None:
        """Keep a note in place of the one that the key had; a folder that is full costs time alone."""
        path = self._path(key, type(note))
        try:
            if path:
                write_private(path, msgspec.json.encode(note))
        except OutputError as error:
            _LOG.info("%s is not kept: %s", path, error)

    def _path(self, key: Any, kind: type[object]) -> Path | None:
        digest = sha256(msgspec.json.encode([kind.__name__, key])).hexdigest()[:32]
        return self._folder / f"{digest}.json" if self._folder else None
