"""The network over a whole image, tile by tile, with or without mirroring."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import combinations, islice
from math import isfinite
from time import perf_counter

import numpy as np

from flare_runtime.compute.arrays import Box, FloatArray, Shape3
from flare_runtime.compute.device import HOST, Device
from flare_runtime.compute.network import Network
from flare_runtime.errors import BundleError, CaseError
from flare_runtime.pipeline.decoding import Decoder
from flare_runtime.pipeline.tiling import Blend, TileGrid

# A scan of a whole body is a thousand tiles at a step of 0.5.
MAX_TILES = 100_000
# Wraps the tiles of one case to show progress.
Progress = Callable[[TileGrid], Iterable[Box]]


@dataclass
class Stopwatch:
    """What was spent inside the backend.

    Attributes:
        network_s: seconds.
        rescued: tiles that had to be computed again in float32.
    """

    network_s: float = field(default=0.0)
    rescued: int = field(default=0)


def predict(
    image: FloatArray,
    network: Network,
    decoder: Decoder,
    patch: Shape3,
    *,
    step: float,
    region: Box | None = None,
    mirror_axes: tuple[int, ...] = (),
    progress: Progress = iter,
    watch: Stopwatch | None = None,
    device: Device = HOST,
    sums: Device = HOST,
    rescue: Callable[[], Network] | None = None,
) -> FloatArray:
    """Return the blended scores (channels, z, y, x) of `image` (channels, z, y, x), at least as large as `patch`.

    Args:
        image: normalised, on the network's grid; on `device` or on the host.
        network: takes tiles of `patch`.
        decoder: says what the logits mean.
        patch: (z, y, x).
        step: distance of neighbouring tiles as a share of the patch.
        region: to lay tiles over, at least as large as `patch`; elsewhere the scores are 0. All where None.
        mirror_axes: every combination of flips along these axes is averaged (0 is z).
        progress: wraps the sequence of tiles.
        watch: is told the seconds spent inside the backend.
        device: where the network takes its tiles.
        sums: where they are blended: there, or the host.
        rescue: opens a float32 network on the host, for tiles in which `network` gives NaN or infinity.

    Raises:
        CaseError: `nonfinite_logits` where the network gives NaN or infinity, `too_many_tiles` where the image needs
            more than `MAX_TILES`.
        BundleError: where the logits have another shape than the decoder's outputs and the tiles.
    """
    watch = watch or Stopwatch()
    shape = (image.shape[1], image.shape[2], image.shape[3])
    grid = TileGrid.covering(shape, patch, step, region)
    if len(grid) > MAX_TILES:
        raise CaseError(
            "too_many_tiles",
            f"{len(grid):,} tiles are needed, {MAX_TILES:,} are allowed; raise --step, or use --crop body",
        )
    blend = Blend(decoder.channels, shape, grid, sums)
    uniform = UniformTile()
    boxes = iter(progress(grid))
    while group := list(islice(boxes, network.batch)):
        tiles = device.xp.stack([device.upload(image[(slice(None), *box)]) for box in group])
        value = uniform.value_of(tiles) if device is HOST and len(group) == 1 else None
        if value is not None and (known := uniform.scores_of(value)) is not None:
            blend.add(group[0], known)
            continue
        started = perf_counter()
        logits = _mirrored(network, tiles, decoder.outputs, mirror_axes, device)
        device.synchronize()
        watch.network_s += perf_counter() - started
        for index, box in enumerate(group):
            scores = decoder.scores(logits[index])
            if _are_finite(scores):
                if value is not None:
                    uniform.keep(value, scores)
                blend.add(box, scores if sums is device else device.download(scores))
                continue
            tile = device.download(tiles[index : index + 1])
            blend.add(box, sums.upload(_rescued(tile, network, decoder, mirror_axes, rescue)))
            watch.rescued += 1
    return blend.mean()


def _are_finite(scores: FloatArray) -> bool:
    # A sum is finite only where every voxel is, and takes no array of its own.
    with np.errstate(over="ignore", invalid="ignore"):
        return isfinite(float(scores.sum()))


class UniformTile:
    """What the network made of the last tile in which nothing is, such as clipped air, for others that equal it."""

    def __init__(self) -> None:
        self._kept: tuple[bytes, FloatArray] | None = None

    def value_of(self, tile: FloatArray) -> bytes | None:
        """Return what every voxel of a tile (1, channels, z, y, x) is, channel by channel; None where they differ."""
        first = tile[:, :, :1, :1, :1]
        # Tissue shows in few voxels; only where it does not are all compared.
        for voxels in (tile[..., ::16, ::16, ::16], tile):
            if (voxels != first).any():
                return None
        return first.tobytes()

    def scores_of(self, value: bytes) -> FloatArray | None:
        """Return a copy of the scores of a tile of that value, if it was the last one kept."""
        return self._kept[1].copy() if self._kept and self._kept[0] == value else None

    def keep(self, value: bytes, scores: FloatArray) -> None:
        """Keep a copy of a tile's scores."""
        self._kept = value, scores.copy()


def _rescued(
    tile: FloatArray,
    network: Network,
    decoder: Decoder,
    mirror_axes: tuple[int, ...],
    rescue: Callable[[], Network] | None,
) -> FloatArray:
    """Return the scores of a tile (1, channels, z, y, x) in float32, on the host."""
    scores = decoder.scores(_mirrored(rescue(), tile, decoder.outputs, mirror_axes, HOST)[0]) if rescue else None
    if scores is None or not _are_finite(scores):
        again = ", and in float32 as well" if rescue else ""
        raise CaseError("nonfinite_logits", f"the network gave NaN or infinity in {network.precision}{again}")
    return scores


def _mirrored(
    network: Network, tiles: FloatArray, outputs: int, mirror_axes: tuple[int, ...], device: Device
) -> FloatArray:
    logits = network.run(tiles)
    if logits.shape != (expected := (len(tiles), outputs, *tiles.shape[2:])):
        raise BundleError(f"the network gives logits of the shape {logits.shape}, and {expected} was promised")
    if not mirror_axes:
        return logits
    xp = device.xp
    total = logits.copy()
    flips = list(_flips(mirror_axes))
    for axes in flips:
        total += xp.flip(network.run(xp.ascontiguousarray(xp.flip(tiles, axes))), axes)
    total /= len(flips) + 1
    return total


def _flips(mirror_axes: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Yield every non-empty combination of the axes, as axes of a (n, channels, z, y, x) array."""
    for count in range(1, len(mirror_axes) + 1):
        for axes in combinations(mirror_axes, count):
            yield tuple(axis + 2 for axis in axes)
