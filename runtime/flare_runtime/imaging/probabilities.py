"""Probabilities as a file: a .npz as NumPy reads it, written map by map."""

import zipfile
from collections.abc import Iterable
from typing import BinaryIO

import numpy as np

from flare_runtime.compute.arrays import AnyArray
from flare_runtime.imaging.geometry import Geometry

# The first member tells whose file it is: other programs write `probabilities` too.
_FIRST = b"written_by.npy"
# Of a member of a zip archive, before its name.
_MAGIC, _HEAD_BYTES = b"PK\x03\x04", 30
# Probabilities are mostly 0 or 1: the fastest level already shrinks them a hundredfold.
_LEVEL = 1
_CHUNK = 1 << 22


def encode_probabilities(file: BinaryIO, maps: Iterable[AnyArray], count: int, geometry: Geometry) -> None:
    """Write `count` maps (z, y, x) of one geometry, each before the next is asked for.

    The file holds `written_by`, which is `flare-lite`; `probabilities`, float16 (maps, z, y, x); and `affine`, from
    voxel (x, y, z) to place in mm (RAS+), where the place is known.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=_LEVEL) as archive:
        with archive.open(_FIRST.decode(), "w") as member:
            np.lib.format.write_array(member, np.array("flare-lite"), allow_pickle=False)
        with archive.open("probabilities.npy", "w", force_zip64=True) as member:
            header = {"descr": "<f2", "fortran_order": False, "shape": (count, *geometry.shape)}
            np.lib.format.write_array_header_1_0(member, header)
            for probabilities in maps:
                data = np.ascontiguousarray(probabilities, "<f2").reshape(-1).view(np.uint8).data
                for start in range(0, len(data), _CHUNK):
                    member.write(data[start : start + _CHUNK])
        if geometry.affine is not None:
            with archive.open("affine.npy", "w") as member:
                np.lib.format.write_array(member, geometry.affine, allow_pickle=False)


def is_probabilities(head: bytes) -> bool:
    """Whether a file that begins so was written by this module."""
    return head.startswith(_MAGIC) and head[_HEAD_BYTES:].startswith(_FIRST)
