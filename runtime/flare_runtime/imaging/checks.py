"""What is looked at in every image, of whatever modality and from wherever: its intensities and its slices."""

from dataclasses import replace

import numpy as np

from flare_runtime.compute.arrays import AnyArray
from flare_runtime.errors import CaseError
from flare_runtime.imaging.plausibility import USUAL, Plausibility
from flare_runtime.imaging.volume import Remark, Volume, slabs

_FLOAT32_MAX = float(np.finfo(np.float32).max)
# An image of fewer intensities, though its voxels have more, was ruined by its header.
_MIN_LEVELS = 100
_SLAB = 8
_FEW_SLICES = 3


def check_volume(volume: Volume, plausible: Plausibility = USUAL) -> Volume:
    """Return the volume with the number of its voxels that are NaN or infinite, and remarks on what is odd.

    Raises:
        CaseError: `bad_spacing` or `sheared` where the grid is not `plausible`.
        CaseError: `nonfinite` where slope and intercept make voxels infinite; `bad_scaling` where they leave hardly a
            difference of the voxels.
    """
    remarks = [*volume.remarks, *plausible.check(volume.geometry)]
    count, low, high = _survey(volume)
    if (volume.slope, volume.intercept) != (1.0, 0.0) and low <= high:
        _check_scaling(volume, low, high)
    if volume.shape[0] < _FEW_SLICES:
        remarks.append(Remark("few_slices", f"the volume has only {volume.shape[0]} slice(s)"))
    return replace(volume, nonfinite=count, remarks=tuple(remarks))


def _survey(volume: Volume) -> tuple[int, float, float]:
    """Return how many voxels no finite float32 intensity can be made of, and the lowest and highest of the others."""
    voxels = volume.voxels
    if voxels.dtype.kind != "f":
        return 0, float(voxels.min()), float(voxels.max())
    count, low, high = 0, np.inf, -np.inf
    with np.errstate(over="ignore", invalid="ignore"):
        for part in slabs(len(voxels), _SLAB):
            good = _finite(voxels[part], volume.slope, volume.intercept)
            bad = good.size - int(np.count_nonzero(good))
            count += bad
            values = voxels[part][good] if bad else voxels[part]
            if values.size:
                low, high = min(low, float(values.min())), max(high, float(values.max()))
    return count, low, high


def _finite(voxels: AnyArray, slope: float, intercept: float) -> AnyArray:
    scaled = voxels if (slope, intercept) == (1.0, 0.0) else voxels * np.float64(slope) + intercept
    return np.asarray(np.abs(scaled) <= _FLOAT32_MAX)


def _check_scaling(volume: Volume, low: float, high: float) -> None:
    """Refuse a slope and an intercept that make intensities infinite, or nearly all the same in single precision."""
    first, last = volume.slope * low + volume.intercept, volume.slope * high + volume.intercept
    largest = max(abs(first), abs(last))
    scaling = f"the slope {volume.slope:g} and the intercept {volume.intercept:g}"
    if not largest <= _FLOAT32_MAX:
        raise CaseError("nonfinite", f"{scaling} make voxels of {low:g} to {high:g} infinite; mend the header")
    levels = _MIN_LEVELS if volume.voxels.dtype.kind == "f" else min(high - low, _MIN_LEVELS)
    if low != high and abs(last - first) < levels * float(np.spacing(np.float32(largest))):
        raise CaseError(
            "bad_scaling", f"{scaling} leave hardly a difference of voxels of {low:g} to {high:g}; mend the header"
        )
