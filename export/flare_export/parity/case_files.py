"""The files of the cases that `--verify` or `--calibrate` names."""

from collections.abc import Sequence
from pathlib import Path

from flare_runtime.errors import UsageError
from flare_runtime.imaging.file_names import other_channel


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
            other = other_channel(path, index)
            if other is None or not other.is_file():
                raise UsageError(f"{path}: channel {index} is missing; name the first channel, <case>_0000.nii.gz")
            files.append(other)
        cases.append(files)
    return cases
