"""By what DICOM objects that this program made are known: their maker, and their class."""

import re

MAKER = "flare-lite"
SEGMENTATION_CLASS = "1.2.840.10008.5.1.4.1.1.66.4"
STRUCTURE_SET_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"
_COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"
_MARK_AT, _MARK = 128, b"DICM"
# The element as it is stored, with its type and without.
_MANUFACTURER = re.compile(rb"\x08\0\x70\0(LO\x0a\0|\x0a\0\0\0)%b" % MAKER.encode())


def is_own(head: bytes, sop_class: str) -> bool:
    """Whether a file that begins so is an object of a class, by its UID, that this program made."""
    is_dicom = head[_MARK_AT : _MARK_AT + len(_MARK)] == _MARK
    of_class = re.search(rb"%b(?![.0-9])" % sop_class.encode(), head)
    return is_dicom and bool(of_class and _MANUFACTURER.search(head))


def is_structured_report(head: bytes) -> bool:
    """Whether a file that begins so is a structured report that this program made."""
    return is_own(head, _COMPREHENSIVE_3D_SR)
