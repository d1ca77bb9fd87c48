"""How files of images and masks are named: channel 0 of a case is <case>_0000.nii.gz or <case>.nii.gz, as its mask."""

import re
from pathlib import Path
from typing import Literal, TypeAlias

from flare_runtime.files.naming import fitted, visible
from flare_runtime.imaging.read import image_suffixes
from flare_runtime.imaging.write import mask_suffixes

# Of masks that are written into a folder.
MASK_SUFFIX = ".nii.gz"
MaskType: TypeAlias = Literal["nifti", "dicom-seg", "rtstruct"]
# A structured report is of a mask, and no mask.
OutputType: TypeAlias = MaskType | Literal["dicom-sr"]
# Of masks of these types; the first where they are written into a folder.
_TYPE_SUFFIXES: dict[MaskType, tuple[str, ...]] = {
    "nifti": (MASK_SUFFIX, ".nii"),
    "dicom-seg": (".seg.dcm",),
    "rtstruct": (".rtstruct.dcm",),
}
# Of the record, the probabilities, the pictures and the report of a case, beside its mask; none is read as an image.
_RECORD_SUFFIX, _PROBABILITIES_SUFFIX = ".json", ".probabilities.npz"
_PREVIEW_SUFFIX, _PAGE_SUFFIX, _REPORT_SUFFIX = ".preview.png", ".html", ".sr.dcm"
# Ends the stem of a mask of an earlier run that was set aside.
STALE = ".stale"
_NUMBERED = re.compile(r"(?P<case>.+)_(?P<channel>[0-9]{4})", re.DOTALL)


def image_name(case: str, channel: int = 0) -> str:
    """Return the name of a channel's file in nnU-Net's folders."""
    return f"{case}_{channel:04d}{MASK_SUFFIX}"


def mask_name(case: str) -> str:
    """Return the name of a case's mask in a folder."""
    return fitted(case, MASK_SUFFIX)


def type_of(mask: str) -> MaskType | None:
    """Return the type of a mask's file by its name; None for another format's."""
    return next((one for one, suffixes in _TYPE_SUFFIXES.items() if mask.endswith(suffixes)), None)


def mask_name_in(mask: str, output_type: MaskType) -> str:
    """Return the name of a mask in another format."""
    return fitted(strip_suffix(mask), _TYPE_SUFFIXES[output_type][0])


def mask_names(mask: str) -> list[str]:
    """Return the names of a mask in all formats."""
    return [fitted(strip_suffix(mask), suffix) for suffix in mask_suffixes()]


def record_name(mask: str) -> str:
    """Return the name of the record beside a mask."""
    return fitted(strip_suffix(mask), _RECORD_SUFFIX)


def probabilities_name(mask: str, *, stale: bool = False) -> str:
    """Return the name of the probabilities beside a mask; `stale` once they were set aside."""
    return fitted(strip_suffix(mask), STALE * stale + _PROBABILITIES_SUFFIX)


def preview_name(mask: str, *, stale: bool = False) -> str:
    """Return the name of the picture beside a mask; `stale` once it was set aside."""
    return fitted(strip_suffix(mask), STALE * stale + _PREVIEW_SUFFIX)


def page_name(mask: str, *, stale: bool = False) -> str:
    """Return the name of the page beside a mask; `stale` once it was set aside."""
    return fitted(strip_suffix(mask), STALE * stale + _PAGE_SUFFIX)


def report_name(mask: str, *, stale: bool = False) -> str:
    """Return the name of the structured report beside a mask; `stale` once it was set aside."""
    return fitted(strip_suffix(mask), STALE * stale + _REPORT_SUFFIX)


def is_report_name(name: str) -> bool:
    """Whether a file of this name holds a structured report."""
    return name.endswith(_REPORT_SUFFIX)


def stale_name(mask: str) -> str:
    """Return the name of a mask that was set aside."""
    stem = strip_suffix(mask)
    return fitted(stem, STALE + mask[len(stem) :])


def is_beside_mask_name(name: str) -> bool:
    """Whether a file of this name holds probabilities, pictures or a structured report."""
    return name.endswith((_PROBABILITIES_SUFFIX, _PREVIEW_SUFFIX, _PAGE_SUFFIX, _REPORT_SUFFIX))


def is_image_name(name: str) -> bool:
    """Whether a file of this name is an image that can be read; neither hidden files nor masks set aside are."""
    return name.lower().endswith(image_suffixes()) and name[0] != "." and not is_stale(name)


def is_mask_name(name: str) -> bool:
    """Whether a mask can be written to a file of this name."""
    return name.endswith(mask_suffixes())


def is_stale(name: str) -> bool:
    """Whether a file's name is that of a mask that was set aside, which is an input of nothing."""
    if STALE not in name.lower():  # as of almost all
        return False
    stem = strip_suffix(name)
    return stem != name and stem.lower().endswith(STALE)


def strip_suffix(name: str) -> str:
    """Return the name of an image's or a mask's file without .nii, .nii.gz or the suffix of another format."""
    if name.endswith(MASK_SUFFIX):  # as of almost all; no suffix is longer that ends so
        return name.removesuffix(MASK_SUFFIX)
    lower, length = name.lower(), 0
    for suffix in (*image_suffixes(), *mask_suffixes()):
        if len(suffix) > length and lower.endswith(suffix):
            length = len(suffix)
    return name[:-length] if length else name


def split_channel(name: str) -> tuple[str, int | None]:
    """Return the case and the channel that a file's name says; None where it ends in no number of four digits."""
    stem = strip_suffix(name)
    match = _NUMBERED.fullmatch(stem)
    return (match["case"], int(match["channel"])) if match else (stem, None)


def case_name(path: Path) -> str:
    """Return what a case is called whose channel 0 is this file, as it is shown everywhere; see `visible`."""
    case, channel = split_channel(path.name)
    return visible(strip_suffix(path.name) if channel else case)


def find_image(folder: Path, case: str) -> Path | None:
    """Return the file of a case's channel 0 in a folder, None where there is none."""
    names = (f"{case}{number}{suffix}" for suffix in image_suffixes() for number in ("_0000", ""))
    return next((folder / name for name in names if (folder / name).is_file()), None)
