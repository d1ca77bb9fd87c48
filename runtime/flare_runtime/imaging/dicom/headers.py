"""What the header of a DICOM file says of its slices: whose they are, and where they lie."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias
from zipfile import ZipFile

import numpy as np

from flare_runtime.errors import CaseError, first_line
from flare_runtime.imaging.dicom.files import DicomFile

Vector: TypeAlias = tuple[float, ...]

# Images of slices: computed tomography, magnetic resonance and positron emission, each also enhanced or converted.
_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.2.1": "CT",
    "1.2.840.10008.5.1.4.1.1.2.2": "CT",
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.4.1": "MR",
    "1.2.840.10008.5.1.4.1.1.4.4": "MR",
    "1.2.840.10008.5.1.4.1.1.128": "PT",
    "1.2.840.10008.5.1.4.1.1.130": "PT",
    "1.2.840.10008.5.1.4.1.1.128.1": "PT",
}
# All that is read: no name of a patient, and no private element.
_TAGS = [
    "SOPClassUID", "Modality", "ImageType", "SeriesInstanceUID", "SeriesNumber", "AcquisitionNumber", "EchoNumbers",
    "TemporalPositionIdentifier", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
    "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "BitsAllocated",
    "PixelRepresentation", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence", "SOPInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID",
]  # fmt: skip
_ABOUT_FILE = 0x0002  # the group of elements of the file itself
# What an object that refers to a slice has to repeat.
_REFERABLE = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")


@dataclass(frozen=True)
class Slice:
    """One slice: a file's only one, or a frame of a multi-frame file. Places are in the patient's LPS axes.

    Attributes:
        file, frame: where its pixels are; the first frame is 0.
        modality: CT, MR or PT.
        series: the UID of its series.
        number: that of the series, as a scanner counts them; None where it is unknown.
        parts: what tells the images of one place in a series apart: echo, acquisition and time.
        localizer: whether it is a scout view.
        position_mm, orientation: of the first pixel's centre, and the directions of the rows (to the next column) and
            of the columns (to the next row), three numbers each; None where the file does not say.
        spacing_mm: between rows and between columns; None where the file does not say.
        thickness_mm: None where the file does not say.
        shape: rows, columns.
        dtype: of the stored pixels.
        slope, intercept: intensity = slope * pixel + intercept.
        syntax: the UID of the encoding of its pixels.
        instance: the UID of the image; empty where the file does not say.
        lacks: what the file does not say of itself, and an object that refers to it would have to repeat.
        stamp: the size and time of change of the file on disk when this was read.
    """

    file: DicomFile
    frame: int
    modality: str
    series: str
    number: int | None
    parts: tuple[str, ...]
    localizer: bool
    position_mm: Vector | None
    orientation: Vector | None
    spacing_mm: Vector | None
    thickness_mm: float | None
    shape: tuple[int, int]
    dtype: str
    slope: float
    intercept: float
    syntax: str
    instance: str
    lacks: tuple[str, ...]
    stamp: tuple[int, int] = field(compare=False)


def read_slices(file: DicomFile, archive: ZipFile | None) -> list[Slice]:
    """Return the slices of a file; none where it holds no CT, MR or PET image.

    Args:
        file: one whose header is read.
        archive: as `DicomFile.open` takes it.

    Raises:
        CaseError: `corrupt` where the header cannot be read, `unsupported_type` where its pixels are none of a slice.
        OSError: where the file cannot be read.
    """
    from pydicom import dcmread

    try:
        stamp = _stamp(file)
        with file.open(archive) as stream:
            _check_not_deflated(stream, file)
            header = complete(dcmread(stream, stop_before_pixels=True, force=True, specific_tags=_TAGS))
            modality = _modality(header)
            return [] if modality is None else list(_slices(file, header, modality, stamp))
    except (OSError, CaseError):
        raise
    except Exception as error:  # pydicom raises whatever a damaged header leads it to
        raise CaseError("corrupt", f"{file.name}: its header is damaged ({first_line(error)}); export anew") from error


def check_unchanged(slices: Sequence[Slice], archive: ZipFile | None) -> None:
    """Refuse slices of a file that was written anew since they were found, unless its header says the same of them.

    Raises:
        CaseError: `changed`, or as `read_slices` does.
        OSError: where the file cannot be read.
    """
    file = slices[0].file
    if _stamp(file) != slices[0].stamp and not set(slices) <= set(read_slices(file, archive)):
        text = f"{file.name} holds another slice than when the cases were looked for"
        raise CaseError("changed", f"{text}; run again once nothing is written there any more")


def _stamp(file: DicomFile) -> tuple[int, int]:
    status = file.path.stat()
    return status.st_size, status.st_mtime_ns


def instance_in(head: bytes) -> str | None:
    """Return the UID of the image that a file is of, empty where it says none; None where its header goes on.

    Args:
        head: what the file begins with.
    """
    from pydicom import dcmread

    stream = BytesIO(head)
    try:
        _check_not_deflated(stream, DicomFile(Path()))
        header = complete(dcmread(stream, stop_before_pixels=True, force=True, specific_tags=["SOPInstanceUID"]))
    except CaseError:  # no more is read of it
        return ""
    except Exception:  # pydicom raises whatever the end of the bytes leads it to
        return None
    return str(header.get("SOPInstanceUID") or "") if stream.tell() < len(head) else None


def _check_not_deflated(stream: BinaryIO, file: DicomFile) -> None:
    """Refuse a file that is compressed as a whole, which pydicom would unpack to whatever it holds."""
    from pydicom.filereader import read_dataset, read_preamble
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    read_preamble(stream, force=True)
    about_file = read_dataset(stream, False, True, stop_when=lambda tag, *_: tag.group != _ABOUT_FILE)
    if about_file.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        raise CaseError("unsupported_type", f"{file.name} is deflated as a whole; export it uncompressed")
    stream.seek(0)


def complete(header: Any) -> Any:
    """Give a data set the class and the UID that its file has, where it says none itself."""
    for keyword in ("SOPClassUID", "SOPInstanceUID"):
        if not header.get(keyword) and (of_file := header.file_meta.get(f"MediaStorage{keyword}")):
            setattr(header, keyword, of_file)
    return header


def _modality(header: Any) -> str | None:
    """Return the modality of an image of slices, by its class, or by what it says itself where its class is unknown."""
    uid = str(header.get("SOPClassUID") or "")
    own = str(header.get("Modality") or "")
    return _CLASSES.get(uid) if uid else own if own in _CLASSES.values() else None


def _slices(file: DicomFile, header: Any, modality: str, stamp: tuple[int, int]) -> Iterator[Slice]:
    dtype, shape = _pixels(file, header)
    frames = int(header.get("NumberOfFrames") or 1)
    groups = header.get("PerFrameFunctionalGroupsSequence") or []
    if frames != max(len(groups), 1):
        text = f"{file.name} has {frames} frames and says of {len(groups)} where they lie; export single slices"
        raise CaseError("unsupported_type", text)
    shared = header.get("SharedFunctionalGroupsSequence") or [{}]
    lacks = tuple(keyword for keyword in _REFERABLE if not header.get(keyword))
    for frame in range(frames):
        look = _Look([groups[frame], shared[0]] if groups else [], header)
        acquisition = look.get("FrameAcquisitionNumber", "FrameContentSequence") or header.get("AcquisitionNumber")
        time = look.get("TemporalPositionIndex", "FrameContentSequence") or look.get("TemporalPositionIdentifier")
        yield Slice(
            file=file,
            frame=frame,
            modality=modality,
            series=str(header.get("SeriesInstanceUID") or ""),
            number=_integer(header.get("SeriesNumber")),
            parts=(str(look.get("EchoNumbers")), str(acquisition), str(time)),
            localizer="LOCALIZER" in _words(look.get("FrameType", f"{modality}ImageFrameTypeSequence"))
            or "LOCALIZER" in _words(header.get("ImageType")),
            position_mm=_numbers(look.get("ImagePositionPatient", "PlanePositionSequence"), 3),
            orientation=_numbers(look.get("ImageOrientationPatient", "PlaneOrientationSequence"), 6),
            spacing_mm=_numbers(look.get("PixelSpacing", "PixelMeasuresSequence"), 2),
            thickness_mm=_number(look.get("SliceThickness", "PixelMeasuresSequence")),
            shape=shape,
            dtype=dtype,
            # A slope of 0 says nothing, as in NIfTI; SimpleITK takes it for 1 as well.
            slope=_scale(look.get("RescaleSlope", "PixelValueTransformationSequence"), 1.0, file) or 1.0,
            intercept=_scale(look.get("RescaleIntercept", "PixelValueTransformationSequence"), 0.0, file),
            syntax=str(header.file_meta.get("TransferSyntaxUID") or ""),
            instance=str(header.get("SOPInstanceUID") or ""),
            lacks=lacks,
            stamp=stamp,
        )


class _Look:
    """Looks an element up where multi-frame files keep it, and then where the others do."""

    def __init__(self, groups: Sequence[Any], header: Any) -> None:
        self._groups = groups
        self._header = header

    def get(self, keyword: str, sequence: str = "") -> Any:
        """Return an element's value, None where there is none."""
        for group in self._groups:
            items = group.get(sequence)
            if items and items[0].get(keyword) is not None:
                return items[0].get(keyword)
        return self._header.get(keyword)


def _pixels(file: DicomFile, header: Any) -> tuple[str, tuple[int, int]]:
    """Return the type of the pixels, and rows and columns."""
    rows, columns, bits = (int(header.get(keyword) or 0) for keyword in ("Rows", "Columns", "BitsAllocated"))
    samples, signed = int(header.get("SamplesPerPixel") or 1), int(header.get("PixelRepresentation") or 0)
    kind = str(header.get("PhotometricInterpretation") or "MONOCHROME2")
    if min(rows, columns) < 1 or bits not in (8, 16, 32) or samples != 1 or not kind.startswith("MONOCHROME"):
        text = f"{file.name} has {rows} x {columns} pixels of {samples} x {bits} bits ({kind:.16})"
        raise CaseError("unsupported_type", f"{text}; grey values of 8, 16 or 32 bits are read")
    if header.get("ModalityLUTSequence"):
        raise CaseError("unsupported_type", f"{file.name} maps its grey values by a table; a slope and shift are read")
    return f"{'i' if signed else 'u'}{bits // 8}", (rows, columns)


def _numbers(value: Any, count: int) -> Vector | None:
    """Return so many finite numbers, None where there are others or none."""
    try:
        numbers = tuple(float(one) for one in value)
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == count and bool(np.all(np.isfinite(numbers))) else None


def _number(value: Any) -> float | None:
    numbers = _numbers([value], 1)
    return numbers[0] if numbers else None


def _integer(value: Any) -> int | None:
    number = _number(value)
    return None if number is None else int(number)


def _scale(value: Any, absent: float, file: DicomFile) -> float:
    if value is None or value == "":
        return absent
    number = _number(value)
    if number is None:
        raise CaseError("unsupported_type", f"{file.name}: the slope or shift of its grey values is no number")
    return number


def _words(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [str(one) for one in value or []]
