"""Labels in which nnU-Net is told to ignore what is far from a lesion, where not every lesion of a scan is labelled."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import ceil, prod
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from scipy.ndimage import distance_transform_edt, find_objects

from flare_eval.components import label_components
from flare_eval.labels import label_values
from flare_runtime.compute.arrays import AnyArray, MaskArray, Vector3
from flare_runtime.compute.box import Box
from flare_runtime.errors import CaseError, OutputError, UsageError
from flare_runtime.files.output import check_folder
from flare_runtime.imaging.file_names import MASK_SUFFIX, mask_name
from flare_runtime.imaging.read import read_volume
from flare_runtime.imaging.write import write_mask
from flare_runtime.pipeline.crop import mask_box
from flare_runtime.program.terminal import progress_bar

IGNORE = 2
# A name says what the file was made of, so that one that is there is the one wanted, and other files are not ours.
_OURS = re.compile(rf".+-[0-9a-f]{{16}}{re.escape(MASK_SUFFIX)}")
# Raise it where another label is made of the same original.
_RULE = 1
_ROUNDING_MM = 1e-3  # headers hold spacings in single precision


@dataclass(frozen=True)
class PartialLabel:
    """A label to be made: of which original, and how far from a lesion the background counts."""

    stem: str
    original: Path
    beyond_mm: float

    def target(self, folder: Path) -> Path:
        """Return the file's path, another one where the original or the distance changed.

        Raises:
            OutputError: where the original is gone.
        """
        try:
            path, status = os.path.realpath(self.original), self.original.stat()
        except OSError as error:
            raise OutputError(f"{self.original}: is not there any more; inspect the data set again") from error
        facts = [_RULE, path, status.st_size, status.st_mtime_ns, self.beyond_mm]
        digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
        return folder / mask_name(f"{self.stem}-{digest}")


def with_ignored(lesion: AnyArray, spacing_mm: Vector3, beyond_mm: float) -> MaskArray:
    """Return a label (z, y, x): 1 in a lesion, 0 within `beyond_mm` of one, `IGNORE` everywhere else.

    The air outside the body is ignored as well, although no lesion is there: nnU-Net draws patches from all that is
    not ignored, and nearly all of them would be of air.

    Args:
        lesion: bool (z, y, x).
        spacing_mm: (z, y, x).
        beyond_mm: from voxel centre to voxel centre.
    """
    result = np.full(lesion.shape, IGNORE, np.uint8)
    for box in _surroundings(lesion, [ceil(beyond_mm / side) for side in spacing_mm]):
        distance_mm = distance_transform_edt(~lesion[box], sampling=spacing_mm)
        result[box][distance_mm <= beyond_mm + _ROUNDING_MM] = 0
    result[lesion] = 1
    return result


def _surroundings(lesion: AnyArray, margin: Sequence[int]) -> list[Box]:
    """Return boxes that hold the lesions and `margin` voxels around: one each, or one of all if that is less."""
    around = mask_box(lesion)
    if around is None:
        return []

    components, _ = label_components(lesion)
    boxes = [Box(*box).grown(margin).clipped(lesion.shape) for box in find_objects(components)]
    one = around.grown(margin).clipped(lesion.shape)
    return boxes if sum(prod(box.shape) for box in boxes) < prod(one.shape) else [one]


def write_partial_labels(labels: Sequence[PartialLabel], folder: Path, workers: int) -> dict[str, Path]:
    """Make the labels that are not in `folder` yet, several at a time, and return each stem's file.

    Raises:
        OutputError: where one cannot be written, or a file that this program did not make is in the folder.
        UsageError: where an original cannot be read.
    """
    targets = {one.stem: one.target(folder) for one in labels}
    _own_labels(folder)  # before anything is written
    missing = [one for one in labels if not targets[one.stem].is_file()]
    if missing:
        check_folder(folder)
        count = min(workers, len(missing))
        write = partial(_write, folder=folder)
        if count == 1:
            _write_all(map(write, missing), len(missing))
        else:
            with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
                _write_all(pool.map(write, missing), len(missing))
    return targets


def remove_partial_labels(folder: Path, keep: Iterable[Path]) -> None:
    """Remove the labels in `folder` that this program made, but for those in `keep`, and the folder if it is empty.

    Raises:
        OutputError: where one cannot be removed.
    """
    wanted = set(keep)
    try:
        for path in _own_labels(folder):
            if path not in wanted:
                path.unlink()
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror or error})") from error


def _own_labels(folder: Path) -> list[Path]:
    """Return the labels in the folder that this program wrote; refuse files of others."""
    paths = [path for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []
    for path in paths:
        if not _OURS.fullmatch(path.name) or path.is_symlink() or not path.is_file():
            raise OutputError(f"{path}: was not made by `flare-train select`; move it elsewhere")
    return paths


def _write_all(writing: Iterable[None], count: int) -> None:
    for _ in progress_bar(writing, "partial labels", "case", count):
        pass


def _write(one: PartialLabel, folder: Path) -> None:
    try:
        original = read_volume(one.original)
    except CaseError as error:
        raise UsageError(f"{error}; inspect the data set again") from error
    lesion = label_values(original) == 1
    write_mask(one.target(folder), with_ignored(lesion, original.spacing_mm, one.beyond_mm), original.template)
