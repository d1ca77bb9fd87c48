"""What of a folder is to be segmented: its images, but no results of earlier runs and nothing that cannot be read."""

import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePath

from flare_runtime.errors import UsageError
from flare_runtime.files.naming import visible
from flare_runtime.imaging.file_names import is_image_name, strip_suffix
from flare_runtime.imaging.read import image_suffixes
from flare_runtime.imaging.write import HEAD_BYTES, is_mask
from flare_runtime.run.record import mask_in_record

_LOG = logging.getLogger(__name__)

# Files of other formats that may be meant.
_OTHER_FORMATS = {".dcm", ".ima", ".nrrd", ".nhdr", ".mha", ".mhd", ".img", ".hdr", ".mgz", ".mgh", ".npy", ".npz"}


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
    results = {path for path in images if f"{strip_suffix(path.name)}.json" in names and _is_result(path)}
    images = [path for path in images if path not in results]
    others = [name for name in names if _kind(name) in _OTHER_FORMATS and not is_image_name(name)]
    left_out = [
        *_counted(len(results), "mask", "of earlier runs"),
        *_counted(len(others), "file", f"of other formats ({', '.join(sorted(set(map(_kind, others))))})"),
        *_counted(len(folders), "folder", "in it"),
    ]
    if not images:
        suffixes = " or ".join(sorted(image_suffixes()))
        also = f", but {' and '.join(left_out)}" if left_out else ""
        raise UsageError(f"{source}: holds no {suffixes} file{also}{_advice(others, folders)}")
    if left_out:
        _LOG.warning("%s: left out %s%s", visible(source), " and ".join(left_out), _advice(others, folders))
    return images


def _is_folder(entry: os.DirEntry[str]) -> bool:
    with suppress(OSError):  # as of a link to itself
        return entry.is_dir()
    return False


def _is_same(folder: Path, target: Path) -> bool:
    with suppress(OSError):
        return folder.samefile(target)
    return False


def _is_result(path: Path) -> bool:
    """Whether a file that a .json lies beside is the mask that this describes."""
    with suppress(OSError):
        record = path.with_name(f"{strip_suffix(path.name)}.json").read_bytes()
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
