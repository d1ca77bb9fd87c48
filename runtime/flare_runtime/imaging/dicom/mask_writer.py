"""Masks as DICOM objects that refer to the series of their image; what makes them is loaded when one is written."""

from dataclasses import dataclass
from typing import BinaryIO

from flare_runtime.compute.arrays import MaskArray
from flare_runtime.imaging.dicom.own_objects import SEGMENTATION_CLASS, STRUCTURE_SET_CLASS, is_own
from flare_runtime.imaging.volume import Template


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
        return is_own(head, self.sop_class)


SEGMENTATION = DicomMaskWriter((".seg.dcm",), SEGMENTATION_CLASS)
STRUCTURE_SET = DicomMaskWriter((".rtstruct.dcm",), STRUCTURE_SET_CLASS)
