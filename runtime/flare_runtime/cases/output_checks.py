"""Whether the results of cases can be written, beside each other and beside what is read."""

import os
from collections.abc import Sequence
from pathlib import Path

from flare_runtime.cases.case import Case
from flare_runtime.cases.record_format import is_record
from flare_runtime.errors import OutputError, UsageError
from flare_runtime.files.output import check_folders
from flare_runtime.files.target import TargetCheck
from flare_runtime.files.temporary import is_temporary_name, sweep
from flare_runtime.imaging.dicom.own_objects import is_structured_report
from flare_runtime.imaging.file_names import STALE, is_stale, type_of
from flare_runtime.imaging.png import is_own_png
from flare_runtime.imaging.probabilities import is_probabilities
from flare_runtime.imaging.read import ImageAt, files_of
from flare_runtime.imaging.write import HEAD_BYTES, is_mask, mask_suffixes
from flare_runtime.pictures.page_head import is_page


def check_outputs(cases: Sequence[Case], every: Sequence[Case], *, probabilities: bool, pictures: bool) -> None:
    """Check what cases are to write, before any work is done.

    Args:
        cases: those of a run.
        every: all that there are, beside them.
        probabilities: whether they are written as well.
        pictures: whether previews or pages are.

    Raises:
        UsageError: where the masks of two cases cannot both be there, or a name is that of a mask set aside.
        OutputError: where an output cannot or must not be written.
    """
    owners, around = dict[str, str](), set[str]()
    for case in every:
        if any(is_stale(one.name) for one in (*case.sources, *case.masks)):
            raise UsageError(f"{case.name}: a name that ends in {STALE} is a mask set aside; choose another")
        owners.update((str(file), case.name) for file in files_known(case))
        around.add(os.path.dirname(case.mask))  # noqa: PTH120
    _check_masks_are_no_folders(every, around)
    check = TargetCheck(map(Path, owners))
    for case in cases:
        masks = case.masks
        for mask in masks:
            if owners.get(str(mask), case.name) != case.name:
                raise OutputError(f"{mask}: is an input, that of {owners[str(mask)]}; choose another output")
        for mask in (*masks, *case.stale_masks):
            check(mask, is_mask, HEAD_BYTES)
        check(case.record, is_record)
        if probabilities:
            check(case.probabilities, is_probabilities, HEAD_BYTES)
        if case.reports:
            check(case.structured_report, is_structured_report, HEAD_BYTES)
        if pictures:
            check(case.preview, is_own_png, HEAD_BYTES)
            check(case.page, is_page, HEAD_BYTES)
    if check.folders:
        check_folders(check.folders)
    for folder in check.folders_with(is_temporary_name):  # which killed runs left
        sweep(folder)


def _check_masks_are_no_folders(cases: Sequence[Case], folders: set[str]) -> None:
    """Refuse a mask that is to be the folder of another."""
    like_masks = (Path(folder) for folder in folders if any(suffix in folder for suffix in mask_suffixes()))
    suspected = {one for folder in like_masks for one in (folder, *folder.parents) if type_of(one.name)}
    if not suspected:
        return
    if both := next((mask for case in cases for mask in case.masks if mask in suspected), None):
        raise UsageError(f"{both}: would be a mask, and the folder of another; rename one")


def files_known(case: Case) -> list[Path]:
    """Return the files that are read, without a look at what a path is of that may be a series."""
    return [file for image in case.sources if not isinstance(image, ImageAt) for file in files_of(image)]
