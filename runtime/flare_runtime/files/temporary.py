"""Temporary files and folders: each has a unique name and is locked by its maker; a sweep removes what nobody holds."""

import errno
import fcntl
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from tempfile import gettempdir
from typing import BinaryIO

from flare_runtime.files.commit_lock import committing
from flare_runtime.files.this_process import system_id

# Few digits, as sockets lie in folders of Ray, whose paths have to be short; earlier versions made names of 32.
_NAME = re.compile(r"\.[0-9a-f]{24}([0-9a-f]{8})?\.flare-tmp")
# Of a name's digits, so many tell on which system it was made; the others are random bytes.
_MARK_DIGITS = 8
_RANDOM_BYTES = 8
# Where folders lie whose paths have to be short.
SHORT_PATHS = Path("/tmp")
# Where the file system keeps no locks, what was not written to for so long is left over.
_ABANDONED_S = 24 * 3600
_ATTEMPTS = 10
# The files and folders of this process that are there.
_OURS: set[Path] = set()


@contextmanager
def temporary_file(folder: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """Make a file in `folder` and yield its path and itself; it is gone afterwards, unless it was renamed.

    Raises:
        OSError: where it cannot be made.
    """
    with committing:  # a run that is being ended makes no more of them
        path, descriptor = _locked(folder, _new_file)
        _OURS.add(path)
    file = os.fdopen(descriptor, "wb")
    try:
        yield path, file
    finally:
        path.unlink(missing_ok=True)
        _OURS.discard(path)
        with suppress(OSError):  # of what was to be kept, nothing is left to be flushed
            file.close()


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """Sweep `parent`, make a folder in it that only its owner can read, and yield its path; it is gone afterwards.

    Raises:
        OSError: where it cannot be made.
    """
    sweep(parent)
    with committing:
        path, descriptor = _locked(parent, _new_folder)
        _OURS.add(path)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        _OURS.discard(path)
        os.close(descriptor)


def remove_ours() -> None:
    """Remove the temporary files and folders of this process, which is about to end in the middle of writing them."""
    for path in tuple(_OURS):
        with suppress(OSError):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


def is_temporary_name(name: str) -> bool:
    """Whether a file or folder of this name is a temporary one."""
    return _NAME.fullmatch(name) is not None


def sweep(folder: Path) -> None:
    """Remove the temporary files and folders in `folder` whose makers are gone.

    Raises:
        OSError: where the folder cannot be listed.
    """
    with os.scandir(folder) as entries:
        found = [Path(entry.path) for entry in entries if is_temporary_name(entry.name)]
    for path in found:
        with suppress(OSError):  # another sweep was first, or it is somebody else's
            _remove_abandoned(path)


def sweep_this_machine() -> None:
    """Remove what killed processes left in the folders for temporary files: scans and names of patients, it may be."""
    for folder in {Path(gettempdir()), SHORT_PATHS}:
        with suppress(OSError):
            sweep(folder)


def _new_file(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)


def _new_folder(path: Path) -> int:
    path.mkdir(mode=0o700)
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _locked(folder: Path, make: Callable[[Path], int]) -> tuple[Path, int]:
    """Return the path and the descriptor of something new in `folder`, which is locked as long as that is open."""
    error = FileNotFoundError(errno.ENOENT, "what is made there vanishes", str(folder))
    for _ in range(_ATTEMPTS):
        path = folder / f".{system_mark(folder)}{os.urandom(_RANDOM_BYTES).hex()}.flare-tmp"
        try:
            descriptor = make(path)
        except FileNotFoundError as missing:
            error = missing
            continue
        with suppress(OSError):  # no locks here: its age will decide
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.path.lexists(path):
            return path, descriptor
        os.close(descriptor)  # a sweep came between making and locking
    raise error


def _remove_abandoned(path: Path) -> None:
    is_folder = path.is_dir()
    # Network file systems lock only what is open for writing.
    descriptor = os.open(path, (os.O_RDONLY if is_folder else os.O_RDWR) | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not _is_abandoned(descriptor, may_see_lock=path.name.startswith(f".{system_mark(path.parent)}")):
            return
        if is_folder:
            shutil.rmtree(path)
        else:
            path.unlink()
    finally:
        os.close(descriptor)


def system_mark(folder: Path) -> str:
    """Return how names of temporaries in a folder begin that were made on this running system by way of this mount.

    Of file systems such as sshfs, a container with a mount of its own sees no locks of others.

    Raises:
        OSError: where the folder is not there.
    """
    return _digest(f"{system_id()} {folder.stat().st_dev}")


@cache
def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:_MARK_DIGITS]


def _is_abandoned(descriptor: int, *, may_see_lock: bool) -> bool:
    """Whether nobody holds a temporary; some network file systems do not show one mount the locks of others."""
    with suppress(OSError):  # no locks here
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        if may_see_lock:
            return True
    return time.time() - os.fstat(descriptor).st_mtime > _ABANDONED_S
