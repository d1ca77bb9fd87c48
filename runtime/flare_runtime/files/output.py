"""Writing results so that a final name never holds half of one."""

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from flare_runtime.errors import OutputError
from flare_runtime.files.commit_lock import committing
from flare_runtime.files.target import check_kind
from flare_runtime.files.temporary import sweep, temporary_file


def make_folder(folder: Path) -> None:
    """Create an output folder, and those around it, if need be.

    Raises:
        OutputError: where it cannot be there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise OutputError(f"{folder}: cannot be written to (it is no folder); choose another output") from error
    except OSError as error:
        raise _not_writable(folder, error) from error
    except RecursionError as error:
        raise OutputError(f"{folder}: cannot be written to (too many folders in folders)") from error


def check_folder(folder: Path) -> None:
    """Create the output folder if need be, sweep what killed runs left there, and try it.

    Raises:
        OutputError: where nothing can be written there.
    """
    make_folder(folder)
    try:
        sweep(folder)
        with temporary_file(folder):
            pass
    except OSError as error:
        raise _not_writable(folder, error) from error


def check_folders(folders: Collection[str]) -> None:
    """Check output folders of which there may be many: the one around them all is tried, others are made when needed.

    Raises:
        OutputError: where one cannot be there, or not be written to.
    """
    whole = os.path.commonpath(folders)
    check_folder(Path(whole))
    seen = {whole}
    for folder in folders:
        while folder not in seen:
            seen.add(folder)
            if os.path.lexists(folder):
                _check_access(Path(folder))
                break
            folder = os.path.dirname(folder)  # noqa: PTH120


def _check_access(folder: Path) -> None:
    """Refuse what is there and is no folder, or is not ours to write to."""
    make_folder(folder)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{folder}: cannot be written to (permission denied)")


def _not_writable(folder: Path, error: OSError) -> OutputError:
    return OutputError(f"{folder}: cannot be written to ({error.strerror or error})")


@dataclass(frozen=True)
class StagedFile:
    """A file that is being written beside the one it is to become.

    Attributes:
        target: the name it is to take.
        path: where it is until then.
        file: it itself.
    """

    target: Path
    path: Path
    file: BinaryIO

    def settle(self) -> None:
        """Bring what was written to the disk.

        Raises:
            OSError: where it does not fit there.
        """
        self.file.flush()
        os.fsync(self.file.fileno())

    def rewrite(self, content: bytes) -> None:
        """Bring something else to the disk.

        Raises:
            OSError: where it does not fit there.
        """
        self.file.seek(0)
        self.file.truncate()
        self.file.write(content)
        self.settle()

    def take_name(self) -> None:
        """Become the target.

        Raises:
            OutputError: where something else than a file has come there meanwhile.
            OSError: where it cannot be renamed.
        """
        with committing:
            check_kind(self.target)
            self.path.replace(self.target)

    def has_name(self) -> bool:
        """Whether it has become the target."""
        with suppress(OSError):
            return os.path.samestat(os.fstat(self.file.fileno()), self.target.lstat())
        return False


@contextmanager
def staged(target: Path) -> Iterator[StagedFile]:
    """Open a file beside `target`; it is gone after the block unless it has taken its name.

    Raises:
        OutputError: where it cannot be written, which any OSError in the block is taken for.
    """
    try:
        with temporary_file(target.parent) as (path, file):
            yield StagedFile(target, path, file)
    except OSError as error:
        raise OutputError(f"{target}: cannot be written ({error.strerror or error})") from error


@contextmanager
def replacing(target: Path) -> Iterator[BinaryIO]:
    """Open a file that takes `target`'s name, durably, only when the block ends without an error.

    Raises:
        OutputError: where it cannot be written; `target` is then as it was.
    """
    with staged(target) as new:
        yield new.file
        new.settle()
        new.take_name()
