"""Measurements of lesions as a DICOM structured report (TID 1500): a group for each, and the totals of every label.

The codes are those of the context groups of PS3.16, as pydicom holds them: linear measurements (CID 7470), volumes (CID
7472), intensities (CID 7469), their derivation (CID 7464), units (CID 7181, 7460, 7462) and procedures (CID 100).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flare_runtime.compute.arrays import AnyArray
from flare_runtime.imaging.dicom.contours import outlines
from flare_runtime.imaging.dicom.own_objects import MAKER
from flare_runtime.imaging.dicom.references import (
    Source,
    long_string,
    ordered_files,
    referring,
    series_attributes,
)
from flare_runtime.imaging.dicom.terminology import property_of
from flare_runtime.model.manifest import Label

# Added to the number of the source's series.
_SERIES = 3000
# Of intensities: by modality what they are called, and their unit, by pydicom's names of codes.
_INTENSITIES = {"CT": ("AttenuationCoefficient", "HounsfieldUnit"), "MR": ("MRSignalIntensity", "NoUnits")}
# What was done, by modality.
_PROCEDURES = {"CT": "CTUnspecifiedBodyRegion", "MR": "MRIUnspecifiedBodyRegion", "PT": "PETUnspecifiedBodyRegion"}
# Coordinates in an image count from the corner of its first pixel, outlines from the pixel's centre.
_CENTRE = 0.5


@dataclass(frozen=True)
class Section:
    """The part of a lesion in one slice.

    Attributes:
        index: of the slice.
        corner: the row and the column of the first pixel of `pixels`.
        pixels: which belong to the lesion (rows, columns).
    """

    index: int
    corner: tuple[int, int]
    pixels: AnyArray


@dataclass(frozen=True)
class Measured:
    """A lesion and its measurements; what is None was not measured.

    Attributes:
        id: its number in the record.
        label: what it is.
        slices: the indices of those that it is in, in ascending order.
        section: the largest of its parts.
        volume_ml: in millilitres.
        long_axis_mm, short_axis_mm: its diameter and the one at right angles to it.
        mean, deviation: of its intensities.
    """

    id: int
    label: Label
    slices: Sequence[int]
    section: Section
    volume_ml: float
    long_axis_mm: float | None
    short_axis_mm: float | None
    mean: float | None
    deviation: float | None


@dataclass(frozen=True)
class Total:
    """How many lesions of a label there are, and their volume."""

    label: Label
    lesions: int
    volume_ml: float


def structured_report(lesions: Sequence[Measured], totals: Sequence[Total], source: Source, segmentation: Any) -> Any:
    """Return a report as a data set; it is PARTIAL where lesions are counted that are not among those given.

    Args:
        lesions: those that get a group of measurements.
        totals: of every label, those without lesions included.
        source: of the mask that the lesions are in.
        segmentation: of that mask, a data set whose segments the groups refer to; where it is None they refer to a
            region of the source.

    Raises:
        CaseError: `unreferable`.
    """
    from highdicom.sr import Comprehensive3DSR, MeasurementReport
    from pydicom.sr.codedict import codes

    with referring():
        groups = [*(_group(one, source, segmentation) for one in lesions), *map(_group_of_total, totals)]
        content = MeasurementReport(
            observation_context=_observer(source),
            procedure_reported=getattr(codes.LN, _PROCEDURES[source.series.modality]),
            imaging_measurements=groups,
        )
        images = [source.headers[index] for index in ordered_files(source.slices)]
        return Comprehensive3DSR(
            evidence=images if segmentation is None else [*images, segmentation],
            content=content[0],
            is_complete=len(lesions) == sum(total.lesions for total in totals),
            **series_attributes(source, _SERIES),
        )


def _observer(source: Source) -> Any:
    from highdicom.sr import DeviceObserverIdentifyingAttributes, ObservationContext, ObserverContext
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    labelling = source.labelling
    device = DeviceObserverIdentifyingAttributes(
        uid=generate_uid(entropy_srcs=[MAKER, labelling.version, labelling.bundle_sha256]),
        name=f"{MAKER} {labelling.version}",
        manufacturer_name=MAKER,
        model_name=long_string(labelling.model),
        serial_number=labelling.bundle_sha256,
    )
    return ObservationContext(observer_device_context=ObserverContext(codes.DCM.Device, device))


def _group(lesion: Measured, source: Source, segmentation: Any) -> Any:
    from highdicom.sr import TrackingIdentifier, VolumetricROIMeasurementsAndQualitativeEvaluations

    category, kind = property_of(lesion.label.name)
    return VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(identifier=str(lesion.id)),
        finding_category=category,
        finding_type=kind,
        measurements=list(_measurements(lesion, source.series.modality)),
        **_within(lesion, source, segmentation),
    )


def _measurements(lesion: Measured, modality: str) -> Iterator[Any]:
    from highdicom.sr import Measurement
    from pydicom.sr.codedict import codes

    yield Measurement(codes.SCT.Volume, lesion.volume_ml, codes.UCUM.CubicCentimeter)
    for name, value in ((codes.SCT.LongAxis, lesion.long_axis_mm), (codes.SCT.ShortAxis, lesion.short_axis_mm)):
        if value is not None:
            yield Measurement(name, value, codes.UCUM.Millimeter)
    if modality not in _INTENSITIES:
        return
    name, unit = _INTENSITIES[modality]
    for derivation, value in ((codes.SCT.Mean, lesion.mean), (codes.SCT.StandardDeviation, lesion.deviation)):
        if value is not None:
            yield Measurement(getattr(codes.DCM, name), value, getattr(codes.UCUM, unit), derivation=derivation)


def _group_of_total(total: Total) -> Any:
    from highdicom.sr import Measurement, MeasurementsAndQualitativeEvaluations, TrackingIdentifier
    from pydicom.sr.codedict import codes

    category, kind = property_of(total.label.name)
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(identifier=long_string(total.label.name) or "all"),
        finding_category=category,
        finding_type=kind,
        measurements=[
            Measurement(codes.SCT.NumberOfLesions, total.lesions, codes.UCUM.NoUnits),
            Measurement(codes.SCT.Volume, total.volume_ml, codes.UCUM.CubicCentimeter),
        ],
    )


def _within(lesion: Measured, source: Source, segmentation: Any) -> dict[str, Any]:
    """Say where a lesion is: in a segment, which holds all of its label, and in which slices; or inside an outline."""
    from highdicom.sr import ImageRegion, ReferencedSegment, SourceImageForRegion, SourceImageForSegmentation

    if segmentation is not None:
        segment = ReferencedSegment(
            sop_class_uid=segmentation.SOPClassUID,
            sop_instance_uid=segmentation.SOPInstanceUID,
            segment_number=source.labelling.labels.index(lesion.label) + 1,
            source_images=[SourceImageForSegmentation(*image) for image in _images(source, lesion.slices)],
        )
        return {"referenced_segment": segment}
    section = lesion.section
    (image,) = _images(source, [section.index])
    row, column = section.corner
    shift = np.array([column, row]) + _CENTRE
    rings = [np.concatenate([ring, ring[:1]]) + shift for ring in outlines(section.pixels)]
    return {"referenced_regions": [ImageRegion("POLYLINE", ring, SourceImageForRegion(*image)) for ring in rings]}


def _images(source: Source, slices: Iterable[int]) -> list[tuple[str, str, list[int] | None]]:
    """Return the class and the UID of the images that hold slices, and which of their frames if they have several."""
    frames: dict[tuple[str, str], list[int]] = {}
    for index in slices:
        header = source.headers[index]
        frames.setdefault((header.SOPClassUID, header.SOPInstanceUID), []).append(source.slices[index].frame + 1)
    return [(*image, numbers if source.is_multiframe else None) for image, numbers in frames.items()]
