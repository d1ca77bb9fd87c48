"""Masks as DICOM objects that refer to the series of their image; what makes them is loaded when one is written."""

import re
from dataclasses import dataclass
from typing import BinaryIO

from flare_runtime.compute.arrays import MaskArray
from flare_runtime.imaging.volume import Template

MAKER = "flare-lite"
_COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"
_MARK_AT, _MARK = 128, b"DICM"
# The element as it is stored, with its type and without.
_MANUFACTURER = re.compile(rb"\x08\0\x70\0(LO\x0a\0|\x0a\0\0\0)%b" % MAKER.encode())


@dataclass(frozen=True)
class DicomMaskWriter:
    """Writes masks as objects of one class, with the patient's and the study's attributes of their series.

    Attributes:
        suffixes: of the files' names.
        sop_class: the UID of the class.
    """

    suffixes: tuple[str, ...]
    sop_class: str

    def encode(self, file: BinaryIO, name: str, mask: MaskArray, template: Template, *, keep_text: bool) -> None:
        """Write a mask (z, y, x); see `MaskWriter`.

        Raises:
            UsageError: where the mask is of no DICOM series, or nobody has said what it means.
            CaseError: `unreferable`, `unreadable`.
        """
        from flare_runtime.imaging.dicom import references, segmentation_object, structure_set

        make = structure_set.structure_set if self == STRUCTURE_SET else segmentation_object.segmentation
        source = references.source_of(template)
        with references.referring():
            make(source.series.on_slices(mask), source).save_as(file, enforce_file_format=True)

    def is_mask(self, head: bytes) -> bool:
        """Whether a file that begins so is an object of the class that this program made."""
        return _is_own(head, self.sop_class)


def is_structured_report(head: bytes) -> bool:
    """Whether a file that begins so is a structured report that this program made."""
    return _is_own(head, _COMPREHENSIVE_3D_SR)


def _is_own(head: bytes, sop_class: str) -> bool:
    is_dicom = head[_MARK_AT : _MARK_AT + len(_MARK)] == _MARK
    of_class = re.search(rb"%b(?![.0-9])" % sop_class.encode(), head)
    return is_dicom and bool(of_class and _MANUFACTURER.search(head))


SEGMENTATION = DicomMaskWriter((".seg.dcm",), "1.2.840.10008.5.1.4.1.1.66.4")
STRUCTURE_SET = DicomMaskWriter((".rtstruct.dcm",), "1.2.840.10008.5.1.4.1.1.481.3")
