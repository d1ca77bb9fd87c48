"""Pictures as PNG files, which need nothing but zlib."""

import struct
import zlib

import numpy as np
import numpy.typing as npt

_MAGIC = b"\x89PNG\r\n\x1a\n"
_MAKER = b"Software\x00flare-lite"
# Of the signature and the header, and of a chunk before its data.
_HEADER_BYTES, _CHUNK_BYTES = 33, 8
_COLOUR_TYPES = {1: 0, 3: 2, 4: 6}  # grey, RGB, RGB with opacity


def encode_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Return a picture (rows, columns), or with 3 or 4 channels last, as a PNG that says who made it."""
    height, width, *channels = pixels.shape
    rows = np.zeros((height, 1 + pixels[0].size), np.uint8)
    rows[:, 1:] = pixels.reshape(height, -1)
    colour = _COLOUR_TYPES[channels[0] if channels else 1]
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"tEXt", _MAKER), (b"IDAT", zlib.compress(rows.tobytes(), 6)), (b"IEND", b""))
    return _MAGIC + b"".join(_chunk(*chunk) for chunk in chunks)


def is_own_png(head: bytes) -> bool:
    """Whether a file that begins so is a picture that this module made."""
    return head.startswith(_MAGIC) and head[_HEADER_BYTES + _CHUNK_BYTES :].startswith(_MAKER)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
