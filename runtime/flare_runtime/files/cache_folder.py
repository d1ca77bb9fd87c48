"""The user's private cache: folders and files that nobody else can have written, which is why they are trusted."""

import errno
import os
import stat
from pathlib import Path

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def cache_path(name: str) -> Path | None:
    """Return where the folder `name` of the user's cache is or would be; None where the user has no home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flare-lite" / name
    except RuntimeError:
        return None


def cache_folder(name: str) -> Path | None:
    """Return the private folder `name` of the user's cache, or None where none can be had: a cache only saves time."""
    folder = cache_path(name)
    if folder is None:
        return None
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        owned = folder.stat().st_uid == os.getuid() and not folder.stat().st_mode & _OTHERS_WRITE
    except OSError:
        return None
    return folder if owned and os.access(folder, os.W_OK) else None


def read_private(path: Path, most: int = -1) -> bytes:
    """Return the first `most` bytes of a file, or all of them.

    Raises:
        FileNotFoundError: where there is none.
        PermissionError: where somebody else may have written it: a symbolic link, another's file, or one that others
            can write to.
        OSError: where it cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise PermissionError("it is a symbolic link") from error
        raise
    with os.fdopen(descriptor, "rb") as file:
        # Asked of the open file: a path could be exchanged in between.
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise PermissionError("it is not a plain file")
        if status.st_uid != os.getuid():
            raise PermissionError("it belongs to somebody else")
        if status.st_mode & _OTHERS_WRITE:
            raise PermissionError("others can write to it")
        return file.read(most)


def write_private(path: Path, *parts: bytes) -> None:
    """Write a file that only its owner can read; the name never holds half of it.

    Raises:
        OutputError: where it cannot be written; what was there stays.
    """
    from flare_runtime.files.output import replacing  # loads NumPy, which a command's --help does without

    if path.is_symlink():  # in a private folder it is nobody's
        path.unlink(missing_ok=True)
    with replacing(path) as file:
        os.fchmod(file.fileno(), 0o600)
        for part in parts:
            file.write(part)
