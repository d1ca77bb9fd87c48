"""The files of the cases that `--verify` or `--calibrate` names."""

from collections.abc import Sequence
from pathlib import Path

from flare_runtime.cases.input_folder import find_channels
from flare_runtime.errors import UsageError


def channel_files(paths: Sequence[Path], channels: int) -> list[list[Path]]:
    """Group files by case: of every one, the other channels lie beside it.

    Raises:
        UsageError: where a file is missing.
    """
    cases = []
    for path in paths:
        if not path.is_file():
            raise UsageError(f"{path}: there is no such file; name NIfTI images")
        _, files = find_channels(path, channels)
        if missing := [index for index in range(channels) if index not in files]:
            raise UsageError(f"{path}: channel {missing[0]} is missing; name files like <case>_0000.nii.gz")
        cases.append([files[index] for index in range(channels)])
    return cases
