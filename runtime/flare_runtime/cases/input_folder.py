"""What of a folder is to be segmented: its images, but no results of earlier runs and nothing that cannot be read."""

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from flare_runtime.cases.record_format import mask_in_record
from flare_runtime.errors import UsageError
from flare_runtime.files.naming import visible
from flare_runtime.imaging.file_names import (
    is_beside_mask_name,
    is_image_name,
    is_stale,
    mask_name,
    record_name,
    split_channel,
    strip_suffix,
)
from flare_runtime.imaging.read import image_suffixes
from flare_runtime.imaging.write import HEAD_BYTES, is_mask

_LOG = logging.getLogger(__name__)

# Files of other formats that may be meant.
_OTHER_FORMATS = {".dcm", ".ima", ".nhdr", ".mhd", ".img", ".hdr", ".mgz", ".mgh", ".npy", ".npz", ".zip"}


@dataclass
class FolderContents:
    """What a folder holds, as far as it may be meant to be segmented.

    Attributes:
        images: in the order of their names.
        folders: in it, in that order too.
        results: how many masks of earlier runs there are.
        kinds: of files of other formats, how many there are of each.
    """

    images: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    results: int = 0
    kinds: Counter[str] = field(default_factory=Counter)

    @property
    def left_out(self) -> str:
        """What is no image, in words; empty where there is nothing of it."""
        counted = [
            *_counted(self.results, "mask", "of earlier runs"),
            *_counted(self.kinds.total(), "file", f"of other formats ({', '.join(sorted(self.kinds))})"),
            *_counted(len(self.folders), "folder", "in it"),
        ]
        advice = ["convert them to NIfTI, or give a DICOM series by itself"] if self.kinds else []
        advice += ["--recursive looks into folders"] if self.folders else []
        return "; ".join(filter(None, (" and ".join(counted), ", ".join(advice))))


def find_images(source: Path, target: Path) -> list[Path]:
    """Return the images of a folder in the order of their names; of what else may be meant, a warning is logged.

    Args:
        source: the folder, which alone is looked into.
        target: the folder of results, of which no word is said where it lies in `source`.

    Raises:
        UsageError: where there is no image, or the folder cannot be read.
    """
    found = look_into(source)
    found.folders = [folder for folder in found.folders if not is_same(folder, target)]
    if not found.images:
        raise UsageError(f"{source}: holds no {', '.join(image_suffixes())} file{_but(found.left_out)}")
    warn_of(source, found)
    return found.images


def look_into(folder: Path, *, nested: bool = False) -> FolderContents:
    """List what a folder holds, all but what is hidden.

    Args:
        folder: the folder.
        nested: whether folders that are named like an image are folders; else they are cases, which are refused.

    Raises:
        UsageError: where it cannot be read.
    """
    try:
        with os.scandir(folder) as entries:  # much faster than paths for thousands of files
            shown = [entry for entry in entries if entry.name[0] != "."]
            folders = {one.name for one in shown if (nested or not is_image_name(one.name)) and _is_folder(one)}
            names = {entry.name for entry in shown} - (folders if nested else set())
    except OSError as error:
        raise UsageError(f"{folder}: cannot be read ({error.strerror or error})") from error
    images = [folder / name for name in sorted(names) if is_image_name(name)]
    results = {path for path in images if _is_result(path, names)}
    foreign = (name for name in names if not is_image_name(name) and not is_beside_mask_name(name))
    return FolderContents(
        [path for path in images if path not in results],
        [folder / name for name in sorted(folders)],
        len(results),
        Counter(kind for kind in map(_kind, foreign) if kind in _OTHER_FORMATS),
    )


def warn_of(source: Path, found: FolderContents) -> None:
    """Log what of an input is left out, where something is."""
    if found.left_out:
        _LOG.warning("%s: left out %s", visible(source), found.left_out)


def by_channel(images: Sequence[Path], channels: int) -> dict[str, dict[int, Path]]:
    """Return the cases of a folder's images: their names, and the image of each channel.

    Args:
        images: of one folder.
        channels: how many the model takes. For one, other numbers than 0 belong to the name.

    Raises:
        UsageError: where two would be written to one mask.
    """
    by_name: dict[str, dict[int, Path]] = defaultdict(dict)
    for path in images:
        name, channel = split_channel(path.name)
        if (channel or 0) in by_name[name]:
            raise same_mask(by_name[name][channel or 0], path, name)
        by_name[name][channel or 0] = path
    return _without_numbers(by_name) if channels == 1 else by_name


def _without_numbers(by_name: dict[str, dict[int, Path]]) -> dict[str, dict[int, Path]]:
    """Take numbers for part of the name where no file of theirs is channel 0: x_0001, x_0002 are cases of their own."""
    cases: dict[str, dict[int, Path]] = {}
    for name, images in by_name.items():
        numbered = {name: images} if 0 in images else {strip_suffix(p.name): {0: p} for p in images.values()}
        for own, files in numbered.items():
            if own in cases:
                raise same_mask(cases[own][0], files[0], own)
            cases[own] = files
    return cases


def same_mask(first: Path, second: Path, name: str) -> UsageError:
    """Return the error of two images that would be written to the mask of one name."""
    return UsageError(f"{first.name} and {second.name} would both be written to {mask_name(name)}; move one")


def find_channels(image: Path, channels: int) -> tuple[str, dict[int, Path]]:
    """Return the name and the images of the case that an image is of, as a folder of them would give it.

    Args:
        image: any of its channels, whose number its name says; no number is channel 0.
        channels: how many images the model takes. For one, other numbers than 0 belong to the name.
    """
    name, number = split_channel(image.name)
    if channels == 1:
        return (strip_suffix(image.name) if number else name), {0: image}
    suffix = image.name[len(strip_suffix(image.name)) :]
    images = {number or 0: image}
    with suppress(OSError):  # of a folder that cannot be listed, the image is all that is known
        names = set(os.listdir(image.parent))  # noqa: PTH208
        for other in sorted(names, key=lambda other: (not other.endswith(suffix), other)):
            case, index = split_channel(other)
            is_image = other.endswith(suffix) or other.lower().endswith(image_suffixes())
            if case != name or not is_image or is_stale(other) or (index or 0) >= channels:
                continue
            if (index or 0) not in images and not _is_result(image.with_name(other), names):
                images[index or 0] = image.with_name(other)
    return name, images


def _is_folder(entry: os.DirEntry[str]) -> bool:
    with suppress(OSError):  # as of a link to itself
        return entry.is_dir()
    return False


def is_same(folder: Path, target: Path) -> bool:
    """Whether two paths are of one folder that is there."""
    with suppress(OSError):
        return folder.samefile(target)
    return False


def _is_result(path: Path, names: Set[str]) -> bool:
    """Whether a file is the mask that a record among the names beside it describes."""
    if record_name(path.name) not in names:
        return False
    with suppress(OSError):
        record = path.with_name(record_name(path.name)).read_bytes()
        if PurePath(mask_in_record(record) or "").name == visible(path.name):
            with path.open("rb") as file:
                return is_mask(file.read(HEAD_BYTES))
    return False


def _kind(name: str) -> str:
    return PurePath(name).suffix.lower()


def _counted(count: int, noun: str, what: str) -> list[str]:
    return [f"{count} {noun}{'s' if count > 1 else ''} {what}"] if count else []


def _but(left_out: str) -> str:
    return f", but {left_out}" if left_out else ""
