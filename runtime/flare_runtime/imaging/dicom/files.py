"""DICOM files, told by their content: in a folder and those below it, or in a zip archive."""

import os
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, cast

from flare_runtime.errors import CaseError, UsageError
from flare_runtime.imaging.byte_stream import open_regular

# A file has 128 bytes for whoever needs them, and then its mark.
_MARK_AT, _MARK = 128, b"DICM"
# Without a mark one begins with an element of the group 2 or 8, in either byte order.
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x08")
_ZIP_MARK = b"PK\x03\x04"
HEAD_BYTES = _MARK_AT + len(_MARK)
_MAX_FILES = 200_000
_MAX_MEMBER_BYTES = 4 << 30
# Deflate shrinks nothing further.
_MAX_RATIO = 1032
_ENCRYPTED = 0x1
_BLOCK_BYTES = 1 << 20
# What unpacking a damaged archive raises.
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, KeyError, ValueError)


@dataclass(frozen=True, order=True)
class DicomFile:
    """A DICOM file on disk, or one in a zip archive.

    Attributes:
        path: the file, or the archive.
        member: its name in the archive.
    """

    path: Path
    member: str | None = None

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.path.name if self.member is None else f"{self.path.name}:{self.member}"

    @contextmanager
    def open(self, archive: zipfile.ZipFile | None) -> Iterator[BinaryIO]:
        """Open it for reading; a member of an archive is unpacked as it is read.

        Args:
            archive: of `archive_of` the files that it is one of.

        Raises:
            CaseError: `not_a_file`; `corrupt` for a member of an archive that cannot be unpacked.
            OSError: where it cannot be read.
        """
        if self.member is None or archive is None:
            with open_regular(self.path) as file:
                yield file
            return
        try:
            stream = cast(BinaryIO, archive.open(self.member))
        except _DAMAGED as error:
            raise CaseError("corrupt", f"{self.name} cannot be unpacked ({error}); copy the archive anew") from error
        with stream:
            yield stream

    def sha256(self, archive: zipfile.ZipFile | None) -> bytes:
        """Return the hash of the content."""
        digest = sha256()
        with self.open(archive) as stream:
            while block := stream.read(_BLOCK_BYTES):
                digest.update(block)
        return digest.digest()


@contextmanager
def archive_of(files: Iterable[DicomFile]) -> Iterator[zipfile.ZipFile | None]:
    """Open the archive that files lie in, once for all of them, as its list is long; None where they lie in none.

    Raises:
        CaseError: `corrupt`, `not_a_file`.
        OSError: where it cannot be read.
    """
    path = next((file.path for file in files if file.member is not None), None)
    if path is None:
        yield None
        return
    with open_regular(path) as file:
        try:
            archive = zipfile.ZipFile(file)
        except _DAMAGED as error:
            raise CaseError("corrupt", f"{path.name} cannot be unpacked ({error}); copy the archive anew") from error
        with archive:
            yield archive


def let_pydicom_in() -> None:
    """Let pydicom be imported again, after the command has kept nibabel from importing it."""
    if sys.modules.get("pydicom", sys) is None:
        del sys.modules["pydicom"]


def is_zip(path: Path) -> bool:
    """Whether a regular file begins as a zip archive does."""
    return begins_as_zip(_head(path))


def is_dicom(path: Path) -> bool:
    """Whether a regular file begins as a DICOM file does."""
    return begins_as_dicom(_head(path))


def begins_as_zip(head: bytes) -> bool:
    """Whether a zip archive begins like this."""
    return head.startswith(_ZIP_MARK)


def begins_as_dicom(head: bytes) -> bool:
    """Whether a DICOM file begins like this."""
    head = head[:HEAD_BYTES]
    return head[_MARK_AT:] == _MARK or (len(head) == HEAD_BYTES and head[:2] in _FIRST_GROUPS and head[2:4] != b"\0\0")


def find_files(source: Path, folders: Iterable[Path] | None = None) -> list[DicomFile]:
    """Return the DICOM files of a folder and of all below it, or of a zip archive, in the order of their names.

    Zip archives in a folder, hidden files and links to folders are left alone. A file in a folder that cannot be opened
    is taken for one, as a slice must not be missed in silence.

    Args:
        source: the folder or archive.
        folders: those below the folder, or it itself, whose files are wanted; all where None.

    Raises:
        UsageError: where there are more files than a study has, or the folder or archive cannot be read.
    """
    if source.is_file():
        return sorted(_members(source)) if is_zip(source) else [DicomFile(source)]
    found, seen = list[DicomFile](), 0
    for folder, names in _all_below(source) if folders is None else _each(folders):
        seen += len(names) if folders is None else 0
        if max(seen, len(found)) > _MAX_FILES:
            raise _too_many(source)
        paths = (Path(folder, name) for name in names if name[0] != ".")
        found += [DicomFile(path) for path in paths if _may_be_dicom(path)]
    return sorted(found)


def all_files(folder: Path) -> list[Path]:
    """Return the files of a folder and of all below it that `find_files` looks at, in its order; none is opened.

    Raises:
        UsageError: as `find_files` does.
    """
    found = list[Path]()
    for inner, names in _all_below(folder):
        found += [Path(inner, name) for name in names if name[0] != "."]
        if len(found) > _MAX_FILES:
            raise _too_many(folder)
    return sorted(found)


def _too_many(source: Path) -> UsageError:
    return UsageError(f"{source}: holds more than {_MAX_FILES:,} files; give the folder of one study")


def _all_below(source: Path) -> Iterator[tuple[str | Path, list[str]]]:
    for folder, folders, names in os.walk(source, onerror=_refuse):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        yield folder, names


def _each(folders: Iterable[Path]) -> Iterator[tuple[str | Path, list[str]]]:
    for folder in folders:
        try:
            yield folder, os.listdir(folder)  # noqa: PTH208
        except OSError as error:
            _refuse(error)


def _refuse(error: OSError) -> None:
    raise UsageError(f"{error.filename}: cannot be read ({error.strerror or error})") from error


def _may_be_dicom(path: Path) -> bool:
    try:
        return begins_as_dicom(_read_head(path))
    except CaseError:
        return False
    except OSError:
        return True


def _head(path: Path) -> bytes:
    try:
        return _read_head(path)
    except (OSError, CaseError):
        return b""


def _read_head(path: Path) -> bytes:
    with open_regular(path) as file:
        return file.read(HEAD_BYTES)


def _members(source: Path) -> Iterator[DicomFile]:
    try:
        with open_regular(source) as file, zipfile.ZipFile(file) as archive:
            members = [one for one in archive.infolist() if not one.is_dir()]
            if len(members) > _MAX_FILES:
                raise UsageError(f"{source}: holds more than {_MAX_FILES:,} files; give the archive of one study")
            (name, times), *_ = Counter(one.filename for one in members).most_common(1) or [("", 0)]
            if times > 1:
                raise UsageError(f"{source}: holds {times} files of the name {name!a:.80}; pack the folder anew")
            for one in members:
                if one.file_size > min(_MAX_MEMBER_BYTES, (one.compress_size + 1) * _MAX_RATIO):
                    raise UsageError(f"{source}: {one.filename!a:.80} would unpack to {one.file_size:,} bytes")
                if one.flag_bits & _ENCRYPTED or one.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise UsageError(f"{source}: {one.filename!a:.80} is encrypted or not packed by deflate; unpack it")
                with archive.open(one) as stream:
                    if begins_as_dicom(stream.read(HEAD_BYTES)):
                        yield DicomFile(source, one.filename)
    except (OSError, *_DAMAGED) as error:
        raise UsageError(f"{source}: cannot be unpacked ({error}); copy the archive anew") from error
