"""Writing results so that a final name never holds half of one."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from flare_runtime.arrays import MaskArray
from flare_runtime.errors import OutputError
from flare_runtime.nifti import SUFFIXES, mask_header

_TEMPORARY_SUFFIX = ".flare-tmp"
# Masks are mostly runs of one value: the fastest level already shrinks them two hundredfold.
_LEVEL = 1
_CHUNK = 1 << 22


def check_target(target: Path, sources: list[Path]) -> None:
    """Refuse a target that must not be replaced, before any work is done.

    Raises:
        OutputError: where it is a folder, a symbolic link, or one of the inputs.
    """
    if target.is_symlink():
        raise OutputError(f"{target}: is a symbolic link; name the file it should become")
    if target.is_dir():
        raise OutputError(f"{target}: is a folder; name a file")
    if any(target.exists() and source.exists() and target.samefile(source) for source in sources):
        raise OutputError(f"{target}: is the input itself; choose another output")


def check_folder(folder: Path) -> None:
    """Create the output folder if need be, try it, and sweep what a killed run of this machine left there.

    Raises:
        OutputError: where nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        probe = _temporary(folder / "probe")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written to ({error.strerror or error})") from error


@contextmanager
def replacing(target: Path) -> Iterator[BinaryIO]:
    """Open a file that takes `target`'s name, durably, only when the block ends without an error.

    Raises:
        OutputError: where it cannot be written; `target` is then as it was.
    """
    temporary = _temporary(target)
    try:
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        except OSError as error:
            raise OutputError(f"{target}: cannot be written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_mask(target: Path, mask: MaskArray, header: Any) -> None:
    """Write a mask (z, y, x) with the input header's geometry, compressed if `target` ends in .gz.

    Raises:
        OutputError: where it cannot be written.
    """
    voxels = np.ascontiguousarray(mask).data.cast("B")
    with replacing(target) as file:
        head = mask_header((mask.shape[0], mask.shape[1], mask.shape[2]), header)
        if not target.name.endswith(".gz"):
            file.write(head)
            file.write(voxels)
            return
        from isal import isal_zlib

        encoder = isal_zlib.compressobj(_LEVEL, wbits=31)
        file.write(encoder.compress(head))
        for start in range(0, len(voxels), _CHUNK):
            file.write(encoder.compress(voxels[start : start + _CHUNK]))
        file.write(encoder.flush())


def strip_suffix(name: str) -> str:
    """Return a NIfTI file's name without .nii or .nii.gz."""
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def _temporary(target: Path) -> Path:
    return target.with_name(f".{target.name}.{socket.gethostname()}-{os.getpid()}{_TEMPORARY_SUFFIX}")


def _sweep(folder: Path) -> None:
    for stale in folder.glob(f".*.{socket.gethostname()}-*{_TEMPORARY_SUFFIX}"):
        owner = stale.name.removesuffix(_TEMPORARY_SUFFIX)
        process = owner.rpartition("-")[2]
        if (
            process.isdigit()
            and owner.endswith(f".{socket.gethostname()}-{process}")
            and not Path("/proc", process).exists()
        ):
            stale.unlink(missing_ok=True)
