"""NIfTI files made to be wrong: a sound small file, then header fields, bytes and gzip layers changed at random."""

import gzip
import struct
import zlib
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np

from tests.runtime.nifti_files import CODES, nifti_header, sform_fields

_FLOAT_EDGES = (
    *(0.0, -0.0, 1.0, -1.0, 0.5, 2.0, 0.1, 0.0999, 20.0, 20.01, 3000.0, -1024.0, 352.0, 544.0),
    *(float("nan"), float("inf"), float("-inf"), 1e-45, 1e-38, 1e-9, 1e9, 2.0**31, 2.0**63, 3.4e38, -3.4e38),
    *(1e300, -1e300, 5e-324),
)
_TYPE_CODES = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1280, 1536, 1792, 2048, 2304, -1)
# Those that decide how the file is read are changed more often than the rest.
_DECISIVE = ("dim", "pixdim", "datatype", "vox_offset", "scl_slope", "scl_inter", "srow_x", "srow_z", "qoffset_x")
_DECISIVE += ("quatern_b", "qform_code", "sform_code", "xyzt_units", "magic", "sizeof_hdr")


def odd_file(rng: Random) -> tuple[str, bytes]:
    """Return the name and the bytes of one file."""
    if rng.random() < 0.02:
        return rng.choice(("scan.nii", "scan.nii.gz")), _no_nifti(rng)
    data = _image(rng)
    for _ in range(rng.choice((0, 0, 0, 0, 0, 1, 3))):
        data = damaged(rng, data)
    name = "scan.nii"
    if rng.random() < 0.7:
        data, name = _packed(rng, data), "scan.nii.gz"
        if rng.random() < 0.2:
            data = damaged(rng, data)
    if rng.random() < 0.03:
        name = rng.choice(("scan.nii", "scan.nii.gz"))
    return name, data


def _image(rng: Random) -> bytes:
    shape = _shape(rng)
    dtype = rng.choice(("i2", "i2", "f4", *CODES))
    version = rng.choice((1, 1, 2))
    spacing_mm = tuple(rng.choice((0.1, 0.7, 1.0, 1.5, 2.5, 20.0, rng.uniform(0.1, 20))) for _ in range(3))
    header = nifti_header(
        shape, dtype, spacing_mm=spacing_mm, version=version, endianness=rng.choice("<<>"), **_affine(rng, spacing_mm)
    )
    voxels = _voxels(rng, shape, dtype)
    body = voxels.astype(voxels.dtype.newbyteorder(header.endianness)).tobytes()
    if rng.random() < 0.15:
        extension = _extension(rng)
        header["vox_offset"] = float(header["vox_offset"]) + len(extension)
        body = extension + body
    for _ in range(rng.choice((0, 0, 0, 1, 1, 2, 5))):
        _change_field(rng, header)
    flag = bytes(4) if rng.random() < 0.9 else rng.randbytes(4)
    return bytes(header.binaryblock) + flag + body


def _shape(rng: Random) -> tuple[int, int, int]:
    if rng.random() < 0.03:  # long and thin: few voxels, great lengths
        sides = [1, rng.choice((1, 2)), rng.choice((500, 4000, 12000, 32767))]
        rng.shuffle(sides)
    else:
        sides = [rng.choice((1, 2, 3, rng.randint(4, 14))) for _ in range(3)]
    z, y, x = sides
    return z, y, x


def _affine(rng: Random, spacing_mm: tuple[float, ...]) -> dict[str, Any]:
    if rng.random() < 0.7:
        return {}
    angles = np.random.default_rng(rng.getrandbits(32)).standard_normal((3, 3))
    axes = np.linalg.qr(angles)[0] * np.array(spacing_mm[::-1])
    kind = rng.random()
    if kind < 0.3:
        axes = axes + angles * rng.choice((1e-6, 1e-3, 0.02, 0.5))
    elif kind < 0.4:
        axes[:, rng.randrange(3)] = axes[:, rng.randrange(3)]
    elif kind < 0.5:
        axes *= rng.choice((1.005, 1.02, 1e-20, 1e20))
    return sform_fields(axes)


def _voxels(rng: Random, shape: tuple[int, int, int], dtype: str) -> Any:
    numbers = np.random.default_rng(rng.getrandbits(32))
    if np.dtype(dtype).kind == "f":
        voxels = numbers.normal(0, 500, shape).astype(dtype)
        if rng.random() < 0.3:
            edges = np.array([np.nan, np.inf, -np.inf, np.finfo(dtype).max, 1e-40])
            chosen = numbers.random(shape) < rng.choice((0.005, 0.5, 1.0))
            voxels[chosen] = numbers.choice(edges, int(chosen.sum()))
        return voxels
    limits = np.iinfo(dtype)
    if rng.random() < 0.2:
        return np.full(shape, rng.choice((limits.min, limits.max, 0)), dtype)
    return numbers.integers(limits.min if rng.random() < 0.3 else 0, min(limits.max, 2000), shape).astype(dtype)


def _extension(rng: Random) -> bytes:
    content = rng.randbytes(rng.choice((0, 8, 24)))
    size = rng.choice((len(content) + 8, 0, -16, 2**31 - 1))
    return struct.pack("<ii", size, rng.choice((0, 2, 4, 6, 2**31 - 1))) + content


def _change_field(rng: Random, header: Any) -> None:
    name = rng.choice(_DECISIVE) if rng.random() < 0.7 else rng.choice(header.keys())
    field = header.structarr[name]
    if field.dtype.kind == "S":
        header[name] = rng.choice((b"", b"\xff" * 4, b"n+1", b"ni1", b"n+2", b"\x1b[2J\n", rng.randbytes(8)))
        return
    value: Any
    if field.dtype.kind == "f":
        value = rng.choice(_FLOAT_EDGES)
    else:
        limits = np.iinfo(field.dtype)
        edges = (limits.min, limits.max, -1, 0, 1, 2, 3, 4, 7, 8, 255, 256, 348, 540, 32767, *_TYPE_CODES)
        value = rng.choice([edge for edge in edges if limits.min <= edge <= limits.max])
    with np.errstate(over="ignore"):
        if field.ndim:
            changed = field.copy()
            changed[rng.randrange(len(field))] = value
            header[name] = changed
        else:
            header[name] = value


def _packed(rng: Random, data: bytes) -> bytes:
    kind = rng.random()
    if kind < 0.5:
        return gzip.compress(data, rng.choice((0, 1, 6, 9)), mtime=0)
    if kind < 0.65:  # members, empty ones between them
        cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.choice((1, 2, 20))))
        parts = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        return b"".join(gzip.compress(part, 1, mtime=0) for part in parts)
    if kind < 0.75:  # optional fields of the gzip header
        return _with_gzip_header(rng, data)
    if kind < 0.8:
        return gzip.compress(gzip.compress(data, mtime=0), mtime=0)
    if kind < 0.85:  # far more than the header promises
        more = rng.choice((1 << 10, 1 << 16, 1 << 20)) if rng.random() < 0.98 else 1 << 25
        return gzip.compress(data + bytes(more), 9, mtime=0)
    packed = bytearray(gzip.compress(data, 1, mtime=0))
    if kind < 0.9:
        packed[-rng.randint(1, 8)] ^= rng.randint(1, 255)
    else:
        trailing = (b"\0", bytes(512), b"\x1f", b"\x1f\x8b", b"\x1f\x8b\x08\x00", b"text")
        packed += rng.choice(trailing)
    return bytes(packed)


def _with_gzip_header(rng: Random, data: bytes) -> bytes:
    flags = rng.randrange(32)
    head = b"\x1f\x8b\x08" + bytes([flags]) + bytes(6)
    if flags & 4:
        extra = rng.randbytes(rng.choice((0, 6, 300)))
        head += struct.pack("<H", rng.choice((len(extra), len(extra), 65535))) + extra
    head += b"a name\0" if flags & 8 else b""
    head += b"a comment" + rng.choice((b"\0", b"\0", b"")) if flags & 16 else b""
    if flags & 2:
        head += struct.pack("<H", rng.choice((zlib.crc32(head) & 0xFFFF, 0)))
    encoder = zlib.compressobj(wbits=-15)
    body = encoder.compress(data) + encoder.flush()
    return head + body + struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF)


def damaged(rng: Random, data: bytes) -> bytes:
    """Cut, flip, overwrite, remove, insert or repeat some bytes."""
    if not data:
        return data
    place = rng.randrange(len(data))
    changes: tuple[Callable[[], bytes], ...] = (
        lambda: data[:place],
        lambda: data[:-1],
        lambda: data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :],
        lambda: data[:place] + rng.randbytes(4) + data[place + 4 :],
        lambda: data[:place] + data[place + rng.choice((1, 4, 100)) :],
        lambda: data[:place] + rng.randbytes(rng.choice((1, 4, 100))) + data[place:],
        lambda: data[:place] + bytes(rng.choice((1, 64, 4096))) + data[place:],
        lambda: data + data[place:],
    )
    return rng.choice(changes)()


def _no_nifti(rng: Random) -> bytes:
    size = rng.choice((0, 1, 3, 4, 347, 348, 352, 1000))
    starts = (
        b"",
        b"\x1f\x8b",
        b"\x1f\x8b\x08",
        b"BZh9",
        b"\x28\xb5\x2f\xfd",
        b"PK\x03\x04",
        b"{",
        bytes(128) + b"DICM",
    )
    starts += (struct.pack("<i", 348), struct.pack(">i", 348), struct.pack("<i", 540), struct.pack(">i", 540))
    data = rng.choice(starts) + rng.choice((rng.randbytes(size), bytes(size), b"text\n" * (size // 5)))
    return gzip.compress(data, mtime=0) if rng.random() < 0.3 else data
