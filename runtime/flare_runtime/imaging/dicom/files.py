"""DICOM files, told by their content: in a folder and those below it, or in a zip archive."""

import io
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

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
    def open(self) -> Iterator[BinaryIO]:
        """Open it for reading.

        Raises:
            CaseError: `not_a_file`; `corrupt` for a member of an archive that cannot be unpacked.
            OSError: where it cannot be read.
        """
        with open_regular(self.path) as file:
            if self.member is None:
                yield file
                return
            try:
                with zipfile.ZipFile(file) as archive:
                    content = io.BytesIO(archive.read(self.member))
            except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, KeyError) as error:
                raise CaseError(
                    "corrupt", f"{self.name} cannot be unpacked ({error}); copy the archive anew"
                ) from error
            yield content


def is_zip(path: Path) -> bool:
    """Whether a regular file begins as a zip archive does."""
    return _head(path).startswith(_ZIP_MARK)


def is_dicom(path: Path) -> bool:
    """Whether a regular file begins as a DICOM file does."""
    return _begins_as_dicom(_head(path))


def find_files(source: Path) -> list[DicomFile]:
    """Return the DICOM files of a folder and of all below it, or of a zip archive, in the order of their names.

    Zip archives in a folder, hidden files and links to folders are left alone.

    Raises:
        UsageError: where there are more files than a study has, or the folder or archive cannot be read.
    """
    if source.is_file():
        return sorted(_members(source)) if is_zip(source) else [DicomFile(source)]
    found, seen = [], 0
    for folder, folders, names in os.walk(source, onerror=_refuse):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        seen += len(names)
        if seen > _MAX_FILES:
            raise UsageError(f"{source}: holds more than {_MAX_FILES:,} files; give the folder of one study")
        paths = (Path(folder, name) for name in names if name[0] != ".")
        found += [DicomFile(path) for path in paths if is_dicom(path)]
    return sorted(found)


def _refuse(error: OSError) -> None:
    raise UsageError(f"{error.filename}: cannot be read ({error.strerror or error})") from error


def _head(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read(HEAD_BYTES)
    except (OSError, CaseError):
        return b""


def _begins_as_dicom(head: bytes) -> bool:
    return head[_MARK_AT:] == _MARK or (len(head) == HEAD_BYTES and head[:2] in _FIRST_GROUPS and head[2:4] != b"\0\0")


def _members(source: Path) -> Iterator[DicomFile]:
    try:
        with zipfile.ZipFile(source) as archive:
            members = [one for one in archive.infolist() if not one.is_dir()]
            if len(members) > _MAX_FILES:
                raise UsageError(f"{source}: holds more than {_MAX_FILES:,} files; give the archive of one study")
            for one in members:
                if one.file_size > min(_MAX_MEMBER_BYTES, (one.compress_size + 1) * _MAX_RATIO):
                    raise UsageError(f"{source}: {one.filename!a:.80} would unpack to {one.file_size:,} bytes")
                with archive.open(one) as file:
                    if _begins_as_dicom(file.read(HEAD_BYTES)):
                        yield DicomFile(source, one.filename)
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise UsageError(f"{source}: cannot be unpacked ({error}); copy the archive anew") from error
