"""The decoded bytes of a plain or gzip-compressed file, every one of them checked."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

from flare_runtime.errors import CaseError
from flare_runtime.imaging.volume import Remark

_READ_BYTES = 1 << 20
_DECODED_BYTES = 1 << 19
GZIP_MAGIC = b"\x1f\x8b"

# DEFLATE cannot expand a byte to more than this many.
DEFLATE_MAX_RATIO = 1032

Packing: TypeAlias = Literal["none", "gzip", "zlib"]

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class ByteStream:
    """Reads a file front to back, decompressing gzip by its magic bytes, whatever its name, or as it is told.

    Several gzip members in a row (pigz, bgzip) are one stream. Bytes after the last member are remarked upon.

    Args:
        path: the file.
        start: how many bytes of it are passed over.
        packing: of the bytes from there; where None, gzip or nothing by the first two.

    Raises:
        CaseError: `not_a_file` for anything but a regular file or a link to one, `truncated` where a compressed stream
            ends early, `corrupt` where it or its checksum is wrong.
    """

    def __init__(self, path: Path, start: int = 0, packing: Packing | None = None) -> None:
        self.path = path
        self.remarks: list[Remark] = []
        self._file = open_regular(path)
        self._file.seek(start)
        if packing is None:
            packing = "gzip" if self._file.read(2) == GZIP_MAGIC else "none"
            self._file.seek(start)
        self.compressed = packing != "none"
        self._packing = packing
        self._chunks = self._inflated() if self.compressed else self._plain()
        self._pending = memoryview(b"")

    def __enter__(self) -> "ByteStream":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read_into(self, target: memoryview) -> int:
        """Fill `target` and return how many bytes there were, fewer than asked for only at the end."""
        filled = 0
        while filled < len(target):
            if not self._pending:
                chunk = next(self._chunks, None)
                if chunk is None:
                    break
                self._pending = memoryview(chunk)
            count = min(len(self._pending), len(target) - filled)
            target[filled : filled + count] = self._pending[:count]
            self._pending = self._pending[count:]
            filled += count
        return filled

    def read(self, count: int) -> bytes:
        """Return the next `count` bytes, fewer only at the end."""
        target = bytearray(count)
        return bytes(target[: self.read_into(memoryview(target))])

    def skip(self, count: int) -> int:
        """Pass over `count` bytes and return how many there were."""
        left = count
        while left:
            piece = len(self.read(min(left, _READ_BYTES)))
            if not piece:
                break
            left -= piece
        return count - left

    def drain(self) -> int:
        """Decode to the end, so that the checksum is tested, and return how many bytes were left."""
        left = len(self._pending)
        self._pending = memoryview(b"")
        return left + sum(len(chunk) for chunk in self._chunks)

    def _plain(self) -> Iterator[bytes]:
        while block := self._file.read(_READ_BYTES):
            yield block

    def _inflated(self) -> Iterator[bytes]:
        from isal import igzip_lib

        isal_error: Any = igzip_lib.error
        flag = igzip_lib.DECOMP_GZIP if self._packing == "gzip" else igzip_lib.DECOMP_ZLIB
        block = self._file.read(_READ_BYTES)
        while block:
            member = igzip_lib.IgzipDecompressor(flag=flag)
            try:
                while not member.eof:
                    yield member.decompress(block, _DECODED_BYTES)
                    # A gzip member may end exactly at a block's end: read on only for more input of this member.
                    block = self._file.read(_READ_BYTES) if member.needs_input and not member.eof else b""
                    if member.needs_input and not member.eof and not block:
                        raise CaseError(
                            "truncated", f"{self.path.name}: the {self._packing} stream ends early; copy the file anew"
                        )
            except isal_error as error:
                raise CaseError(
                    "corrupt", f"{self.path.name}: bad {self._packing} data ({error}); copy it anew"
                ) from error
            block = member.unused_data
            if len(block) < len(GZIP_MAGIC):
                block += self._file.read(_READ_BYTES)
            if block and not (self._packing == "gzip" and block.startswith(GZIP_MAGIC)):
                text = f"bytes after the end of the {self._packing} stream were ignored"
                self.remarks.append(Remark("trailing_bytes", text))
                return


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file, or a link to one, for reading.

    Raises:
        CaseError: `not_a_file` for anything else.
        OSError: where it cannot be opened.
    """
    # What is none is not even opened: that blocks on a pipe and does things to devices.
    _check_regular(path, path.stat().st_mode)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    file = os.fdopen(descriptor, "rb")
    try:
        _check_regular(path, os.fstat(descriptor).st_mode)  # another may have come in its place
    except CaseError:
        file.close()
        raise
    return file


def _check_regular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "no regular file")
        raise CaseError("not_a_file", f"{path.name}: is {kind}; give an image file")
