"""Which cases an input holds and where their masks go, settled before any work is done."""

import os
import stat
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from flare_runtime.errors import OutputError, UsageError
from flare_runtime.files.naming import visible
from flare_runtime.files.output import check_folder
from flare_runtime.files.target import IsOurs, check_targets
from flare_runtime.imaging.dicom.mask_writer import is_structured_report
from flare_runtime.imaging.file_names import (
    STALE,
    MaskType,
    OutputType,
    is_mask_name,
    is_report_name,
    is_stale,
    mask_name,
    mask_name_in,
    page_name,
    preview_name,
    probabilities_name,
    record_name,
    report_name,
    split_channel,
    stale_name,
    strip_suffix,
    type_of,
)
from flare_runtime.imaging.png import is_own_png
from flare_runtime.imaging.probabilities import is_probabilities
from flare_runtime.imaging.read import ImageSeries, ImageSource, files_of, find_series
from flare_runtime.imaging.write import HEAD_BYTES, is_mask, mask_suffixes
from flare_runtime.pictures.page_head import is_page
from flare_runtime.run.input_folder import find_channels, find_images
from flare_runtime.run.record import is_record

if TYPE_CHECKING:  # of use where a run resumes another
    from flare_runtime.files.lease import Lease

_REFERRING: tuple[OutputType, ...] = ("dicom-seg", "rtstruct", "dicom-sr")


@dataclass(frozen=True)
class SideFile:
    """A file that goes with a mask: where it is, where it is set aside, and whether content is of its kind."""

    path: Path
    stale: Path
    is_ours: IsOurs

    def is_there(self) -> bool:
        """Whether one of an earlier run is there, and nothing else."""
        return self._is_own(self.path)

    def set_aside(self) -> None:
        """Give one of an earlier run the name of what is out of date.

        Raises:
            OutputError: where something else has that name.
        """
        if os.path.lexists(self.stale) and not self._is_own(self.stale):
            raise OutputError(f"{self.stale}: was not written by this command; {self.path.name} stays where it is")
        self.path.replace(self.stale)

    def _is_own(self, path: Path) -> bool:
        if not path.is_file() or path.is_symlink():
            return False
        with path.open("rb") as file:
            return self.is_ours(file.read(HEAD_BYTES))


@dataclass(frozen=True)
class Case:
    """One case to segment.

    Attributes:
        name: the file name without channel number and suffix, as it is shown everywhere; see `visible`.
        images: channel number to file, or to a series of files.
        mask: where the mask is to be written, in a folder under the very name of the image, byte for byte; the record
            goes beside it as .json, probabilities as .probabilities.npz, a picture as .preview.png, a page as .html,
            a structured report as .sr.dcm.
        others: where the same mask is to be written in other formats, beside it.
        reports: whether a structured report is to be written.
        lease: keeps other workers away from it, where there may be any; without it nothing is written any more.
        tries: which attempt this is, of all runs.
    """

    name: str
    images: dict[int, ImageSource]
    mask: Path
    others: tuple[Path, ...] = ()
    reports: bool = False
    lease: "Lease | None" = None
    tries: int = 1

    @property
    def is_ours(self) -> bool:
        """Whether no other worker has taken the case over."""
        return self.lease is None or self.lease.is_held()

    @property
    def masks(self) -> tuple[Path, ...]:
        """Where the mask is to be written, in every format."""
        return (self.mask, *self.others)

    @property
    def stale_masks(self) -> tuple[Path, ...]:
        """Where the masks of an earlier run go if this run's are refused or fail."""
        return tuple(mask.with_name(stale_name(mask.name)) for mask in self.masks)

    @property
    def refers_to_images(self) -> bool:
        """Whether results are to be written that refer to the images that they are of, as DICOM does."""
        return self.reports or any(type_of(mask.name) in _REFERRING for mask in self.masks)

    @property
    def record(self) -> Path:
        """Where the case's record is to be written."""
        return self.mask.with_name(record_name(self.mask.name))

    @property
    def probabilities(self) -> Path:
        """Where the case's probabilities are to be written."""
        return self.mask.with_name(probabilities_name(self.mask.name))

    @property
    def stale(self) -> Path:
        """Where an earlier run's mask goes if this run's is refused or fails."""
        return self.stale_masks[0]

    @property
    def side_files(self) -> tuple[SideFile, ...]:
        """What may lie beside the mask of an earlier run."""
        folder, mask = self.mask.parent, self.mask.name
        return tuple(
            SideFile(folder / name_of(mask), folder / name_of(mask, stale=True), is_ours)
            for name_of, is_ours in (
                (probabilities_name, is_probabilities),
                (preview_name, is_own_png),
                (page_name, is_page),
                (report_name, is_structured_report),
            )
        )

    @property
    def preview(self) -> Path:
        """Where the case's picture is to be written."""
        return self.mask.with_name(preview_name(self.mask.name))

    @property
    def page(self) -> Path:
        """Where the case's page is to be written."""
        return self.mask.with_name(page_name(self.mask.name))

    @property
    def structured_report(self) -> Path:
        """Where the case's structured report is to be written."""
        return self.mask.with_name(report_name(self.mask.name))

    @property
    def sources(self) -> list[ImageSource]:
        """The images in the order of their channels."""
        return [self.images[channel] for channel in sorted(self.images)]

    @property
    def places(self) -> list[Path]:
        """Where each channel's image is: its file, or the folder, archive or file of a series."""
        return [image if isinstance(image, Path) else image.place for image in self.sources]

    @property
    def files(self) -> list[Path]:
        """All files that are read."""
        return [file for image in self.sources for file in files_of(image)]


def find_cases(
    source: Path,
    target: str | Path,
    channels: int,
    *,
    probabilities: bool = False,
    pictures: bool = False,
    output_types: Sequence[OutputType] = ("nifti",),
) -> list[Case]:
    """Return the case of an image, or the cases of a folder of images.

    Args:
        source: a file, or a folder with <case>_0000.nii.gz (nnU-Net's naming) or <case>.nii.gz; or a DICOM file, or
            a folder or zip archive of one or more series.
        target: a folder for a folder; for a file or one series another one, or a folder that exists or whose name ends
            in /.
        channels: how many images the model takes; for a file the others are looked for beside it, by their numbers.
        probabilities: whether they are written as well.
        pictures: whether previews or pages are.
        output_types: the formats of masks, and `dicom-sr` for a structured report beside them.

    Raises:
        UsageError: where there is nothing to do, two inputs would write one output, or a format does not go with them.
        OutputError: where an output cannot or must not be written.
    """
    place = Path(target)
    into = str(target).endswith(os.sep) or _is_there_as(Path.is_dir, place)
    _check_types(None if into else place, output_types)
    if _is_folder(source):
        cases = _folder(source, place, channels, into_folder=into)
    elif series := find_series(source):
        cases = _series(series, place, into_folder=into)
    else:
        cases = [_single(source, place, channels, into_folder=into)]
    cases = [_in_formats(case, output_types) for case in cases]
    _check_outputs(cases, probabilities=probabilities, pictures=pictures)
    return cases


def _in_formats(case: Case, output_types: Sequence[OutputType]) -> Case:
    """Let the mask of a case be written in these formats; a file that was named is one of them."""
    named = type_of(case.mask.name) or "nifti"
    types: list[MaskType] = [one for one in output_types if one != "dicom-sr"]
    names = (case.mask.name if one == named else mask_name_in(case.mask.name, one) for one in types)
    mask, *others = (case.mask.with_name(name) for name in names)
    case = replace(case, mask=mask, others=tuple(others), reports=len(types) < len(output_types))
    if case.refers_to_images and any(isinstance(image, Path) for image in case.sources):
        given = case.places[0]
        raise UsageError(f"{given}: is no DICOM, to which DICOM results would refer; write --output-type nifti alone")
    return case


def _check_types(target: Path | None, output_types: Sequence[OutputType]) -> None:
    """Refuse a file whose name is of a format that is not to be written, and formats whose libraries are missing."""
    named = type_of(target.name) if target else None
    if named not in (None, *output_types):
        raise UsageError(f"{target}: is a name for --output-type {named}, not for {','.join(output_types)}")
    if target and "dicom-sr" in output_types and is_report_name(target.name):
        raise UsageError(f"{target}: a structured report goes beside a mask, by its name; name the mask")
    if any(one in _REFERRING for one in output_types):
        from flare_runtime.imaging.dicom.references import check_installed

        check_installed()


def _check_outputs(cases: Sequence[Case], *, probabilities: bool, pictures: bool) -> None:
    for case in cases:
        if any(is_stale(one.name) for one in (*case.sources, *case.masks)):
            raise UsageError(f"{case.name}: a name that ends in {STALE} is a mask set aside; choose another")
    owners = {file: case for case in cases for file in case.files}
    for case in cases:
        for mask in case.masks:
            if owners.get(mask, case) is not case:
                raise OutputError(f"{mask}: is an input, that of {owners[mask].name}; choose another output")
    images = list(owners)
    masks = (path for case in cases for path in (*case.masks, *case.stale_masks))
    check_targets(masks, images, over=is_mask, head_bytes=HEAD_BYTES)
    check_targets((case.record for case in cases), images, over=is_record)
    if probabilities:
        targets = (case.probabilities for case in cases)
        check_targets(targets, images, over=is_probabilities, head_bytes=HEAD_BYTES)
    if cases[0].reports:
        targets = (case.structured_report for case in cases)
        check_targets(targets, images, over=is_structured_report, head_bytes=HEAD_BYTES)
    if pictures:
        check_targets((case.preview for case in cases), images, over=is_own_png, head_bytes=HEAD_BYTES)
        check_targets((case.page for case in cases), images, over=is_page, head_bytes=HEAD_BYTES)
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
    by_name: dict[str, dict[int, Path]] = defaultdict(dict)
    for path in images:
        name, channel = split_channel(path.name)
        if (channel or 0) in by_name[name]:
            raise _same_mask(by_name[name][channel or 0], path, name)
        by_name[name][channel or 0] = path
    if channels == 1:
        by_name = _without_numbers(by_name)
    return [Case(visible(name), {**files}, target / mask_name(name)) for name, files in by_name.items()]


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
