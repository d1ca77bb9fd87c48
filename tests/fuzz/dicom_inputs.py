"""Folders and archives of DICOM files made to be wrong: a sound small series, then elements and bytes changed."""

import io
import zipfile
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import UID, ImplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless, generate_uid

from tests.fuzz.nifti_inputs import damaged
from tests.runtime.dicom_files import Series, enhanced

_COUNT = 3
_SYNTAXES = (None, None, ImplicitVRLittleEndian, RLELossless, JPEG2000Lossless, JPEGLSLossless)
_KEYWORDS = ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel")
_KEYWORDS += ("NumberOfFrames", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness")
_KEYWORDS += ("RescaleSlope", "RescaleIntercept", "PhotometricInterpretation", "ImageType", "SeriesNumber", "Modality")
_KEYWORDS += ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "PixelData", "SharedFunctionalGroupsSequence")
_VALUES = (b"", b"\0\0", b"\1\0", b"\xff\xff", b"\xff\x7f", b"-1", b"0 ", b"1e999 ", b"nan ", b"-inf", b"1\\2\\3 ")
_VALUES += (
    b"1000000000",
    b"\\\\\\\\",
    b"\x1b[2J\n",
    b"\xff\xfe\x00\xe0",
    b"1.5 ",
    bytes(64),
    b"9" * 64,
    b"1\\0\\0\\0\\1\\0 ",
)


def odd_series(rng: Random, folder: Path) -> Path:
    """Write an odd folder, file or archive of DICOM into a folder."""
    files = list(_sound(rng.choice(_SYNTAXES)) if rng.random() < 0.8 else _sound_frames())
    for _ in range(rng.choice((0, 1, 1, 2, 6))):
        place = rng.randrange(len(files))
        files[place] = (_changed if rng.random() < 0.5 else damaged)(rng, files[place])
    kind = rng.random()
    if kind < 0.15:
        target = folder / "study.zip"
        archive = _archive(rng, files)
        target.write_bytes(damaged(rng, archive) if rng.random() < 0.7 else archive)
    elif kind < 0.3:
        target = folder / "scan"
        target.write_bytes(files[0])
    else:
        target = folder / "study"
        target.mkdir()
        for index, content in enumerate(files):
            (target / f"IM{index}").write_bytes(content)
    return target


@cache
def _sound(syntax: UID | None) -> tuple[bytes, ...]:
    return tuple(map(_written, Series(count=_COUNT, uid="1.2.3", change=lambda d, i: _encode(d, i, syntax)).datasets()))


@cache
def _sound_frames() -> tuple[bytes, ...]:
    path = io.BytesIO()
    enhanced(Series(count=_COUNT, uid="1.2.3", change=lambda d, i: _encode(d, i, None)), path)  # type: ignore[arg-type]
    dataset = dcmread(io.BytesIO(path.getvalue()))
    _encode(dataset, 0, None)
    return (_written(dataset),)


def _encode(dataset: Dataset, index: int, syntax: UID | None) -> None:
    """Give a data set the same UID in every run, and its pixels the encoding."""
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(index)])
    if syntax == ImplicitVRLittleEndian:
        dataset.file_meta.TransferSyntaxUID = syntax
    elif syntax is not None:
        dataset.compress(syntax, encoding_plugin="", generate_instance_uid=False)


def _written(dataset: Dataset) -> bytes:
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _changed(rng: Random, content: bytes) -> bytes:
    """Remove an element of a file, or give it a value that it should not have."""
    try:
        dataset: Any = dcmread(io.BytesIO(content), force=True)
        tag = Tag(rng.choice(_KEYWORDS))  # type: ignore[no-untyped-call]
        if rng.random() < 0.2:
            dataset.pop(tag, None)
        else:
            value = rng.choice(_VALUES)
            vr = dataset[tag].VR if tag in dataset else "UN"
            dataset._dict[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)
        return _written(dataset)
    except Exception:  # a file that was damaged before
        return damaged(rng, content)


def _archive(rng: Random, files: list[bytes]) -> bytes:
    stream = io.BytesIO()
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    with zipfile.ZipFile(stream, "w", method) as archive:
        for index, content in enumerate(files):
            archive.writestr(zipfile.ZipInfo(f"scan/IM{index}"), content, method)
    return stream.getvalue()
