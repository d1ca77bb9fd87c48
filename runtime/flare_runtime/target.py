"""What a file may be written over: settled before any work is done, and looked at again when a file takes its name."""

import stat
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import TypeAlias

from flare_runtime.bundle import MANIFEST_NAME, Bundle
from flare_runtime.errors import BundleError, OutputError

# Whether a file's content is of the kind that is to replace it.
IsOurs: TypeAlias = Callable[[bytes], bool]
# A file beyond this was written by something else.
_MOST_BYTES = 1 << 28
_KINDS = {
    stat.S_IFLNK: "a symbolic link; name the file it should become",
    stat.S_IFDIR: "a folder; name a file",
    stat.S_IFIFO: "a named pipe; name a file",
    stat.S_IFSOCK: "a socket; name a file",
    stat.S_IFCHR: "a device; name a file",
    stat.S_IFBLK: "a device; name a file",
}


def check_targets(targets: Iterable[Path], inputs: Iterable[Path] = (), *, over: IsOurs | None = None) -> None:
    """Refuse files that must not be written, before any work is done.

    Args:
        targets: the files to be written.
        inputs: files that are read.
        over: what a target that is there has to hold, or be empty; None for any content.

    Raises:
        OutputError: where a target is no regular file, is an input, lies in a bundle, or holds something else.
    """
    read = {identity for path in inputs if (identity := _identity(path))}
    around = cache(bundle_around)
    for target in targets:
        check_kind(target)
        bundle = around(target.parent)
        if bundle is not None:
            raise OutputError(f"{target}: lies in the bundle {bundle}; choose another output")
        identity = _identity(target)
        if identity is None:
            continue
        if identity in read:
            raise OutputError(f"{target}: is the input itself; choose another output")
        if over is not None and not _holds(target, over):
            raise OutputError(f"{target}: was not written by this command; move it, or choose another output")


def check_kind(target: Path) -> None:
    """Refuse what is there and is no regular file.

    Raises:
        OutputError: naming what it is.
    """
    try:
        mode = target.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise OutputError(f"{target}: cannot be written ({error.strerror or error})") from error
    if not stat.S_ISREG(mode):
        raise OutputError(f"{target}: is {_KINDS.get(stat.S_IFMT(mode), 'no regular file; name one')}")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _holds(target: Path, over: IsOurs) -> bool:
    try:
        size = target.stat().st_size
        return size == 0 or (size <= _MOST_BYTES and over(target.read_bytes()))
    except OSError as error:
        raise OutputError(f"{target}: cannot be read ({error.strerror or error}); choose another output") from error


def bundle_around(folder: Path) -> Path | None:
    """Return the bundle that a folder is or lies in."""
    whole = folder.resolve()
    return next((place for place in (whole, *whole.parents) if _is_bundle(place)), None)


def _is_bundle(folder: Path) -> bool:
    try:
        return (folder / MANIFEST_NAME).is_file() and bool(Bundle.open(folder))
    except (OSError, BundleError):
        return False
