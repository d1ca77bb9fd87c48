"""The structured report of a case that a run writes beside its masks."""

from collections.abc import Iterator, Sequence
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from flare_runtime.cases.case import Case
from flare_runtime.compute.arrays import AnyArray
from flare_runtime.files.naming import visible
from flare_runtime.files.output import StagedFile
from flare_runtime.imaging.dicom.structured_report import Measured, Section, Total, structured_report
from flare_runtime.imaging.file_names import type_of
from flare_runtime.imaging.labelling import Labelling
from flare_runtime.imaging.volume import Remark
from flare_runtime.model.manifest import Label
from flare_runtime.pipeline.lesion_runs import LesionRuns
from flare_runtime.pipeline.lesions import Lesion
from flare_runtime.run.record import CaseRecord
from flare_runtime.segmentation import Segmentation

# Writing takes some 20 ms for each.
MAX_REPORTED = 100


def draw_up_report(case: Case, result: Segmentation, record: CaseRecord, masks: Sequence[StagedFile]) -> bytes:
    """Return the structured report of a case as a DICOM file, and name it in the record.

    Its measurements refer to the segmentation object where that is among the masks that were written, and to the slices
    of the image where it is not.

    Raises:
        CaseError: `unreferable`, `unreadable`.
    """
    from flare_runtime.imaging.dicom.references import source_of

    source = source_of(result.template)
    lesions, count = result.lesions[:MAX_REPORTED], sum(total.lesions for total in result.totals)
    if count > len(lesions):
        text = f"the structured report holds the {len(lesions):,} largest of {count:,} lesions"
        record.remarks.append(Remark("many_lesions", text))
    sections = _sections(result, source.series.offsets(), source.slices[0].shape)
    measured = [
        _measured(lesion, _label_of(lesion.label, source.labelling), parts)
        for lesion, parts in zip(lesions, sections, strict=False)
        if parts  # not one that is around the slices of a tilted gantry
    ]
    segmentation = next((mask.path for mask in masks if type_of(mask.target.name) == "dicom-seg"), None)
    file = BytesIO()
    report = structured_report(measured, _totals(result, source.labelling), source, _header(segmentation))
    report.save_as(file, enforce_file_format=True)
    content = file.getvalue()
    record.structured_report = visible(case.structured_report)
    record.structured_report_sha256 = sha256(content).hexdigest()
    return content


def _header(segmentation: Path | None) -> Any:
    from pydicom import dcmread

    return segmentation and dcmread(segmentation, stop_before_pixels=True)


def _label_of(value: int, labelling: Labelling) -> Label:
    """Return the label of a value of the mask; of labels that overlap, the one with the fewest values."""
    return min((label for label in labelling.labels if value in label.values), key=lambda label: len(label.values))


def _totals(result: Segmentation, labelling: Labelling) -> list[Total]:
    found = [(_label_of(total.label, labelling), total) for total in result.totals]
    return [
        Total(
            label,
            sum(total.lesions for own, total in found if own == label),
            round(sum(total.volume_ml for own, total in found if own == label), 3),
        )
        for label in labelling.labels
    ]


def _measured(lesion: Lesion, label: Label, parts: Sequence[Section]) -> Measured:
    return Measured(
        id=lesion.id or 0,
        label=label,
        slices=[part.index for part in parts],
        section=max(parts, key=lambda part: int(part.pixels.sum())),
        volume_ml=lesion.volume_ml,
        long_axis_mm=lesion.diameter_mm,
        short_axis_mm=lesion.perpendicular_mm,
        mean=lesion.mean_intensity,
        deviation=lesion.sd_intensity,
    )


def _sections(result: Segmentation, offsets: AnyArray, shape: tuple[int, int]) -> Iterator[list[Section]]:
    """Yield the parts of each lesion, in their order, in slices of a shape that begin at the offsets in the mask."""
    axis = result.template.geometry.axial_axis
    found = LesionRuns.of(np.moveaxis(result.mask, axis, 0), MAX_REPORTED)  # as lesions are measured
    back = np.argsort([axis, *(other for other in range(3) if other != axis)])
    for i in range(len(found)):
        corner, voxels = found.cut_out(i)
        first, row, column = corner[back].tolist()
        planes = enumerate(np.moveaxis(voxels, 0, axis), first)
        parts = (_section(z, (row, column) - offsets[z], plane, shape) for z, plane in planes)
        yield [part for part in parts if part.pixels.any()]


def _section(index: int, corner: AnyArray, pixels: AnyArray, shape: tuple[int, int]) -> Section:
    """Return what of the pixels that begin at a corner is within a slice of a shape."""
    row, column = corner.tolist()
    top, left = max(row, 0), max(column, 0)
    bottom, right = (max(side - start, 0) for side, start in zip(shape, (row, column), strict=True))
    return Section(index, (top, left), pixels[top - row : bottom, left - column : right])
