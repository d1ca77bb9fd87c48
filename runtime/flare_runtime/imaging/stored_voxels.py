"""Voxels as a file holds them behind its header: all of them or none, in the machine's own byte order."""

from math import prod
from typing import Any

import numpy as np

from flare_runtime.compute.arrays import AnyArray, Shape3
from flare_runtime.errors import CaseError
from flare_runtime.imaging.byte_stream import DEFLATE_MAX_RATIO, ByteStream
from flare_runtime.imaging.volume import Remark


def check_size(stream: ByteStream, shape: Shape3, dtype: np.dtype[Any], max_voxels: int) -> None:
    """Refuse a header that promises too many voxels (z, y, x), or more than its file can hold.

    Raises:
        CaseError: `too_large`, `truncated`.
    """
    count = prod(shape)
    if count > max_voxels:
        raise CaseError("too_large", f"the volume has {count} voxels; at most {max_voxels} are allowed (--max-voxels)")
    stored = stream.path.stat().st_size
    most = stored * (DEFLATE_MAX_RATIO if stream.compressed else 1)
    if count * dtype.itemsize > most:
        raise CaseError("truncated", f"the header promises {count} voxels, more than {stored} bytes can hold")


def read_voxels(stream: ByteStream, shape: Shape3, dtype: np.dtype[Any]) -> tuple[AnyArray, list[Remark]]:
    """Return the voxels (z, y, x) that a stream holds next, and what is odd about its end.

    Raises:
        CaseError: `truncated`, `corrupt`.
    """
    voxels = np.empty(shape, dtype)
    missing = voxels.nbytes - stream.read_into(voxels.reshape(-1).view(np.uint8).data)
    if missing:
        raise CaseError("truncated", f"{missing} of {voxels.nbytes} voxel bytes are missing; copy the file anew")
    remarks = []
    if stream.drain():
        remarks.append(Remark("trailing_bytes", "bytes after the last voxel were ignored"))
    if not dtype.isnative:
        voxels = voxels.byteswap(inplace=True).view(dtype.newbyteorder("="))
    return voxels, [*remarks, *stream.remarks]
