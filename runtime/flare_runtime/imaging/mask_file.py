"""Masks as NIfTI files on their image's grid."""

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from flare_runtime.compute.arrays import MaskArray
from flare_runtime.files.output import replacing
from flare_runtime.imaging.nifti import mask_header

# Masks are mostly runs of one value: the fastest level already shrinks them two hundredfold.
_LEVEL = 1
_CHUNK = 1 << 22


def write_mask(target: Path, mask: MaskArray, header: Any) -> None:
    """Write a mask (z, y, x) with the input header's geometry, compressed if `target` ends in .gz.

    Raises:
        OutputError: where it cannot be written.
    """
    with replacing(target) as file:
        encode_mask(file, mask, header, compressed=target.name.endswith(".gz"))


def encode_mask(file: BinaryIO, mask: MaskArray, header: Any, *, compressed: bool, keep_text: bool = False) -> None:
    """Write a mask (z, y, x) as NIfTI with the input header's geometry, and its free text where `keep_text`."""
    voxels = np.ascontiguousarray(mask).data.cast("B")
    head = mask_header((mask.shape[0], mask.shape[1], mask.shape[2]), header, keep_text=keep_text)
    if not compressed:
        file.write(head)
        file.write(voxels)
        return
    from isal import isal_zlib

    encoder = isal_zlib.compressobj(_LEVEL, wbits=31)
    file.write(encoder.compress(head))
    for start in range(0, len(voxels), _CHUNK):
        file.write(encoder.compress(voxels[start : start + _CHUNK]))
    file.write(encoder.flush())
