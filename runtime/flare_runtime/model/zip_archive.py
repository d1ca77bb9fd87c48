"""A file of a zip archive of unknown origin: stored or deflated, whole, and read in bounded pieces."""

import zipfile
from io import BytesIO
from typing import BinaryIO

# `zipfile` reads an archive's list of files at once, 46 bytes and the name for each; a bundle has a dozen.
_PIECE, _MAX_LIST = 1 << 16, 1 << 20
_ENCRYPTED = 1


def read_member(file: BinaryIO, name: str, most: int) -> bytes:
    """Return at most `most` + 1 bytes of the archive's file `name`.

    Raises:
        KeyError: where there is none of that name.
        BadZipFile: where the archive or the file is damaged, or packed in a way that is not allowed.
        OSError, EOFError, RuntimeError, ValueError, struct.error, zlib.error: from `zipfile`, where it is damaged.
    """
    with zipfile.ZipFile(_Bounded(file)) as archive:
        found = [member for member in archive.infolist() if member.filename == name]
        if not found:
            raise KeyError(name)
        if len(found) > 1:
            raise zipfile.BadZipFile("the archive holds two of that name")
        if found[0].flag_bits & _ENCRYPTED:
            raise zipfile.BadZipFile("it is encrypted")
        if found[0].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise zipfile.BadZipFile("it is packed in a rare way; zip it with deflate")
        with archive.open(found[0]) as stream, BytesIO() as content:
            left = most + 1
            while left and (piece := stream.read(min(left, _PIECE))):
                content.write(piece)
                left -= len(piece)
            return content.getvalue()


class _Bounded:
    """A file of which too much cannot be read at once."""

    def __init__(self, file: BinaryIO) -> None:
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable
        self._file = file

    def read(self, size: int = -1) -> bytes:
        """Read, but no more than the list of a sane archive."""
        if size > _MAX_LIST:
            raise zipfile.BadZipFile("the archive holds too many files")
        return self._file.read(size)
