"""Which cases an input holds and where their masks go, settled before any work is done."""

import os
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import overload

from flare_runtime.cases.case import REFERRING, Case
from flare_runtime.cases.case_list import ListedCase, Locate, is_case_list, local_image, read_case_list
from flare_runtime.cases.input_folder import by_channel, find_channels, find_images, same_mask
from flare_runtime.cases.input_rules import ALL_CASES, InputRules
from flare_runtime.cases.input_tree import find_in_tree
from flare_runtime.cases.output_checks import check_outputs
from flare_runtime.errors import UsageError
from flare_runtime.files.naming import visible
from flare_runtime.imaging.file_names import (
    MaskType,
    OutputType,
    is_mask_name,
    is_report_name,
    mask_name,
    mask_name_in,
    type_of,
)
from flare_runtime.imaging.read import ImageSeries, find_series, image_at, image_suffixes
from flare_runtime.imaging.write import mask_suffixes

# How no folder is called but by mistake, beside the names of images and masks.
_OF_OTHER_FILES = (".dcm", ".gz", ".zip", ".json", ".csv", ".png")


def find_cases(
    source: Path,
    target: str | Path,
    channels: int,
    *,
    probabilities: bool = False,
    pictures: bool = False,
    output_types: Sequence[OutputType] = ("nifti",),
    rules: InputRules = ALL_CASES,
) -> Sequence[Case]:
    """Return the case of an image, or the cases of a folder of images, or those of a list.

    Args:
        source: a file, or a folder with <case>_0000.nii.gz (nnU-Net's naming) or <case>.nii.gz; or a DICOM file, or
            a folder or zip archive of one or more series; or a list of cases, see `case_list`.
        target: a folder for a folder or a list; for a file or one series another one, or a folder that exists or whose
            name ends in /.
        channels: how many images the model takes; for a file the others are looked for beside it, by their numbers.
        probabilities: whether they are written as well.
        pictures: whether previews or pages are.
        output_types: the formats of masks, and `dicom-sr` for a structured report beside them.
        rules: what of it is taken; it may be that no case is in a share.

    Raises:
        UsageError: where there is nothing to do, two inputs would write one output, or a format does not go with them.
        OutputError: where an output cannot or must not be written.
    """
    every, taken = cases_in(source, target, channels, output_types, rules)
    check_outputs(taken, every, probabilities=probabilities, pictures=pictures)
    return taken


def cases_in(
    source: Path,
    target: str | Path,
    channels: int,
    output_types: Sequence[OutputType] = ("nifti",),
    rules: InputRules = ALL_CASES,
    locate: Locate = local_image,
) -> tuple[Sequence[Case], Sequence[Case]]:
    """Return all cases of an input, and those that are taken; what they would write over is not looked at.

    All but `locate` is as for `find_cases`; it returns the path of an image of a list, given what the list says.

    Raises:
        UsageError: as `find_cases` does.
    """
    place = Path(target)
    into = str(target).endswith(os.sep) or _is_there_as(Path.is_dir, place)
    _check_types(None if into else place, output_types)
    is_folder = _is_folder(source)
    if rules.recursive and not is_folder:
        raise UsageError(f"{source}: is no folder, which --recursive takes")
    if not is_folder and is_case_list(source):
        _check_is_no_file(place, "a list of cases")
        every, taken = _listed(source, place, output_types, rules, locate)
    else:
        if rules.recursive:
            found = _tree(source, place, channels)
        elif is_folder:
            found = _folder(source, place, channels, into_folder=into)
        elif series := find_series(source):
            found = _series(series, place, into_folder=into)
        else:
            found = [_single(source, place, channels, into_folder=into)]
        for case in found:
            _check_referable(case, output_types)
        every = [_in_formats(case, output_types) for case in found]
        taken = [new for case, new in zip(found, every, strict=True) if rules.takes(_below(case.mask, place))]
    if not into and every and place in every[0].mask.parents:
        _check_folder_name(place)
    return every, taken


class _Listed(Sequence[Case]):
    """The cases of a list, each made when it is asked for.

    Args:
        cases: packed, as `read_case_list` returns them.
        folder: that their images are relative to.
        target: the output folder.
        output_types: the formats of masks.
    """

    def __init__(self, cases: Sequence[str], folder: Path, target: Path, output_types: Sequence[OutputType]) -> None:
        self._cases, self._folder, self._target, self._output_types = cases, folder, target, output_types

    def __len__(self) -> int:
        return len(self._cases)

    @overload
    def __getitem__(self, index: int) -> Case: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Case]: ...

    def __getitem__(self, index: int | slice) -> Case | Sequence[Case]:
        if isinstance(index, slice):
            return _Listed(self._cases[index], self._folder, self._target, self._output_types)
        listed = ListedCase.unpacked(self._cases[index])
        images = {channel: image_at(self._folder / image) for channel, image in enumerate(listed.images)}
        return _in_formats(Case(listed.name, images, self._target / listed.output), self._output_types)


def _listed(
    source: Path, target: Path, output_types: Sequence[OutputType], rules: InputRules, locate: Locate
) -> tuple[Sequence[Case], Sequence[Case]]:
    """Return all cases of a list, and those that are taken."""
    every = read_case_list(source, locate)
    taken = [text for text in every if rules.takes(ListedCase.unpacked(text).output)]
    all_of, part = (_Listed(texts, source.parent, target, output_types) for texts in (every, taken))
    return all_of, part


def _in_formats(case: Case, output_types: Sequence[OutputType]) -> Case:
    """Let the mask of a case be written in these formats; a file that was named is one of them."""
    named = type_of(case.mask.name) or "nifti"
    if tuple(output_types) == (named,):
        return case
    types: list[MaskType] = [one for one in output_types if one != "dicom-sr"]
    names = (case.mask.name if one == named else mask_name_in(case.mask.name, one) for one in types)
    mask, *others = (case.mask.with_name(name) for name in names)
    return replace(case, mask=mask, others=tuple(others), reports=len(types) < len(output_types))


def _below(mask: Path, target: Path) -> str:
    """Return the path of a mask below the output; its name where it is the output itself."""
    return mask.name if mask == target else str(mask.relative_to(target))


def _check_referable(case: Case, output_types: Sequence[OutputType]) -> None:
    """Refuse masks in a format that would refer to images in another one."""
    if any(one in REFERRING for one in output_types) and any(isinstance(image, Path) for image in case.sources):
        given = case.places[0]
        raise UsageError(f"{given}: is no DICOM, to which DICOM results would refer; write --output-type nifti alone")


def _check_types(target: Path | None, output_types: Sequence[OutputType]) -> None:
    """Refuse a file whose name is of a format that is not to be written, and formats whose libraries are missing."""
    named = type_of(target.name) if target else None
    if named not in (None, *output_types):
        raise UsageError(f"{target}: is a name for --output-type {named}, not for {','.join(output_types)}")
    if target and "dicom-sr" in output_types and is_report_name(target.name):
        raise UsageError(f"{target}: a structured report goes beside a mask, by its name; name the mask")
    if any(one in REFERRING for one in output_types):
        from flare_runtime.imaging.dicom.references import check_installed

        check_installed()


def _check_folder_name(target: Path) -> None:
    """Refuse a folder that is not there and is called as a file is, which was meant to be one."""
    if target.name.lower().endswith((*_OF_OTHER_FILES, *image_suffixes())):
        allowed = " or ".join(mask_suffixes())
        raise UsageError(f"{target}: a mask's name ends in {allowed}; if it is to be a folder, put a / behind it")


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
    name, images = find_channels(source, channels)
    if into_folder:
        target = target / mask_name(name)
    if not is_mask_name(target.name):
        allowed = " or ".join(suffix for suffix in mask_suffixes() if not suffix.endswith(".dcm"))
        raise UsageError(f"{target}: the output for a file is a {allowed} file, or a folder that exists or ends in /")
    return Case(visible(name), {**images}, target)


def _series(series: Sequence[ImageSeries], target: Path, *, into_folder: bool) -> list[Case]:
    if len(series) == 1 and not into_folder and is_mask_name(target.name):
        return [Case(visible(series[0].name), {0: series[0]}, target)]
    _check_is_no_file(target, f"{len(series)} series")
    return [Case(visible(one.name), {0: one}, target / mask_name(one.name)) for one in series]


def _check_is_no_file(target: Path, source: str) -> None:
    if _is_there_as(Path.is_file, target) or is_mask_name(target.name):
        raise UsageError(f"{target}: the output for {source} is a folder")


def _folder(source: Path, target: Path, channels: int, *, into_folder: bool) -> list[Case]:
    try:
        images = find_images(source, target)
    except UsageError:
        if series := find_series(source):
            return _series(series, target, into_folder=into_folder)
        raise
    _check_is_no_file(target, "a folder")
    by_name = by_channel(images, channels)
    return [Case(visible(name), {**files}, target / mask_name(name)) for name, files in by_name.items()]


def _tree(source: Path, target: Path, channels: int) -> list[Case]:
    _check_is_no_file(target, "a folder")
    images, others = find_in_tree(source, target)
    cases = dict[str, Case]()
    for folder, of_folder in images.items():
        below = folder.relative_to(source)
        for name, files in by_channel(of_folder, channels).items():
            path = str(below / name)
            cases[path] = Case(visible(path), {**files}, target / below / mask_name(name))
    for one in find_series(source, others):
        below = Path(one.name)
        if one.name in cases:
            raise same_mask(cases[one.name].places[0], source / below, one.name)
        cases[one.name] = Case(visible(one.name), {0: one}, target / below.parent / mask_name(below.name))
    if not cases:
        raise UsageError(f"{source}: neither it nor a folder in it holds DICOM or a {', '.join(image_suffixes())} file")
    return [cases[path] for path in sorted(cases)]
