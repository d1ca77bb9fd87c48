"""By what files are known again: their sizes and times of change, or the SHA-256 of what is in them."""

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TypeAlias

from flare_runtime.errors import CaseError
from flare_runtime.imaging.byte_stream import open_regular
from flare_runtime.imaging.read import ImageAt, ImageSource, files_of

# Gives the SHA-256 of files one after the other; see `sha256_of`.
Hash: TypeAlias = Callable[..., str]
_BLOCK_BYTES = 1 << 20


def stamp_of(files: Iterable[Path]) -> str:
    """Return the size and time of change of files, all in one text: who writes one of them anew changes it.

    Raises:
        OSError: where a file is missing.
    """
    each = [(status.st_size, status.st_mtime_ns) for status in (file.stat() for file in files)]
    whole = f"{sum(size for size, _ in each)}-{max((changed for _, changed in each), default=0)}"
    return whole if len(each) == 1 else f"{whole}-{sha256(repr(each).encode()).hexdigest()[:16]}"


def stamps_of(images: Sequence[ImageSource]) -> list[str]:
    """Return the stamp of each channel's files; none where a file is missing."""
    return _stamps(map(files_of, images))


def have_stamps(images: Sequence[ImageSource], stamps: list[str]) -> bool:
    """Whether the files of images are there and have these stamps.

    No header is read where all files of a folder have the stamp of its series: they are the series then.
    """
    there = [image.files_there if isinstance(image, ImageAt) else files_of(image) for image in images]
    return bool(stamps) and (_stamps(there) == stamps or stamps_of(images) == stamps)


def sha256_of(*paths: Path) -> str:
    """Return the SHA-256 of a file, or of the files of a series one after the other.

    Raises:
        CaseError: `not_a_file` for anything but a regular file or a link to one.
        OSError: where it cannot be read.
    """
    digest = sha256()
    for path in paths:
        with open_regular(path) as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()


def _stamps(images: Iterable[Iterable[Path]]) -> list[str]:
    try:
        return [stamp_of(files) for files in images]
    except OSError:
        return []


def has_stamp(path: Path, stamp: str) -> bool:
    """Whether a file is there and has a stamp."""
    try:
        return stamp_of([path]) == stamp
    except OSError:
        return False


def has_hash(files: Iterable[Path], known: str, hash_of: Hash = sha256_of) -> bool:
    """Whether files are there and have a SHA-256, one after the other."""
    try:
        return hash_of(*files) == known
    except (OSError, CaseError):
        return False
