"""One object store, through fsspec: what it holds, and whole objects from it and to it."""

import base64
import errno
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any

from flare_runtime.errors import StoreError, UsageError, first_line, install_hint
from flare_runtime.stores.patience import Patience, quiet_libraries

# `memory` is for tests. Others, such as sftp, show an object before it is whole.
PROTOCOLS = ("s3", "gs", "az", "memory")
_BLOCK_BYTES = 1 << 20
# So many objects are read together, and parts of them of so many bytes.
_BATCH, _BATCH_BYTES = 256, 1 << 26
_ATTEMPTS = 3
_SECOND_NS = 1_000_000_000
_TIME_KEYS = ("LastModified", "last_modified", "mtime", "updated", "created")


@dataclass(frozen=True)
class ObjectStatus:
    """What a store says of an object.

    Attributes:
        size: in bytes.
        changed_ns: when it was written. Of an object with an ETag to the second, as some lists show no more; the
            nanoseconds are a digest of the ETag, so that who compares times compares contents as well.
        md5: of its content, in hex, where the store says it; what looks like one may be another digest.
    """

    size: int
    changed_ns: int
    md5: str

    @property
    def stamp(self) -> str:
        """Size and time in one text, as `fingerprints.stamp_of` gives them of the object's place."""
        return f"{self.size}-{self.changed_ns}"

    @property
    def written_s(self) -> int:
        """When it was written, to the second."""
        return self.changed_ns // _SECOND_NS


class Store:
    """A store of objects; every question waits for it where it is away for a while.

    Args:
        protocol: such as `s3`.
        patience: with it.
        apart: whether its connections are its own, and not those of all stores of the protocol.

    Raises:
        UsageError: where a package is missing that it needs.
    """

    def __init__(self, protocol: str, patience: Patience, *, apart: bool = False) -> None:
        self._protocol = protocol
        self._fs = _file_system(protocol, apart=apart)
        self._patience = patience

    def status(self, key: str) -> ObjectStatus:
        """Return what is known of an object.

        Raises:
            FileNotFoundError: where there is none.
        """
        raw = self._patience.ask(lambda: self._fs.info(key))
        if raw["type"] == "directory":
            raise FileNotFoundError(errno.ENOENT, "a prefix", key)
        return _status(raw)

    def impatient(self) -> "Store":
        """Return the same store for who does not wait for it."""
        return Store(self._protocol, Patience())

    @cached_property
    def apart(self) -> "Store":
        """The same store for who does not wait for it, not even for a connection that others hold."""
        return Store(self._protocol, Patience(), apart=True)

    def is_object(self, key: str) -> bool:
        """Whether there is an object of this name, and no prefix."""
        try:
            return bool(self._patience.ask(lambda: self._fs.info(key))["type"] == "file")
        except FileNotFoundError:
            return False

    def listed(self, prefix: str, *, nested: bool) -> Iterator[tuple[str, ObjectStatus | None]]:
        """Yield the keys below a prefix, of what lies deeper only where `nested`; a folder has no status."""

        def found() -> dict[str, Any]:
            if nested:
                return dict(self._fs.find(prefix, detail=True))
            return {one["name"]: one for one in self._fs.ls(prefix, detail=True)}

        try:
            each = self._patience.ask(found)
        except (FileNotFoundError, NotADirectoryError):
            return
        for key, raw in each.items():
            if key.rstrip("/") != prefix:  # its own mark, which some programs make
                yield key, None if raw["type"] == "directory" else _status(raw)

    def heads(self, keys: Sequence[str], size: int | None) -> Iterator[tuple[str, bytes]]:
        """Yield the first bytes of objects, all where `size` is None; none of what is gone by now."""
        count = _BATCH if size is None else min(max(_BATCH_BYTES // size, 1), _BATCH)
        for start in range(0, len(keys), count):
            batch = list(keys[start : start + count])

            def read(batch: list[str] = batch) -> list[Any]:
                found = self._fs.cat_ranges(batch, 0, size, on_error="return")
                for one in found:
                    if isinstance(one, Exception) and not isinstance(one, FileNotFoundError):
                        raise one
                return list(found)

            for key, data in zip(batch, self._patience.ask(read), strict=True):
                if isinstance(data, bytes):
                    yield key, data

    def get(self, key: str, path: Path) -> ObjectStatus:
        """Write an object to a file, whole and of one version, and return what is known of it.

        Raises:
            OSError: where it is not there, must not be read, or does not fit there.
            StoreError: where not even its size may be known, as with credentials that are out of date.
        """

        def download() -> ObjectStatus:
            try:
                before = _status(self._fs.info(key))
            except PermissionError as error:
                raise StoreError(f"the object store answers nothing more ({first_line(error)})") from error
            self._fs.get_file(key, str(path))
            if path.stat().st_size != before.size or _status(self._fs.info(key)) != before:
                raise OSError(errno.EIO, "an object changed while it was read")
            return before

        return self._patience.ask(download)

    def put(self, path: Path, key: str) -> ObjectStatus:
        """Make a file an object, which shows once it is whole, and return what the store says of it.

        Raises:
            OSError: where it must not be written.
        """
        md5 = _digest_of(path, "md5")

        def upload() -> ObjectStatus:
            self._fs.put_file(str(path), key)
            status = _status(self._fs.info(key))
            if status.size != path.stat().st_size:
                raise OSError(errno.EIO, "an object is of another size than its file")
            # An ETag is not always an MD5.
            if status.md5 != md5 and self._sha256(key) != _digest_of(path, "sha256"):
                raise OSError(errno.EIO, "an object is not what was written")
            return status

        return self._patience.ask(upload)

    def content(self, key: str) -> bytes | None:
        """Return what a small object holds; None where there is none."""
        with suppress(FileNotFoundError):
            return bytes(self._patience.ask(lambda: self._fs.cat_file(key)))
        return None

    def write(self, key: str, data: bytes) -> None:
        """Write a small object.

        Raises:
            OSError: where it must not be written.
        """
        self._patience.ask(lambda: self._fs.pipe_file(key, data))

    def create(self, key: str, data: bytes) -> bool:
        """Write a small object unless there is one; return whether it holds what was written.

        Raises:
            OSError: where it must not be written.
        """

        def ask() -> None:
            for left in reversed(range(_ATTEMPTS)):
                try:
                    self._fs.pipe_file(key, data, mode="create")
                except OSError:  # not every store says which condition failed
                    if self._fs.exists(key):
                        return
                    if not left:  # else what was there may have been removed just then
                        raise
                else:
                    return

        self._patience.ask(ask)
        # Not what `ask` found: it may have been asked again after the store did it.
        return self.content(key) == data

    def remove(self, key: str) -> None:
        """Remove an object, if it is there."""
        with suppress(FileNotFoundError):
            self._patience.ask(lambda: self._fs.rm_file(key))

    def copy(self, key: str, to: str) -> None:
        """Give an object a second name."""
        self._patience.ask(lambda: self._fs.cp_file(key, to))

    def sha256_of(self, keys: Sequence[str]) -> str:
        """Return the SHA-256 of objects one after the other, which are read for it.

        Raises:
            OSError: where one is not there.
        """
        return self._patience.ask(lambda: self._sha256(*keys))

    def _sha256(self, *keys: str) -> str:
        digest = hashlib.sha256()
        for key in keys:
            with self._fs.open(key, "rb", block_size=4 * _BLOCK_BYTES, cache_type="readahead") as file:
                while block := file.read(_BLOCK_BYTES):
                    digest.update(block)
        return digest.hexdigest()


def _file_system(protocol: str, *, apart: bool) -> Any:
    try:
        from fsspec import get_filesystem_class
        from fsspec.registry import known_implementations
    except ImportError as error:
        raise UsageError(f"{protocol}:// needs the package fsspec; {install_hint('stores')}") from error
    try:
        kind = get_filesystem_class(protocol)
    except ImportError as error:
        package = known_implementations[protocol]["class"].partition(".")[0]
        raise UsageError(f"{protocol}:// needs the package {package}; pip install {package}") from error
    quiet_libraries()
    return kind(use_listings_cache=False, skip_instance_cache=apart)


def _digest_of(path: Path, name: str) -> str:
    with path.open("rb") as file:
        digest = hashlib.new(name, usedforsecurity=False)
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _status(raw: dict[str, Any]) -> ObjectStatus:
    given = next((raw[key] for key in _TIME_KEYS if raw.get(key)), 0)
    if isinstance(given, str):
        given = datetime.fromisoformat(given.replace("Z", "+00:00"))
    if isinstance(given, datetime):
        given = given.replace(tzinfo=given.tzinfo or timezone.utc).timestamp()
    etag = str(raw.get("ETag") or raw.get("etag") or "").strip('"')
    changed_ns = round(given * 1e6) * 1000
    if etag:
        digest = int.from_bytes(hashlib.sha256(etag.encode()).digest()[:8], "big")
        changed_ns = int(given) * _SECOND_NS + digest % _SECOND_NS
    return ObjectStatus(int(raw["size"]), changed_ns, _md5_of(raw, etag))


def _md5_of(raw: dict[str, Any], etag: str) -> str:
    if known := raw.get("md5Hash"):  # Google's, in base 64
        return base64.b64decode(known).hex()
    return etag.lower()
