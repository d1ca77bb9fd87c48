"""Whether an image's intensities can be Hounsfield units: air at -1000, fat at -100, water at 0, tissue up to 300."""

import math

import numpy as np

from flare_runtime.compute.arrays import FloatArray
from flare_runtime.errors import CaseError
from flare_runtime.imaging.volume import Remark, Volume
from flare_runtime.pipeline.normalisation import intensity_range

# Enough to tell shares of a per mille; 512 x 512 x 300 voxels are sorted in milliseconds.
_SAMPLE_VOXELS = 200_000
# Fewer voxels say nothing about the rest of a scan.
_MIN_VOXELS = 1000

# Images normalised for a network span a few units; no scan lies this close to water.
_NARROW_HU = 20.0
# Below the noise of air, where a scan holds at most padding, which is one value.
_BELOW_AIR_HU, _MAX_BELOW_AIR = -1300.0, 0.05
# Contrast, bone and metal are less than half of a body.
_TISSUE_TOP_HU, _MAX_DENSE = 300.0, 0.5
# Air, lung and gas; a crop of tissue may have none.
_AIR_TOP_HU, _MIN_AIR = -300.0, 0.05
# Fat, and the noise of water. The inside of one organ may have nothing below; then its range is narrow, and few voxels
# lie in the lowest tenth of it.
_NEGATIVE_HU, _MIN_NEGATIVE, _ORGAN_RANGE_HU, _MAX_BACKGROUND = -20.0, 0.001, 200.0, 0.05
# Where soft tissue lies in a scan whose air is 0, and what lies between the two there: less than bone of 300 to 800.
_SHIFTED_HU, _BETWEEN_HU, _MIN_SHIFTED = (850.0, 1150.0), (300.0, 800.0), 0.005
# A padding is one value that many voxels have, and nearly none has one a little above.
_PADDING_SHARE, _PADDING_GAP_HU, _PADDING_EDGE = 0.005, 300.0, 0.1
# Padding may itself be air, around a body or an organ that was cut out.
_AIR_HU = (-1100.0, -900.0)


def check_hounsfield(volume: Volume, name: str, *, any_intensity: bool = False) -> tuple[Remark, ...]:
    """Refuse an image that cannot be in Hounsfield units, or remark upon it where any intensity is allowed.

    Args:
        volume: one channel, (z, y, x).
        name: the channel's, for the message.
        any_intensity: go on whatever is found.

    Raises:
        CaseError: `not_hounsfield`, with what was found; `not_ct` where the image says that it is none.
    """
    if volume.modality not in (None, "CT"):
        raise CaseError("not_ct", f"the image is of the modality {volume.modality}, and the model takes {name} as CT")
    oddity = _oddity(_ordered_sample(volume.with_background(np.nan)))
    if oddity is None:
        return ()
    low, high = intensity_range(volume)
    text = f"{name} is not in Hounsfield units: {oddity} (lowest {low:.4g}, highest {high:.4g})"
    if any_intensity:
        return (Remark("not_hounsfield", text),)
    raise CaseError("not_hounsfield", f"{text}; convert the image, or go on all the same with --any-intensity")


def _ordered_sample(volume: Volume) -> FloatArray:
    """Return the intensities of evenly spaced voxels, in ascending order."""
    strides, counts = [1, 1, 1], list(volume.shape)
    while math.prod(counts) > _SAMPLE_VOXELS:
        axis = counts.index(max(counts))
        strides[axis] *= 2
        counts[axis] = math.ceil(volume.shape[axis] / strides[axis])
    z, y, x = strides
    values = volume.intensities(volume.voxels[::z, ::y, ::x]).ravel()
    return np.sort(values[np.isfinite(values)])


def _oddity(values: FloatArray) -> str | None:
    """Return what about these intensities, in ascending order, no CT has; None where there is nothing."""
    if len(values) < _MIN_VOXELS:
        return None
    below = values[: np.searchsorted(values, _BELOW_AIR_HU)]
    # Rounded: padding that was resampled differs in the last digits.
    _, counts = np.unique(np.round(below), return_counts=True)
    varied = counts[counts < 0.01 * len(values)].sum() / len(values)
    if varied > _MAX_BELOW_AIR or len(below) == len(values):
        return f"{len(below) / len(values):.0%} of the voxels lie below {_BELOW_AIR_HU:g}, and air is -1000"
    scan = values[len(below) :]
    inner = _without_padding(scan)
    low, high = _ends(inner)
    if max(abs(low), abs(high)) < _NARROW_HU:
        if (scan == np.round(scan)).all():
            return f"it looks like a mask: nearly all voxels are whole numbers within {_NARROW_HU:g} of 0"
        return f"nearly all voxels lie within {_NARROW_HU:g} of 0"
    dense = _share(inner, _TISSUE_TOP_HU, np.inf)
    if dense > _MAX_DENSE:
        return f"{dense:.1%} of the voxels lie above {_TISSUE_TOP_HU:g}, as bone and metal do"
    if _share(inner, -np.inf, _AIR_TOP_HU) >= _MIN_AIR:
        return None
    cut_out = len(inner) < len(scan) and _AIR_HU[0] <= scan[0] <= _AIR_HU[1]
    return _oddity_without_air(inner, cut_out=cut_out)


def _oddity_without_air(values: FloatArray, *, cut_out: bool) -> str | None:
    """Return what no crop of tissue has; `cut_out` where all around it was set to air, so that nothing else is dark."""
    low, high = _ends(values)
    background = np.searchsorted(values, low + 0.1 * (high - low), "right") > _MAX_BACKGROUND * len(values)
    one_organ = high - low <= _ORGAN_RANGE_HU and not background
    if _share(values, -np.inf, _NEGATIVE_HU) < _MIN_NEGATIVE and not (cut_out or one_organ):
        return f"hardly any voxel lies below {_NEGATIVE_HU:g}, as air and fat do"
    shifted = _share(values, *_SHIFTED_HU)
    if shifted > max(_MIN_SHIFTED, 2 * _share(values, *_BETWEEN_HU)):
        return f"there is no air at -1000, and {shifted:.1%} of the voxels lie about 1000, as where air is 0"
    return None


def _without_padding(values: FloatArray) -> FloatArray:
    """Leave out what lies around the scan, of which there may be two kinds: around its slices, and beyond its ends."""
    for _ in range(2):
        lowest = int(np.searchsorted(values, values[0], "right"))
        near = int(np.searchsorted(values, values[0] + _PADDING_GAP_HU)) - lowest
        if lowest == len(values) or lowest < _PADDING_SHARE * len(values) or near > _PADDING_EDGE * lowest:
            break
        values = values[lowest:]
    return values


def _share(values: FloatArray, low: float, high: float) -> float:
    """Return which share of ascending values lies in [low, high)."""
    start, stop = np.searchsorted(values, (low, high))
    return float(stop - start) / len(values)


def _ends(values: FloatArray) -> tuple[float, float]:
    """Return what one in a thousand of ascending values lies below, and above."""
    few = len(values) // 1000
    return float(values[few]), float(values[-1 - few])
