"""Writing results so that a final name never holds half of one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from flare_runtime.arrays import MaskArray
from flare_runtime.errors import OutputError
from flare_runtime.interruption import committing
from flare_runtime.nifti import SUFFIXES, mask_header
from flare_runtime.target import check_kind
from flare_runtime.temporary import sweep, temporary_file

# Ends the stem of a mask of an earlier run that was set aside.
STALE = ".stale"
_STALE_SUFFIXES = tuple(STALE + suffix for suffix in SUFFIXES)
# Masks are mostly runs of one value: the fastest level already shrinks them two hundredfold.
_LEVEL = 1
_CHUNK = 1 << 22


def check_folder(folder: Path) -> None:
    """Create the output folder if need be, sweep what killed runs left there, and try it.

    Raises:
        OutputError: where nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        with temporary_file(folder):
            pass
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written to ({error.strerror or error})") from error


@dataclass(frozen=True)
class StagedFile:
    """A file that is being written beside the one it is to become.

    Attributes:
        target: the name it is to take.
        path: where it is until then.
        file: it itself.
    """

    target: Path
    path: Path
    file: BinaryIO

    def settle(self) -> None:
        """Bring what was written to the disk.

        Raises:
            OSError: where it does not fit there.
        """
        self.file.flush()
        os.fsync(self.file.fileno())

    def take_name(self) -> None:
        """Become the target.

        Raises:
            OutputError: where something else than a file has come there meanwhile.
            OSError: where it cannot be renamed.
        """
        with committing:
            check_kind(self.target)
            self.path.replace(self.target)


@contextmanager
def staged(target: Path) -> Iterator[StagedFile]:
    """Open a file beside `target`; it is gone after the block unless it has taken its name.

    Raises:
        OutputError: where it cannot be written, which any OSError in the block is taken for.
    """
    try:
        with temporary_file(target.parent) as (path, file):
            yield StagedFile(target, path, file)
    except OSError as error:
        raise OutputError(f"{target}: cannot be written ({error.strerror or error})") from error


@contextmanager
def replacing(target: Path) -> Iterator[BinaryIO]:
    """Open a file that takes `target`'s name, durably, only when the block ends without an error.

    Raises:
        OutputError: where it cannot be written; `target` is then as it was.
    """
    with staged(target) as new:
        yield new.file
        new.settle()
        new.take_name()


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


def is_stale(path: Path) -> bool:
    """Whether a NIfTI file's name is that of a mask that was set aside, which is an input of nothing."""
    return path.name.lower().endswith(_STALE_SUFFIXES)


def strip_suffix(name: str) -> str:
    """Return a NIfTI file's name without .nii or .nii.gz."""
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name
