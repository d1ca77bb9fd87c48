"""The files of a folder of results and of the folders in it, found and read as fast as the file system allows."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from flare_runtime.errors import UsageError
from flare_runtime.files.naming import visible

Content = TypeVar("Content")
# So many files are opened at once: on a network file system most of a file's time is the wait for an answer.
_THREADS = 8
# To hand files to a thread one by one would take longer than to read them.
_FILES_AT_ONCE = 64


@dataclass(frozen=True)
class Listing:
    """What one folder holds.

    Attributes:
        folder: its path.
        json: the names of its JSON files in their order, records among them.
        leases: the names of its leases.
    """

    folder: str
    json: list[str]
    leases: list[str]

    @property
    def json_paths(self) -> Iterator[str]:
        """The paths of the JSON files, in their order."""
        return (f"{self.folder}/{name}" for name in self.json)


def listings(top: Path, note: Callable[[str], None]) -> Iterator[Listing]:
    """Yield what a folder and the folders in it hold, one after the other.

    Hidden folders, such as the snapshots of file servers, and links are left out.

    Args:
        top: the folder.
        note: is called with a line for each folder within it that cannot be read.

    Raises:
        UsageError: where `top` itself cannot be read.
    """
    waiting = [str(top)]
    while waiting:
        folder = waiting.pop()
        try:
            listing, within = _list(folder)
        except OSError as error:
            line = visible(f"{folder}: cannot be read ({error.strerror or error})")
            if folder == str(top):
                raise UsageError(line) from error
            note(line)
            continue
        waiting += reversed(within)
        yield listing


def _list(folder: str) -> tuple[Listing, list[str]]:
    """Return what a folder holds, and the folders in it."""
    json, leases, folders = [], [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if name.endswith(".flare-lease"):
                leases.append(name)
            elif name[0] == ".":
                continue
            elif name.endswith(".json") and entry.is_file(follow_symlinks=False):
                json.append(name)
            elif entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
    return Listing(folder, sorted(json), leases), sorted(folders)


def read_each(paths: Iterable[str], read: Callable[[str], Content], at_once: int = _FILES_AT_ONCE) -> Iterator[Content]:
    """Yield what `read`, called in several threads, makes of each path, in the order of the paths.

    Args:
        paths: of files.
        read: reads one.
        at_once: how many a thread reads in a row. Ten times as many are in memory.
    """

    def read_some(some: list[str]) -> list[Content]:
        return [read(path) for path in some]

    rest = iter(paths)
    chunks = iter(lambda: list(islice(rest, at_once)), [])
    with ThreadPoolExecutor(_THREADS, "records") as threads:
        coming: deque[Future[list[Content]]] = deque()
        for chunk in chunks:
            coming.append(threads.submit(read_some, chunk))
            if len(coming) > _THREADS:
                yield from coming.popleft().result()
        while coming:
            yield from coming.popleft().result()
