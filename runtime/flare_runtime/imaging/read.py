"""Reading images: the readers of all file formats, and which of them a file's name asks for."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from flare_runtime.errors import CaseError
from flare_runtime.imaging.checks import check_volume
from flare_runtime.imaging.nifti import NiftiReader
from flare_runtime.imaging.volume import Grid, Volume

DEFAULT_MAX_VOXELS = 2_000_000_000


class Reader(Protocol):
    """Reads the images of one file format, strictly: what cannot be trusted is refused, never filled in.

    It raises `CaseError` for what is wrong with a file, whose name is put in front by `read_volume`, and lets `OSError`
    pass. It knows no modality: voxels that are NaN or infinite stay as they are.
    """

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The ends of its files' names, in lower case."""

    def read_volume(self, path: Path, max_voxels: int) -> Volume:
        """Read an image, whose header is tested before memory is taken for at most `max_voxels`."""

    def read_grid(self, path: Path, max_voxels: int) -> Grid:
        """Read what the header says of the voxels, and nothing of them."""


READERS: tuple[Reader, ...] = (NiftiReader(),)


def image_suffixes() -> tuple[str, ...]:
    """Return the ends of the names of all files that can be read, in lower case."""
    return tuple(suffix for reader in READERS for suffix in reader.suffixes)


def read_volume(path: str | Path, max_voxels: int = DEFAULT_MAX_VOXELS) -> Volume:
    """Read an image in the file format of its name; a name of no format is taken for NIfTI.

    Raises:
        CaseError: `unreadable`, `nonfinite`, `bad_scaling`, or as the format's reader does; every message begins with
            the file's name.
    """
    path = Path(path)
    with _naming(path):
        return check_volume(_reader_of(path).read_volume(path, max_voxels))


def read_nifti(path: str | Path, max_voxels: int = DEFAULT_MAX_VOXELS) -> Volume:
    """Read an image; this is `read_volume` by its name of before."""
    return read_volume(path, max_voxels)


def read_grid(path: str | Path, max_voxels: int = DEFAULT_MAX_VOXELS) -> Grid:
    """Read what the header of an image says of its voxels, and nothing of them.

    Raises:
        CaseError: as `read_volume` does for what is wrong with the header.
    """
    path = Path(path)
    with _naming(path):
        return _reader_of(path).read_grid(path, max_voxels)


def _reader_of(path: Path) -> Reader:
    name = path.name.lower()
    return next((reader for reader in READERS if name.endswith(reader.suffixes)), READERS[0])


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Let every error begin with the file's name."""
    try:
        yield
    except OSError as error:
        raise CaseError("unreadable", f"{path}: {error.strerror or error}") from error
    except CaseError as error:
        text = str(error)
        raise CaseError(error.reason, text if text.startswith(path.name) else f"{path.name}: {text}") from error
