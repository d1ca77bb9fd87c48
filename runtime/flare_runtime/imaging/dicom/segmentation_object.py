"""Masks as DICOM segmentation objects: a binary segment for each label, on the slices of the source."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from flare_runtime.compute.arrays import AnyArray, MaskArray
from flare_runtime.errors import CaseError
from flare_runtime.imaging.dicom.own_objects import MAKER
from flare_runtime.imaging.dicom.references import Source, long_string, series_attributes
from flare_runtime.imaging.dicom.terminology import property_of
from flare_runtime.imaging.labelling import Labelling

# Added to the number of the source's series.
_SERIES = 1000


def segmentation(mask: MaskArray, source: Source) -> Any:
    """Return a mask (z, y, x) as a data set.

    Slices without a voxel of a segment are left out of it. An empty mask is one empty frame for each segment.

    Raises:
        CaseError: `unreferable` for frames of several files.
    """
    from highdicom.seg import Segmentation, SegmentationTypeValues

    planes = np.flatnonzero(mask.any(axis=(1, 2)))
    if not len(planes):
        planes = np.array([0])
    images, others, positions = _images(source, planes.tolist())
    return Segmentation(
        source_images=images,
        further_source_images=others,
        pixel_array=_segments(mask[planes], source.labelling),
        plane_positions=positions,
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=_descriptions(source.labelling),
        content_label="SEGMENTATION",
        content_description=long_string(source.labelling.model),
        **series_attributes(source, _SERIES),
    )


def _images(source: Source, planes: Sequence[int]) -> tuple[list[Any], list[Any], list[Any] | None]:
    """Return the headers of some slices, those of the others, and where the slices lie if they are frames."""
    from highdicom import PlanePositionSequence

    headers = source.headers
    if not source.is_multiframe:
        direction = headers[0].ImageOrientationPatient
        for header in headers:
            header.ImageOrientationPatient = direction  # to which theirs are close enough
        wanted = set(planes)
        return [headers[i] for i in planes], [one for i, one in enumerate(headers) if i not in wanted], None
    if any(header is not headers[0] for header in headers):
        text = "its slices are frames of several files, which a segmentation object cannot refer to"
        raise CaseError("unreferable", text)
    _share_axes(headers[0], source.slices[0].frame)
    places = [source.slices[i].position_mm or () for i in planes]
    return [headers[0]], [], [PlanePositionSequence("PATIENT", place) for place in places]


def _share_axes(header: Any, frame: int) -> None:
    """Let a file say of all frames what it says of one: highdicom looks for their axes there alone."""
    from pydicom import Dataset

    shared = (header.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    groups = header.PerFrameFunctionalGroupsSequence[frame]
    for keyword in ("PixelMeasuresSequence", "PlaneOrientationSequence"):
        if keyword not in shared:
            shared[keyword] = groups[keyword]
    header.SharedFunctionalGroupsSequence = [shared]


def _segments(mask: MaskArray, labelling: Labelling) -> AnyArray:
    """Return the number of every voxel's segment; where labels overlap, a mask (z, y, x, segments)."""
    labels = labelling.labels
    if all(label.values == (number,) for number, label in enumerate(labels, 1)):
        return mask
    return np.stack([np.isin(mask, label.values) for label in labels], axis=-1).view(np.uint8)


def _descriptions(labelling: Labelling) -> list[Any]:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentAlgorithmTypeValues, SegmentDescription
    from pydicom.sr.codedict import codes

    algorithm = AlgorithmIdentificationSequence(
        name=long_string(labelling.model),
        family=codes.DCM.ArtificialIntelligence,
        version=labelling.version,
        source=MAKER,
        parameters={"bundle_sha256": labelling.bundle_sha256},
    )
    described = []
    for number, label in enumerate(labelling.labels, 1):
        category, kind = property_of(label.name)
        described.append(
            SegmentDescription(
                segment_number=number,
                segment_label=long_string(label.name) or f"label {number}",
                segmented_property_category=category,
                segmented_property_type=kind,
                algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
                algorithm_identification=algorithm,
            )
        )
    return described
