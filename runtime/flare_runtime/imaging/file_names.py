"""How the files of images and masks are named."""

from pathlib import Path

from flare_runtime.imaging.nifti import SUFFIXES

# Ends the stem of a mask of an earlier run that was set aside.
STALE = ".stale"
_STALE_SUFFIXES = tuple(STALE + suffix for suffix in SUFFIXES)


def is_stale(path: Path) -> bool:
    """Whether a NIfTI file's name is that of a mask that was set aside, which is an input of nothing."""
    return path.name.lower().endswith(_STALE_SUFFIXES)


def strip_suffix(name: str) -> str:
    """Return a NIfTI file's name without .nii or .nii.gz."""
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name
