"""The kernels that TensorRT for RTX compiles on this GPU, kept so that the next process does not compile them again."""

import hashlib
import logging
from pathlib import Path
from typing import Any

from flare_runtime.errors import OutputError
from flare_runtime.files.cache_folder import read_private, write_private

_LOG = logging.getLogger(__name__)
_DIGEST_BYTES = 32


class KernelCache:
    """The compiled kernels of one engine on one GPU; without them it only starts later.

    Args:
        path: the file, in a private folder, as kernels are native code.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = _read(path)
        self._cache: Any = None

    def attach(self, config: Any) -> None:
        """Let an `IRuntimeConfig` use the kernels that there are; those of another driver TensorRT drops by itself."""
        self._cache = config.create_runtime_cache()
        if self._known and not self._cache.deserialize(self._known):
            _LOG.info("%s is not used: it is of another GPU, driver or version", self._path)
            self._known = b""
        config.set_runtime_cache(self._cache)

    def keep(self) -> None:
        """Write what has been compiled since; a folder that is full costs time alone."""
        kernels = bytes(self._cache.serialize())
        if kernels == self._known:
            return
        try:
            write_private(self._path, hashlib.sha256(kernels).digest(), kernels)
            self._known = kernels
        except OutputError as error:
            _LOG.info("%s is not kept: %s", self._path, error)


def _read(path: Path) -> bytes:
    try:
        content = read_private(path)
    except FileNotFoundError:
        return b""
    except OSError as error:
        _LOG.info("%s is not used: %s", path, error)
        return b""
    digest, kernels = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if hashlib.sha256(kernels).digest() != digest:
        _LOG.info("%s is not used: it is damaged", path)
        return b""
    return kernels
