"""The cases of a FLARE-style data set: images, and the labels that belong to them, wherever they lie under a folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from flare_eval.sources import PSEUDO_LABELLED, source_of
from flare_runtime.errors import UsageError
from flare_runtime.files.naming import visible
from flare_runtime.imaging.file_names import MASK_SUFFIX, image_name, is_image_name, split_channel, strip_suffix

# Where `flare-train select` keeps the labels it makes; no data set has its cases there.
MADE_LABELS = "labelsPartial"
# A disk's root holds the second, which nobody but root can read.
_PASSED_OVER = {MADE_LABELS, "lost+found"}
# Folders whose labels a model drew.
_PSEUDO_FOLDER = re.compile(r"DeepLesion5K", re.IGNORECASE)


@dataclass(frozen=True)
class TrainingCase:
    """An image and its label; one of the two may be missing.

    Attributes:
        stem: the file name without channel and suffix, as it is shown everywhere; see `visible`.
        source: the collection it is from.
        image, label: the files.
    """

    stem: str
    source: str
    image: Path | None
    label: Path | None


def find_cases(*roots: Path) -> list[TrainingCase]:
    """Return every case under the folders `roots`, in order of stems.

    Images are `<stem>_0000.nii.gz`, labels `<stem>.nii.gz`; a stem may itself end in a number. Of several labels with
    one stem the one whose folder is nearest to the image's counts. Links to folders are followed.

    Raises:
        UsageError: where there is no image, a root holds nothing of a case, or a folder cannot be read.
    """
    images: dict[str, Path] = {}
    labels: dict[str, list[Path]] = {}
    names: dict[str, list[Path]] = {}
    files = {root: list(_files(root)) for root in roots}
    for path in (path for of_root in files.values() for path in of_root):
        names.setdefault(path.name, []).append(path)
    for name, paths in names.items():
        case, channel = split_channel(name)
        if image_name(strip_suffix(name)) in names:
            labels[strip_suffix(name)] = paths
        elif channel == 0:
            if len(paths) > 1:
                raise UsageError(f"{paths[0]} and {paths[1]} are of one case; move one away")
            images[case] = paths[0]
        elif channel is None or image_name(case) not in names:  # else a further channel of `case`
            labels[strip_suffix(name)] = paths
    if not images:
        searched = ", ".join(map(str, roots))
        raise UsageError(
            f"{searched}: no <case>_0000.nii.gz there, however deep; give the folder of a FLARE-style data set"
        )
    used = {*images.values(), *(path for paths in labels.values() for path in paths)}
    for root in roots:
        if used.isdisjoint(files[root]):
            raise UsageError(f"{root}: no image and no label of any case there, however deep; leave it out")
    return [_case(stem, images.get(stem), labels.get(stem, [])) for stem in sorted({*images, *labels})]


def _files(root: Path) -> Iterator[Path]:
    """Yield the NIfTI files under a folder; one that several links lead to is looked at once."""
    # A link to a folder around the root is a loop as well.
    seen = {_identity(folder) for folder in Path(os.path.realpath(root)).parents}
    for folder, folders, names in os.walk(root, onerror=_refuse, followlinks=True):
        place = Path(folder)
        if (identity := _identity(place)) in seen:
            folders.clear()
            continue
        seen.add(identity)
        # Links last: a folder is rather found where it lies.
        folders[:] = sorted(set(folders) - _PASSED_OVER, key=lambda name: (Path(place, name).is_symlink(), name))
        for name in sorted(names):
            path = place / name
            if name.endswith(MASK_SUFFIX) and is_image_name(name):
                yield path


def _identity(folder: Path) -> tuple[int, int]:
    try:
        status = folder.stat()
    except OSError as error:
        _refuse(error)
    return status.st_dev, status.st_ino


def _refuse(error: OSError) -> NoReturn:
    raise UsageError(f"{error.filename}: cannot be read ({error.strerror or error}); give a folder that can be")


def _case(stem: str, image: Path | None, labels: list[Path]) -> TrainingCase:
    label = None
    if labels:
        near = image.parent if image else labels[0].parent
        label = max(labels, key=lambda path: len(os.path.commonpath([path, near])))
    folders = [part for path in (image, label) if path for part in path.parts[:-1]]
    pseudo = any(_PSEUDO_FOLDER.match(part) for part in folders)
    return TrainingCase(visible(stem), PSEUDO_LABELLED if pseudo else source_of(stem), image, label)
