"""What of a folder is to be segmented: its images, but no results of earlier runs and nothing that cannot be read."""

import logging
import os
from collections.abc import Sequence, Set
from contextlib import suppress
from pathlib import Path, PurePath

from flare_runtime.errors import UsageError
from flare_runtime.files.naming import visible
from flare_runtime.imaging.file_names import (
    is_beside_mask_name,
    is_image_name,
    is_stale,
    record_name,
    split_channel,
    strip_suffix,
)
from flare_runtime.imaging.read import image_suffixes
from flare_runtime.imaging.write import HEAD_BYTES, is_mask
from flare_runtime.run.record import mask_in_record

_LOG = logging.getLogger(__name__)

# Files of other formats that may be meant.
_OTHER_FORMATS = {".dcm", ".ima", ".nhdr", ".mhd", ".img", ".hdr", ".mgz", ".mgh", ".npy", ".npz", ".zip"}


def find_images(source: Path, target: Path) -> list[Path]:
    """Return the images of a folder in the order of their names; of what else may be meant, a warning is logged.

    Args:
        source: the folder, which alone is looked into.
        target: the folder of results, of which no word is said where it lies in `source`.

    Raises:
        UsageError: where there is no image, or the folder cannot be read.
    """
    try:
        with os.scandir(source) as entries:  # much faster than paths for thousands of files
            shown = [entry for entry in entries if entry.name[0] != "."]
            # One that is named like an image is a case, which is refused.
            folders = [Path(one.path) for one in shown if not is_image_name(one.name) and _is_folder(one)]
            names = {entry.name for entry in shown}
    except OSError as error:
        raise UsageError(f"{source}: cannot be read ({error.strerror or error})") from error
    folders = [folder for folder in folders if not _is_same(folder, target)]
    images = [source / name for name in sorted(names) if is_image_name(name)]
    results = {path for path in images if _is_result(path, names)}
    images = [path for path in images if path not in results]
    foreign = (name for name in names if not is_image_name(name) and not is_beside_mask_name(name))
    others = [name for name in foreign if _kind(name) in _OTHER_FORMATS]
    left_out = [
        *_counted(len(results), "mask", "of earlier runs"),
        *_counted(len(others), "file", f"of other formats ({', '.join(sorted(set(map(_kind, others))))})"),
        *_counted(len(folders), "folder", "in it"),
    ]
    if not images:
        suffixes = ", ".join(image_suffixes())
        also = f", but {' and '.join(left_out)}" if left_out else ""
        raise UsageError(f"{source}: holds no {suffixes} file{also}{_advice(others, folders)}")
    if left_out:
        _LOG.warning("%s: left out %s%s", visible(source), " and ".join(left_out), _advice(others, folders))
    return images


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


def _is_same(folder: Path, target: Path) -> bool:
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


def _advice(others: Sequence[str], folders: Sequence[Path]) -> str:
    advice = ["convert them to NIfTI, or give a DICOM series by itself"] if others else []
    advice += ["give folders one by one"] if folders else []
    return f"; {', '.join(advice)}" if advice else ""
