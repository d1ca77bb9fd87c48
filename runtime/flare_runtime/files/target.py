"""What a file may be written over: settled before any work is done, and looked at again when a file takes its name."""

import os
import stat
from collections.abc import Callable, Collection, Iterable, Set
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

from flare_runtime.errors import BundleError, OutputError
from flare_runtime.files.naming import LONGEST_NAME
from flare_runtime.model.bundle import MANIFEST_NAME, Bundle

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


def check_targets(
    targets: Iterable[Path], inputs: Iterable[Path] = (), *, over: IsOurs | None = None, head_bytes: int | None = None
) -> None:
    """Refuse files that must not be written, before any work is done; see `TargetCheck`."""
    check = TargetCheck(inputs)
    for target in targets:
        check(target, over, head_bytes)


class TargetCheck:
    """Refuses files that must not be written, of many that are written beside each other.

    Args:
        inputs: files that are read.
    """

    def __init__(self, inputs: Iterable[Path]) -> None:
        self._inputs = inputs
        # By folder.
        self._bundles: dict[str, Path | None] = {}
        self._names: dict[str, Set[str]] = {}

    def __call__(self, target: Path, over: IsOurs | None = None, head_bytes: int | None = None) -> None:
        """Refuse a file where it must not be written.

        Args:
            target: the file to be written.
            over: what it has to hold if it is there, or be empty; None for any content.
            head_bytes: how much of it `over` looks at, from the beginning; all where None.

        Raises:
            OutputError: where it is no regular file, is an input, lies in a bundle, or holds something else.
        """
        folder, name = os.path.split(target)
        bundle = self._bundle_around(folder)
        if bundle is not None:
            raise OutputError(f"{target}: lies in the bundle {bundle}; choose another output")
        # One list of a folder is quicker than to ask for each of thousands of files, most of which are not there.
        if folder not in self._names:
            self._names[folder] = _names(folder)
        if name.casefold() not in self._names[folder] and len(os.fsencode(name)) <= LONGEST_NAME:
            return
        status = check_kind(target)
        if status is None:
            return
        if source := self._read.get((status.st_dev, status.st_ino)):
            name = "" if source == target else f", {source}"
            raise OutputError(f"{target}: is the input itself{name}; choose another output")
        if over is not None and status.st_size and not _holds(target, status.st_size, over, head_bytes):
            raise OutputError(f"{target}: was not written by this command; move it, or choose another output")

    @property
    def folders(self) -> Collection[str]:
        """The folders of the targets so far."""
        return self._names.keys()

    def folders_with(self, is_wanted: Callable[[str], bool]) -> list[Path]:
        """Return the folders of the targets so far that hold a file of such a name, which is given in lower case."""
        return [Path(folder) for folder, names in self._names.items() if any(map(is_wanted, names))]

    def _bundle_around(self, folder: str) -> Path | None:
        """Return what `bundle_around` does, for most folders by what is known of the one that they are in."""
        alike = []
        while folder not in self._bundles:
            around, name = os.path.split(folder)
            is_link = name in ("", ".", "..") or os.path.islink(folder)  # noqa: PTH114
            if is_link or (os.path.lexists(folder) and _is_bundle(Path(folder))):
                self._bundles[folder] = bundle_around(Path(folder))
            else:
                alike.append(folder)
                folder = around
        self._bundles.update(dict.fromkeys(alike, self._bundles[folder]))
        return self._bundles[folder]

    @cached_property
    def _read(self) -> dict[tuple[int, int], Path]:
        """The files that are read, by what tells a file from all others."""
        return {identity: path for path in self._inputs if (identity := _identity(path))}


def check_kind(target: Path) -> os.stat_result | None:
    """Refuse what is there and is no regular file; return its status, None where nothing is there.

    Raises:
        OutputError: naming what it is.
    """
    try:
        status = target.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _unwritable(target, error) from error
    if not stat.S_ISREG(status.st_mode):
        raise OutputError(f"{target}: is {_KINDS.get(stat.S_IFMT(status.st_mode), 'no regular file; name one')}")
    return status


def _unwritable(target: Path, error: OSError) -> OutputError:
    return OutputError(f"{target}: cannot be written ({error.strerror or error})")


def _names(folder: str) -> Set[str]:
    """Return what a folder holds, in lower case: some shares take a name for another that differs in it."""
    try:
        return {name.casefold() for name in os.listdir(folder or ".")}  # noqa: PTH208
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()
    except OSError as error:
        raise _unwritable(Path(folder), error) from error


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _holds(target: Path, size: int, over: IsOurs, head_bytes: int | None) -> bool:
    try:
        if head_bytes is None and size > _MOST_BYTES:
            return False
        with target.open("rb") as file:
            return over(file.read(-1 if head_bytes is None else head_bytes))
    except FileNotFoundError:  # another worker is replacing it
        return True
    except OSError as error:
        raise OutputError(f"{target}: cannot be read ({error.strerror or error}); choose another output") from error


def bundle_around(folder: Path) -> Path | None:
    """Return the bundle that a folder is or lies in."""
    whole = Path(os.path.realpath(folder))  # unlike `resolve` at home with links that go round in circles
    return next((place for place in (whole, *whole.parents) if _is_bundle(place)), None)


def _is_bundle(folder: Path) -> bool:
    try:
        return (folder / MANIFEST_NAME).is_file() and bool(Bundle.open(folder))
    except (OSError, BundleError):
        return False
