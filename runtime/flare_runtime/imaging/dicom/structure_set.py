"""Masks as DICOM structure sets: closed planar contours for each label and slice."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import numpy as np

from flare_runtime.compute.arrays import AnyArray, MaskArray
from flare_runtime.imaging.dicom.contours import Polygon, outlines
from flare_runtime.imaging.dicom.headers import Slice
from flare_runtime.imaging.dicom.own_objects import MAKER, STRUCTURE_SET_CLASS
from flare_runtime.imaging.dicom.patient_modules import PATIENT_AND_STUDY
from flare_runtime.imaging.dicom.references import Source, long_string, ordered_files, series_attributes
from flare_runtime.imaging.dicom.terminology import property_of
from flare_runtime.model.manifest import Label

_STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"
# Added to the number of the source's series.
_SERIES = 2000
# Of a millimetre.
_DIGITS = 4


def structure_set(mask: MaskArray, source: Source) -> Any:
    """Return a mask (z, y, x) as a data set."""
    header = source.headers[0]
    result = _instance(source)
    result.OperatorsName = ""
    result.ApprovalStatus = "UNAPPROVED"
    result.StructureSetLabel = MAKER
    result.StructureSetName = long_string(source.labelling.model)
    result.StructureSetDate, result.StructureSetTime = result.InstanceCreationDate, result.InstanceCreationTime
    result.FrameOfReferenceUID = header.FrameOfReferenceUID
    result.PositionReferenceIndicator = header.get("PositionReferenceIndicator", "")
    result.ReferencedFrameOfReferenceSequence = [_frame_of_reference(source)]
    labels = list(enumerate(source.labelling.labels, 1))
    result.StructureSetROISequence = [_roi(number, label, header) for number, label in labels]
    result.ROIContourSequence = [_contours_of(number, label, mask, source) for number, label in labels]
    result.RTROIObservationsSequence = [_observation(number, label) for number, label in labels]
    return result


def _instance(source: Source) -> Any:
    """Return a data set with all that is not the structures'.

    highdicom has no class for structure sets, and what all of its classes share takes longer to load than the rest.
    """
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ImplicitVRLittleEndian

    header, values = source.headers[0], series_attributes(source, _SERIES)
    now = datetime.now()
    result = _item(
        SpecificCharacterSet=values["specific_character_set"],
        InstanceCreationDate=now.strftime("%Y%m%d"),
        InstanceCreationTime=now.strftime("%H%M%S"),
        SOPClassUID=STRUCTURE_SET_CLASS,
        SOPInstanceUID=values["sop_instance_uid"],
        InstanceNumber=values["instance_number"],
        Modality="RTSTRUCT",
        SeriesInstanceUID=values["series_instance_uid"],
        SeriesNumber=values["series_number"],
        SeriesDescription=values["series_description"],
        Manufacturer=values["manufacturer"],
        ManufacturerModelName=values["manufacturer_model_name"],
        DeviceSerialNumber=values["device_serial_number"],
        SoftwareVersions=values["software_versions"],
    )
    for keyword in PATIENT_AND_STUDY:
        if keyword in header:
            result[keyword] = header[keyword]
    result.file_meta = FileMetaDataset()
    # With explicit types contours of more than 64 KiB have no type of their own.
    result.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    return result


def _item(**values: Any) -> Any:
    from pydicom import Dataset

    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def _frame_of_reference(source: Source) -> Any:
    header = source.headers[0]
    images = [_reference(source.headers[index]) for index in ordered_files(source.slices)]
    series = _item(SeriesInstanceUID=header.SeriesInstanceUID, ContourImageSequence=images)
    study = _item(
        ReferencedSOPClassUID=_STUDY_CLASS,
        ReferencedSOPInstanceUID=header.StudyInstanceUID,
        RTReferencedSeriesSequence=[series],
    )
    return _item(FrameOfReferenceUID=header.FrameOfReferenceUID, RTReferencedStudySequence=[study])


def _reference(header: Any) -> Any:
    return _item(ReferencedSOPClassUID=header.SOPClassUID, ReferencedSOPInstanceUID=header.SOPInstanceUID)


def _roi(number: int, label: Label, header: Any) -> Any:
    return _item(
        ROINumber=number,
        ReferencedFrameOfReferenceUID=header.FrameOfReferenceUID,
        ROIName=long_string(label.name) or f"label {number}",
        ROIGenerationAlgorithm="AUTOMATIC",
    )


def _observation(number: int, label: Label) -> Any:
    kind = property_of(label.name).type
    code = _item(CodeValue=kind.value, CodingSchemeDesignator=kind.scheme_designator, CodeMeaning=kind.meaning)
    return _item(
        ObservationNumber=number,
        ReferencedROINumber=number,
        RTROIIdentificationCodeSequence=[code],
        RTROIInterpretedType="",
        ROIInterpreter="",
    )


def _contours_of(number: int, label: Label, mask: MaskArray, source: Source) -> Any:
    contours = [
        contour
        for index, plane in enumerate(mask)
        for contour in _contours_in(np.isin(plane, label.values), source, index)
    ]
    item = _item(ReferencedROINumber=number)
    if contours:
        item.ContourSequence = contours
    return item


def _contours_in(plane: AnyArray, source: Source, index: int) -> Iterator[Any]:
    for polygon in outlines(plane):
        points = np.round(_places_mm(polygon, source.slices[index]), _DIGITS)
        reference = _reference(source.headers[index])
        if source.is_multiframe:
            reference.ReferencedFrameNumber = source.slices[index].frame + 1
        yield _item(
            ContourImageSequence=[reference],
            ContourGeometricType="CLOSED_PLANAR",
            NumberOfContourPoints=len(points),
            ContourData=points.ravel().tolist(),
        )


def _places_mm(polygon: Polygon, one: Slice) -> Polygon:
    """Return points (column, row) of a slice in the patient's LPS axes."""
    along_row, along_column = np.reshape(np.array(one.orientation), (2, 3))
    between_rows, between_columns = np.array(one.spacing_mm)
    steps = np.stack([along_row * between_columns, along_column * between_rows])
    places: Polygon = polygon @ steps + np.array(one.position_mm)
    return places
