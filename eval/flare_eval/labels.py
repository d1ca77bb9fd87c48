"""Label images: what values their voxels hold."""

from pathlib import Path

import numpy as np

from flare_runtime.compute.arrays import AnyArray, MaskArray
from flare_runtime.errors import CaseError
from flare_runtime.imaging.plausibility import ANY_SPACING
from flare_runtime.imaging.read import read_volume
from flare_runtime.imaging.volume import Volume


def label_values(volume: Volume) -> AnyArray:
    """Return the values (z, y, x) of a label image, in the type it is stored in where that holds whole numbers."""
    if (volume.slope, volume.intercept) != (1.0, 0.0) or volume.voxels.dtype.kind == "f":
        return volume.intensities(volume.voxels)
    return volume.voxels


def read_labels(path: Path) -> tuple[Volume, MaskArray]:
    """Read a label image, whose values must be whole numbers from 0 to 255; return it and them, uint8 (z, y, x).

    Raises:
        CaseError: as `read_volume`, or `not_labels`.
    """
    volume = read_volume(path, plausible=ANY_SPACING)
    try:
        return volume, whole_labels(label_values(volume))
    except CaseError as error:
        raise CaseError(error.reason, f"{path.name}: {error}") from error


def whole_labels(values: AnyArray) -> MaskArray:
    """Return values as uint8, which must be whole numbers from 0 to 255 in single precision.

    Raises:
        CaseError: `not_labels`.
    """
    if values.dtype.kind == "f":
        values = values.astype(np.float32, copy=False)
    with np.errstate(invalid="ignore"):  # what is NaN is no label, which is found next
        labels = values.astype(np.uint8)
    if not np.array_equal(labels, values):
        raise CaseError("not_labels", "holds values that are not whole numbers from 0 to 255")
    return labels
