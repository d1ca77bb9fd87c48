"""The files of the cases that `--verify` or `--calibrate` names, and what the cases are called."""

from collections.abc import Sequence
from pathlib import Path

from flare_runtime.errors import UsageError
from flare_runtime.files.naming import visible


def channel_files(paths: Sequence[Path], channels: int) -> list[list[Path]]:
    """Group files by case: every one is channel 0, `_0000` naming the others by its neighbours.

    Raises:
        UsageError: where a file is missing.
    """
    cases = []
    for path in paths:
        if not path.is_file():
            raise UsageError(f"{path}: there is no such file; name NIfTI images")
        files = [path]
        for index in range(1, channels):
            other = path.with_name(path.name.replace("_0000.nii", f"_{index:04d}.nii"))
            if other == path or not other.is_file():
                raise UsageError(f"{path}: channel {index} is missing; name the first channel, <case>_0000.nii.gz")
            files.append(other)
        cases.append(files)
    return cases


def case_name(files: Sequence[Path]) -> str:
    """Return what a case, given as its channels' files, is called."""
    return visible(files[0].name.split(".nii")[0].removesuffix("_0000"))
