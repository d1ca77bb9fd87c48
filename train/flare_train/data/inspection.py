"""What a training set holds, case by case: grids, lesions, intensities, and what is wrong with a file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

import msgspec
import numpy as np

from flare_eval.labels import label_values
from flare_runtime.compute.arrays import AnyArray
from flare_runtime.errors import CaseError, DeviceError, UsageError
from flare_runtime.files.naming import visible
from flare_runtime.imaging.read import read_volume
from flare_runtime.imaging.volume import Volume
from flare_runtime.pipeline.crop import mask_box
from flare_runtime.pipeline.lesions import find_lesions
from flare_runtime.pipeline.normalisation import AIR_HU
from flare_train.data.cases import TrainingCase

_PERCENTILES = (0.5, 50.0, 99.5)
# Foreground intensities kept of a case for the percentiles of its source.
_SAMPLES = 2000


class CaseFacts(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What is known of a case.

    Attributes:
        stem, source: of the case.
        image, label: the files, empty where missing.
        problems: codes such as `missing_label`, `truncated_image`, `geometry`, `not_binary`; a case with any cannot be
            trained on.
        messages: one line for each problem.
        shape, spacing_mm: of the image, (z, y, x).
        lesions_mm3: volumes of the label's connected components, the largest first; None without a readable label.
        foreground_hu: a sample of the intensities under the label.
        foreground_percentiles_hu: 0.5, 50 and 99.5 %.
    """

    stem: str
    source: str
    image: str = ""
    label: str = ""
    problems: list[str] = []
    messages: list[str] = []
    shape: tuple[int, ...] | None = None
    spacing_mm: tuple[float, ...] | None = None
    lesions_mm3: list[float] | None = None
    foreground_hu: list[float] = []
    foreground_percentiles_hu: list[float] = []

    def add(self, problem: str, message: str) -> None:
        """Note a problem."""
        self.problems.append(problem)
        self.messages.append(message)


def read_facts(source: Path) -> list[CaseFacts]:
    """Read what an inspection wrote, one case a line.

    Raises:
        UsageError: where it cannot be read, or a case has a name that no file can have.
    """
    try:
        if source.exists() and not source.is_file():  # a pipe would be waited for
            raise OSError("it is no plain file")
        with source.open("rb") as file:
            facts = [msgspec.json.decode(line, type=CaseFacts) for line in file]
        for case in facts:
            if case.stem in ("", ".", "..") or "/" in case.stem or "\0" in case.stem:
                raise OSError(f"{case.stem!r} is no name of a case")
            if "\0" in case.image + case.label:
                raise OSError(f"{case.stem} has a file of no possible name")
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{source}: cannot be read ({error}); give facts.jsonl of `flare-train inspect`") from error
    return facts


def inspect_cases(cases: Sequence[TrainingCase], workers: int) -> Iterator[CaseFacts]:
    """Inspect every case, several at a time, and yield the facts in the order of the cases.

    Raises:
        DeviceError: where a process was killed.
    """
    if workers == 1:
        yield from map(inspect_case, cases)
        return
    try:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            yield from pool.map(inspect_case, cases, chunksize=4)
    except BrokenProcessPool as error:
        raise DeviceError("a process was killed, most likely for want of memory; use fewer --workers") from error


def inspect_case(case: TrainingCase) -> CaseFacts:
    """Read a case and return what is known of it; what is wrong with its files is in the result."""
    facts = CaseFacts(stem=case.stem, source=case.source, image=_place(case.image), label=_place(case.label))
    _check_names(facts, case)
    image, label = (_read(facts, kind, path) for kind, path in (("image", case.image), ("label", case.label)))
    if image is not None:
        facts.shape, facts.spacing_mm = image.shape, image.spacing_mm
    if label is not None:
        values = label_values(label)
        mask = values == 1
        _check_values(facts, values, mask)
        _add_lesions(facts, mask, label)
        if image is not None:
            if difference := image.geometry.difference(label.geometry):
                facts.add("geometry", f"{facts.stem}: against the image, the label {difference}")
            else:
                _add_intensities(facts, image, mask)
    return facts


def _place(path: Path | None) -> str:
    return visible(os.path.realpath(path)) if path else ""  # which ends where links go round in a circle


def _check_names(facts: CaseFacts, case: TrainingCase) -> None:
    """Note a file that cannot be found again by what is written down of it."""
    for kind, path, written in (("image", case.image, facts.image), ("label", case.label, facts.label)):
        if path is not None and written != os.path.realpath(path):
            facts.add(f"odd_name_{kind}", f"{facts.stem}: the {kind}'s path is no plain text; rename it")


def _read(facts: CaseFacts, kind: str, path: object) -> Volume | None:
    if path is None:
        facts.add(f"missing_{kind}", f"{facts.stem}: there is no {kind}")
        return None
    try:
        return read_volume(str(path))
    except CaseError as error:
        facts.add(f"{error.reason}_{kind}", visible(error))
    except MemoryError:
        facts.add(f"memory_{kind}", f"{facts.stem}: the {kind} does not fit in memory; use fewer --workers")
    return None


def _check_values(facts: CaseFacts, values: AnyArray, mask: AnyArray) -> None:
    odd = values[(values != 0) & ~mask]
    if len(odd):
        shown = ", ".join(f"{value:g}" for value in np.unique(odd)[:5].tolist())
        facts.add("not_binary", f"{facts.stem}: the label holds {shown}; only 0 and 1 are allowed")
    if not mask.any():
        facts.add("empty_label", f"{facts.stem}: no voxel is labelled")


def _add_lesions(facts: CaseFacts, mask: AnyArray, label: Volume) -> None:
    voxel_mm3 = float(np.prod(label.spacing_mm))
    lesions = find_lesions(mask.astype(np.uint8), label.spacing_mm)
    facts.lesions_mm3 = [round(lesion.voxels * voxel_mm3, 3) for lesion in lesions]


def _add_intensities(facts: CaseFacts, image: Volume, mask: AnyArray) -> None:
    box = mask_box(mask)
    if box is None:
        return
    hounsfield = image.with_background(AIR_HU).intensities(image.voxels[box][mask[box]])
    under = hounsfield.astype(np.float64)  # in which differences are finite
    facts.foreground_percentiles_hu = [round(float(value), 2) for value in np.percentile(under, _PERCENTILES)]
    step = max(len(under) // _SAMPLES, 1)
    facts.foreground_hu = [round(float(value), 1) for value in np.sort(under)[step // 2 :: step]]
