"""Which cases an input holds and where their masks go, settled before any work is done."""

import os
import stat
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from flare_runtime.errors import OutputError, UsageError
from flare_runtime.files.naming import visible
from flare_runtime.files.output import check_folder
from flare_runtime.files.target import check_targets
from flare_runtime.imaging.file_names import (
    STALE,
    is_mask_name,
    is_stale,
    mask_name,
    other_channel,
    split_channel,
    strip_suffix,
)
from flare_runtime.imaging.write import HEAD_BYTES, is_mask, mask_suffixes
from flare_runtime.run.input_folder import find_images
from flare_runtime.run.record import is_record


@dataclass(frozen=True)
class Case:
    """One case to segment.

    Attributes:
        name: the file name without channel number and suffix, as it is shown everywhere; see `visible`.
        images: channel number to file.
        mask: where the mask is to be written, in a folder under the very name of the image, byte for byte; the record
            goes beside it as .json.
    """

    name: str
    images: dict[int, Path]
    mask: Path

    @property
    def record(self) -> Path:
        """Where the case's record is to be written."""
        return self.mask.with_name(strip_suffix(self.mask.name) + ".json")

    @property
    def stale(self) -> Path:
        """Where an earlier run's mask goes if this run's is refused or fails."""
        stem = strip_suffix(self.mask.name)
        return self.mask.with_name(f"{stem}{STALE}{self.mask.name[len(stem) :]}")

    def channel_files(self) -> list[Path]:
        """Return the files in the order of their channels."""
        return [self.images[channel] for channel in sorted(self.images)]


def find_cases(source: Path, target: str | Path, channels: int) -> list[Case]:
    """Return the case of an image, or the cases of a folder of images.

    Args:
        source: a file, or a folder with <case>_0000.nii.gz (nnU-Net's naming) or <case>.nii.gz.
        target: a folder for a folder; for a file another one, or a folder that exists or whose name ends in /.
        channels: how many images the model takes; for a file the others are looked for beside it, by their numbers.

    Raises:
        UsageError: where there is nothing to do, or two inputs would write one output.
        OutputError: where an output cannot or must not be written.
    """
    place = Path(target)
    if _is_folder(source):
        cases = _folder(source, place, channels)
    else:
        into = str(target).endswith(os.sep) or _is_there_as(Path.is_dir, place)
        cases = [_single(source, place, channels, into_folder=into)]
    _check_outputs(cases)
    return cases


def _check_outputs(cases: Sequence[Case]) -> None:
    for case in cases:
        if any(is_stale(path.name) for path in (*case.images.values(), case.mask)):
            raise UsageError(f"{case.name}: a name that ends in {STALE} is a mask set aside; choose another")
    owners = {image: case for case in cases for image in case.images.values()}
    for case in cases:
        if owners.get(case.mask, case) is not case:
            raise OutputError(f"{case.mask}: is an input, that of {owners[case.mask].name}; choose another output")
    images = list(owners)
    masks = (path for case in cases for path in (case.mask, case.stale))
    check_targets(masks, images, over=is_mask, head_bytes=HEAD_BYTES)
    check_targets((case.record for case in cases), images, over=is_record)
    check_folder(cases[0].mask.parent)


def _is_folder(source: Path) -> bool:
    try:
        return stat.S_ISDIR(source.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"{source}: there is no such file or folder") from error
    except OSError as error:
        raise UsageError(f"{source}: cannot be read ({error.strerror or error})") from error


def _is_there_as(kind: Callable[[Path], bool], target: Path) -> bool:
    with suppress(OSError):  # such as a name that is too long; the checks of outputs will say so
        return kind(target)
    return False


def _single(source: Path, target: Path, channels: int, *, into_folder: bool) -> Case:
    name, channel = split_channel(source.name)
    if channel:
        name = strip_suffix(source.name)
    if into_folder:
        target = target / mask_name(name)
    if not is_mask_name(target.name):
        allowed = " or ".join(mask_suffixes())
        raise UsageError(f"{target}: the output for a file is a {allowed} file, or a folder that exists or ends in /")
    images = {0: source}
    for index in range(1, channels):
        if (other := other_channel(source, index)) and other.exists():
            images[index] = other
    return Case(visible(name), images, target)


def _folder(source: Path, target: Path, channels: int) -> list[Case]:
    if _is_there_as(Path.is_file, target) or is_mask_name(target.name):
        raise UsageError(f"{target}: the output for a folder is a folder")
    by_name: dict[str, dict[int, Path]] = defaultdict(dict)
    for path in find_images(source, target):
        name, channel = split_channel(path.name)
        if (channel or 0) in by_name[name]:
            raise _same_mask(by_name[name][channel or 0], path, name)
        by_name[name][channel or 0] = path
    if channels == 1:
        by_name = _without_numbers(by_name)
    return [Case(visible(name), images, target / mask_name(name)) for name, images in by_name.items()]


def _without_numbers(by_name: dict[str, dict[int, Path]]) -> dict[str, dict[int, Path]]:
    """Take numbers for part of the name where no file of theirs is channel 0: x_0001, x_0002 are cases of their own."""
    cases: dict[str, dict[int, Path]] = {}
    for name, images in by_name.items():
        numbered = {name: images} if 0 in images else {strip_suffix(p.name): {0: p} for p in images.values()}
        for own, files in numbered.items():
            if own in cases:
                raise _same_mask(cases[own][0], files[0], own)
            cases[own] = files
    return cases


def _same_mask(first: Path, second: Path, name: str) -> UsageError:
    return UsageError(f"{first.name} and {second.name} would both be written to {mask_name(name)}; move one")
