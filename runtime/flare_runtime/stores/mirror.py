"""A local folder in which objects of stores have a place: <folder>/<protocol>/<bucket>/<key>.

An object that was not downloaded is a sparse file of its size and its time of change there. So all that looks at names,
sizes and times works on it as on any folder.
"""

import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import msgspec

from flare_runtime.errors import UsageError
from flare_runtime.files.guarded import guarded_folder
from flare_runtime.files.naming import LONGEST_NAME, visible
from flare_runtime.files.temporary import temporary_file
from flare_runtime.paths import check_no_secret
from flare_runtime.stores.patience import LIMIT_S, Patience
from flare_runtime.stores.store import PROTOCOLS, ObjectStatus, Store

_ALLOWED = "s3://, gs://, az:// or file://"


class Mirror:
    """The local places of objects, in a folder that only its owner can read and that goes with this object.

    Threads may use it at once where they work on different places.

    Raises:
        OSError: where the folder cannot be made.
    """

    def __init__(self) -> None:
        held = ExitStack()
        self._folder = held.enter_context(guarded_folder(Path(tempfile.gettempdir())))
        # Also where nobody closes it, and at the end of the program.
        self._remove = weakref.finalize(self, held.close)
        self._patience = Patience()
        self._stores: dict[str, Store] = {}
        folder = re.escape(visible(self._folder))
        self._pattern = re.compile(rf"{folder}/([a-z0-9]+)/")

    def be_patient(self) -> None:
        """From here on wait for stores that do not answer."""
        self._patience.limit_s = LIMIT_S

    def close(self) -> None:
        """Remove the folder with all that is in it."""
        self._patience.close()
        self._remove()
        shutil.rmtree(self._folder, ignore_errors=True)  # of a file that came meanwhile

    def place_of(self, url: str) -> Path:
        """Return the place of what a URL names.

        Raises:
            UsageError: for a URL that is not allowed, or whose store needs a package that is missing.
        """
        protocol, _, key = url.partition("://")
        protocol = protocol.lower()
        if protocol not in PROTOCOLS:
            raise UsageError(f"{protocol}:// is no store that can be used; give {_ALLOWED}")
        check_no_secret(url)
        if not _can_be_path(key.rstrip("/")):
            raise UsageError(f"{url}: names no bucket and key that a folder can hold; none of its parts may be empty")
        if protocol not in self._stores:
            self._stores[protocol] = Store(protocol, self._patience)
        return self._folder / protocol / key.rstrip("/")

    def holds(self, path: Path) -> bool:
        """Whether a path is a place of an object."""
        return self._folder in path.parents

    def shown(self, text: str) -> str:
        """Return a text with the URLs of the places in it."""
        return self._pattern.sub(r"\1://", text)

    def shown_json(self, data: bytes) -> bytes:
        """Return JSON with the URLs of the places in its texts."""
        folder = re.escape(msgspec.json.encode(visible(self._folder))[1:-1])
        return re.sub(rb"%s/([a-z0-9]+)/" % folder, rb"\1://", data)

    def is_object(self, path: Path) -> bool:
        """Whether a place is that of an object."""
        store, key = self.object_at(path)
        return store.is_object(key)

    def listed(self, folder: Path, *, nested: bool) -> tuple[dict[Path, ObjectStatus | None], int]:
        """Return the places below one and what is known of them, None of a folder; and how many can have no place."""
        store, prefix = self.object_at(folder)
        found: dict[Path, ObjectStatus | None] = {}
        odd = 0
        for key, status in store.listed(prefix, nested=nested):
            inner = key[len(prefix) + 1 :]
            if _can_be_path(inner):
                found[folder / inner] = status
            else:  # by a / at their end some programs mark folders
                odd += status is not None and not key.endswith("/")
        return found, odd

    def status_of(self, path: Path) -> ObjectStatus | None:
        """Return what is known of the object at a place; None where there is none."""
        store, key = self.object_at(path)
        try:
            return store.status(key)
        except FileNotFoundError:
            return None

    def stand_in(self, path: Path, status: ObjectStatus | None, head: bytes = b"") -> bool:
        """Put a file of an object's size and time in its place, which may begin as it does, or make a folder.

        Returns:
            False where a folder cannot hold it beside what is there.
        """
        try:
            if status is None:
                path.mkdir(parents=True, exist_ok=True)
                return True
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.write(head)
                file.truncate(status.size)
        except (FileExistsError, IsADirectoryError, NotADirectoryError):
            return False
        os.utime(path, ns=(status.changed_ns, status.changed_ns))
        return True

    def drop(self, path: Path) -> None:
        """Remove a file in a place, or a folder with all that is in it; the objects stay."""
        shutil.rmtree(path, ignore_errors=True)
        with suppress(OSError):
            path.unlink()

    def empty(self, path: Path) -> None:
        """Let a file in a place hold nothing any more; its size and its time stay."""
        with suppress(FileNotFoundError):
            status = path.stat()
            with path.open("wb") as file:
                file.truncate(status.st_size)
            os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns))

    def heads(self, paths: Iterable[Path], size: int | None) -> Iterator[tuple[Path, bytes]]:
        """Yield the first bytes of objects, of one store and none of them empty; all of them where `size` is None."""
        by_key = {self.object_at(path)[1]: path for path in paths}
        if by_key:
            store, _ = self.object_at(next(iter(by_key.values())))
            yield from ((by_key[key], data) for key, data in store.heads(list(by_key), size))

    def fetch(self, path: Path) -> None:
        """Download the object of a place into it, with its time of change.

        Raises:
            OSError: where it is not there any more, must not be read, or does not fit on the disk.
            OutputError: where the store does not answer.
        """
        store, key = self.object_at(path)
        with temporary_file(path.parent) as (new, _):
            status = store.get(key, new)
            os.utime(new, ns=(status.changed_ns, status.changed_ns))
            new.replace(path)

    def put(self, path: Path) -> ObjectStatus:
        """Upload the file at a place, and return what the store says of it.

        Raises:
            OSError: where it must not be written.
            OutputError: where the store does not answer.
        """
        store, key = self.object_at(path)
        return store.put(path, key)

    def remove(self, path: Path) -> None:
        """Remove the object of a place, if there is one; its file stays."""
        store, key = self.object_at(path)
        store.remove(key)

    def copy(self, path: Path, to: Path) -> None:
        """Copy the object of a place to another of the same store."""
        store, key = self.object_at(path)
        store.copy(key, self.object_at(to)[1])

    def sha256_of(self, *paths: Path) -> str:
        """Return the SHA-256 of the objects at places, of one store, which are read for it.

        Raises:
            OSError: where one is not there.
            OutputError: where the store does not answer.
        """
        store, _ = self.object_at(paths[0])
        return store.sha256_of([self.object_at(path)[1] for path in paths])

    def object_at(self, path: Path) -> tuple[Store, str]:
        """Return the store and the key of a place."""
        protocol, _, key = str(path.relative_to(self._folder)).partition("/")
        return self._stores[protocol], f"/{key}" if protocol == "memory" else key


def _can_be_path(key: str) -> bool:
    """Whether a key can be the path of a file that lies where it says."""
    parts = key.split("/")
    return "\0" not in key and all(
        part not in ("", ".", "..") and len(os.fsencode(part)) <= LONGEST_NAME for part in parts
    )
