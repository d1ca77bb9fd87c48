"""nnU-Net's intensity normalisation schemes, each fitted once and then applied slab by slab in place."""

from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from flare_runtime.compute.arrays import FloatArray
from flare_runtime.compute.box import Box
from flare_runtime.compute.device import HOST, Device
from flare_runtime.errors import CaseError
from flare_runtime.imaging.volume import Volume, slabs
from flare_runtime.model.manifest import CTScheme, NoScheme, Rescale01Scheme, RGB01Scheme, Scheme, ZScoreScheme

AIR_HU = -1024.0
_EPSILON = 1e-8
_SLAB = 8

BoolArray: TypeAlias = npt.NDArray[np.bool_]
# Normalises a float32 piece of the cropped image in place, given where in it the piece lies.
Normaliser: TypeAlias = Callable[[FloatArray, Box], None]


def fit(scheme: Scheme, volume: Volume, inside: BoolArray | None, device: Device = HOST) -> Normaliser:
    """Return the normaliser of one channel.

    Args:
        scheme: what the manifest says of the channel.
        volume: the cropped channel, (z, y, x).
        inside: True where the image is not outside of the body, needed by z-score schemes with `masked` alone.
        device: where the pieces to normalise are; `volume` and `inside` are on the host.

    Raises:
        CaseError: `not_rgb` where an image for the 0..255 scheme leaves that range.
    """
    if isinstance(scheme, CTScheme):
        return _affine(scheme.mean, max(scheme.std, _EPSILON), (scheme.lower, scheme.upper))
    if isinstance(scheme, NoScheme):
        return lambda _piece, _where: None
    if isinstance(scheme, ZScoreScheme):
        mean, std = _mean_and_std(volume, inside if scheme.masked else None)
        apply = _affine(mean, max(std, _EPSILON), None)
        return _masked(apply, inside, device) if scheme.masked and inside is not None else apply
    low, high = intensity_range(volume)
    if isinstance(scheme, Rescale01Scheme):
        return _affine(low, max(high - low, _EPSILON), None)
    if isinstance(scheme, RGB01Scheme):
        if low < 0 or high > 255:
            raise CaseError("not_rgb", f"intensities span {low:g} to {high:g}; this model takes 0 to 255")
        return _affine(0.0, 255.0, None)
    raise AssertionError(scheme)


def _affine(mean: float, std: float, limits: tuple[float, float] | None) -> Normaliser:
    def apply(piece: FloatArray, _where: Box) -> None:
        if limits is not None:
            piece.clip(*limits, out=piece)
        piece -= np.float32(mean)
        piece /= np.float32(std)

    return apply


def _masked(apply: Normaliser, inside: BoolArray, device: Device) -> Normaliser:
    def apply_inside(piece: FloatArray, where: Box) -> None:
        outside = device.upload(~inside[where])
        kept = piece[outside]
        apply(piece, where)
        piece[outside] = kept

    return apply_inside


def _pieces(volume: Volume, inside: BoolArray | None) -> Iterator[FloatArray]:
    for part in slabs(volume.shape[0], _SLAB):
        piece = volume.intensities(volume.voxels[part])
        yield piece if inside is None else piece[inside[part]]


def _mean_and_std(volume: Volume, inside: BoolArray | None) -> tuple[float, float]:
    count, total = 0, 0.0
    for piece in _pieces(volume, inside):
        count += piece.size
        total += float(piece.sum(dtype=np.float64))
    mean = total / count
    squares = sum(
        float(np.square(piece - np.float32(mean), dtype=np.float64).sum()) for piece in _pieces(volume, inside)
    )
    return mean, float(np.sqrt(squares / count))


def intensity_range(volume: Volume) -> tuple[float, float]:
    """Return the lowest and the highest intensity of a volume."""
    ranges = [(float(piece.min()), float(piece.max())) for piece in _pieces(volume, None)]
    return min(low for low, _ in ranges), max(high for _, high in ranges)
