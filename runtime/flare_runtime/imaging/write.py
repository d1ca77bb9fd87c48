"""Writing masks: the writers of all file formats, and which of them a name asks for."""

from pathlib import Path
from typing import BinaryIO, Protocol

from flare_runtime.compute.arrays import MaskArray
from flare_runtime.files.output import replacing
from flare_runtime.imaging.dicom.mask_writer import SEGMENTATION, STRUCTURE_SET
from flare_runtime.imaging.nifti_mask import NiftiMaskWriter
from flare_runtime.imaging.volume import Template

# How much of a file `is_mask` looks at; more than a header takes compressed.
HEAD_BYTES = 4096


class MaskWriter(Protocol):
    """Writes masks in one file format."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The ends of its files' names, in lower case."""

    def encode(self, file: BinaryIO, name: str, mask: MaskArray, template: Template, *, keep_text: bool) -> None:
        """Write a mask (z, y, x) with the geometry of its image to a file that is to have this name.

        The source of `template` is used only where it is of the writer's own format; free text of it, which may name
        the patient, goes into the mask only where `keep_text`.
        """

    def is_mask(self, head: bytes) -> bool:
        """Whether a file that begins so, for HEAD_BYTES or all of it, can be a mask that this wrote."""


WRITERS: tuple[MaskWriter, ...] = (NiftiMaskWriter(), SEGMENTATION, STRUCTURE_SET)


def mask_suffixes() -> tuple[str, ...]:
    """Return the ends of the names of all files that a mask can be written to, in lower case."""
    return tuple(suffix for writer in WRITERS for suffix in writer.suffixes)


def write_mask(target: Path, mask: MaskArray, template: Template) -> None:
    """Write a mask (z, y, x) with the geometry of its image, in the file format of the target's name.

    Raises:
        OutputError: where it cannot be written.
    """
    with replacing(target) as file:
        encode_mask(file, target.name, mask, template)


def encode_mask(file: BinaryIO, name: str, mask: MaskArray, template: Template, *, keep_text: bool = False) -> None:
    """Write a mask (z, y, x) as the writer of the name's suffix does; see `MaskWriter`."""
    writer = next((one for one in WRITERS if name.endswith(one.suffixes)), WRITERS[0])
    writer.encode(file, name, mask, template, keep_text=keep_text)


def is_mask(head: bytes) -> bool:
    """Whether a file that begins so, for HEAD_BYTES or all of it, can be a mask that this package wrote."""
    return any(writer.is_mask(head) for writer in WRITERS)
