"""What a case is: its images, and where its mask and all that goes with the mask are written."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flare_runtime.errors import OutputError
from flare_runtime.files.target import IsOurs
from flare_runtime.imaging.dicom.own_objects import is_structured_report
from flare_runtime.imaging.file_names import (
    OutputType,
    mask_names,
    page_name,
    preview_name,
    probabilities_name,
    record_name,
    report_name,
    stale_name,
    type_of,
)
from flare_runtime.imaging.png import is_own_png
from flare_runtime.imaging.probabilities import is_probabilities
from flare_runtime.imaging.read import ImageSource, files_of
from flare_runtime.imaging.write import HEAD_BYTES, is_mask
from flare_runtime.pictures.page_head import is_page

if TYPE_CHECKING:  # of use where a run resumes another
    from flare_runtime.files.lease import Lease

# Results in these formats refer to the images that they are of.
REFERRING: tuple[OutputType, ...] = ("dicom-seg", "rtstruct", "dicom-sr")


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
        return self.reports or any(type_of(mask.name) in REFERRING for mask in self.masks)

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
    def results(self) -> list[Path]:
        """All that may be there of its results, of this run or earlier ones: the record first."""
        sides = (path for side in (*self.side_files, *self.other_formats) for path in (side.path, side.stale))
        return [self.record, *self.masks, *self.stale_masks, *sides]

    @property
    def other_formats(self) -> tuple[SideFile, ...]:
        """Where masks of an earlier run may lie in formats that are not to be written."""
        paths, not_those = map(self.mask.with_name, mask_names(self.mask.name)), {*self.masks, *self.places}
        return tuple(
            SideFile(path, path.with_name(stale_name(path.name)), is_mask) for path in paths if path not in not_those
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
