"""What an object that refers to a series takes from it: the patient, the study, and which slice is which."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any
from warnings import catch_warnings, simplefilter
from zipfile import ZipFile

from flare_runtime.errors import CaseError, UsageError, first_line, install_hint
from flare_runtime.imaging.dicom.files import DicomFile, archive_of, let_pydicom_in
from flare_runtime.imaging.dicom.headers import Slice, check_unchanged, complete
from flare_runtime.imaging.dicom.own_objects import MAKER
from flare_runtime.imaging.dicom.series import DicomSeries
from flare_runtime.imaging.labelling import Labelling
from flare_runtime.imaging.volume import Template

_THREADS = 8
# May be empty, but not absent, in what refers to the series.
_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate"),
    *("StudyTime", "ReferringPhysicianName"),
)
# Characters of a long string (LO).
_LONG = 64


@dataclass(frozen=True)
class Source:
    """A series that an object refers to.

    Attributes:
        series: it itself.
        slices: in the order of the mask's.
        headers: data sets without pixels, one for each slice; those of one file are one.
        labelling: of the mask.
    """

    series: DicomSeries
    slices: tuple[Slice, ...]
    headers: tuple[Any, ...]
    labelling: Labelling

    @property
    def is_multiframe(self) -> bool:
        """Whether the slices are frames of files."""
        return "PerFrameFunctionalGroupsSequence" in self.headers[0]


def source_of(template: Template) -> Source:
    """Read the headers of the series that a mask belongs to.

    Raises:
        UsageError: where the mask is of no DICOM series, or nobody has said what it means.
        CaseError: `unreferable`, `changed`, `unreadable`.
    """
    series = template.source
    if not isinstance(series, DicomSeries) or template.labelling is None:
        raise UsageError("DICOM segmentations are of masks that a model made of a DICOM series; save this as .nii.gz")
    series.check_referable()
    slices = series.ordered()
    by_file = defaultdict[DicomFile, list[Slice]](list)
    for one in slices:
        by_file[one.file].append(one)
    with archive_of(by_file) as archive, ThreadPoolExecutor(_THREADS, "headers") as threads:
        read = threads.map(lambda of_file: _read_header(of_file, archive), by_file.values())
        headers = dict(zip(by_file, read, strict=True))
    with referring():  # in one thread: filters of warnings are the process's
        for header in headers.values():
            header.remove_private_tags()  # which decodes all texts, for another character set, as well
            _mend(header)
    return Source(series, slices, tuple(headers[one.file] for one in slices), template.labelling)


def check_installed() -> None:
    """Refuse to go on without the libraries that write DICOM.

    Raises:
        UsageError: with the command that installs them.
    """
    let_pydicom_in()
    missing = [name for name in ("pydicom", "highdicom", "contourpy") if find_spec(name) is None]
    if missing:
        raise UsageError(f"writing DICOM needs {' and '.join(missing)}: {install_hint('dicom')}")


def series_attributes(source: Source, added_to_number: int) -> dict[str, Any]:
    """Return the arguments of highdicom's classes for a new series of one instance, which this program made."""
    from pydicom.uid import generate_uid

    labelling = source.labelling
    return {
        "series_instance_uid": generate_uid(),
        "series_number": max(source.slices[0].number or 0, 0) + added_to_number,
        "series_description": f"{MAKER}: {long_string(labelling.model)}"[:_LONG].strip(),
        "sop_instance_uid": generate_uid(),
        "instance_number": 1,
        "manufacturer": MAKER,
        "manufacturer_model_name": long_string(labelling.model),
        "device_serial_number": labelling.bundle_sha256,
        "software_versions": labelling.version,
        "specific_character_set": "ISO_IR 192",  # of labels in any script, and of the patient's name
    }


def long_string(text: str) -> str:
    """Return a text as a DICOM string of one value, which has 64 characters at most."""
    return text.replace("\\", "/")[:_LONG].strip()


@contextmanager
def referring() -> Iterator[None]:
    """Let whatever a library finds wrong with the source's headers be the case's error."""
    try:
        with catch_warnings():
            simplefilter("ignore")  # of how names and numbers in the source's headers are written
            yield
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        text = f"the headers of the series do not allow a DICOM object to refer to it ({first_line(error)})"
        raise CaseError("unreferable", text) from error


def _read_header(slices: Sequence[Slice], archive: ZipFile | None) -> Any:
    """Return the header of one file, which is that of its slices still and not of another patient's."""
    from pydicom import dcmread

    file = slices[0].file
    try:
        with file.open(archive) as stream:
            check_unchanged(slices, archive)
            return complete(dcmread(stream, stop_before_pixels=True, force=True))
    except OSError as error:
        raise CaseError("unreadable", f"{file.name}: {error.strerror or error}") from error


def _mend(header: Any) -> None:
    """Leave empty what highdicom would refuse the whole series for."""
    from pydicom.valuerep import DA, TM

    for keyword in _EMPTY:
        header.setdefault(keyword, "")
    if header.PatientSex not in ("M", "F", "O"):
        header.PatientSex = ""
    for keyword, kind in (("PatientBirthDate", DA), ("StudyDate", DA), ("StudyTime", TM)):
        try:
            kind(header[keyword].value)
        except ValueError:
            header[keyword].value = ""


def ordered_files(slices: Sequence[Slice]) -> list[int]:
    """Return the index of the first slice of every file."""
    first: dict[DicomFile, int] = {}
    for index, one in enumerate(slices):
        first.setdefault(one.file, index)
    return list(first.values())
