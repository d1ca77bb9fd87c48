"""The network over a whole image, tile by tile, with or without mirroring."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import combinations
from time import perf_counter

import numpy as np

from flare_runtime.arrays import Box, FloatArray, Shape3
from flare_runtime.backends import Network
from flare_runtime.decoding import Decoder
from flare_runtime.errors import CaseError
from flare_runtime.tiling import Blend, TileGrid

# Wraps the tiles of one case to show progress.
Progress = Callable[[TileGrid], Iterable[Box]]


@dataclass
class Stopwatch:
    """Seconds spent inside the backend."""

    network_s: float = field(default=0.0)


def predict(
    image: FloatArray,
    network: Network,
    decoder: Decoder,
    patch: Shape3,
    *,
    step: float,
    mirror_axes: tuple[int, ...] = (),
    progress: Progress = iter,
    watch: Stopwatch | None = None,
) -> FloatArray:
    """Return the blended scores (channels, z, y, x) of `image` (channels, z, y, x), at least as large as `patch`.

    Args:
        image: normalised, on the network's grid.
        network: takes tiles of `patch`.
        decoder: says what the logits mean.
        patch: (z, y, x).
        step: distance of neighbouring tiles as a share of the patch.
        mirror_axes: every combination of flips along these axes is averaged (0 is z).
        progress: wraps the sequence of tiles.
        watch: is told the seconds spent inside the backend.

    Raises:
        CaseError: `nonfinite_logits` where the network gives NaN or infinity.
    """
    watch = watch or Stopwatch()
    shape = (image.shape[1], image.shape[2], image.shape[3])
    grid = TileGrid.covering(shape, patch, step)
    blend = Blend(decoder.channels, shape, grid)
    for box in progress(grid):
        tile = np.ascontiguousarray(image[(slice(None), *box)])[None]
        started = perf_counter()
        logits = _mirrored(network, tile, mirror_axes)
        watch.network_s += perf_counter() - started
        scores = decoder.scores(logits[0])
        # A sum is finite only where every voxel is, and takes no array of its own.
        if not np.isfinite(scores.sum()):
            raise CaseError("nonfinite_logits", f"the network gave NaN or infinity in {network.precision}; try fp32")
        blend.add(box, scores)
    return blend.mean()


def _mirrored(network: Network, tile: FloatArray, mirror_axes: tuple[int, ...]) -> FloatArray:
    if not mirror_axes:
        return network.run(tile)
    total = network.run(tile).copy()
    flips = list(_flips(mirror_axes))
    for axes in flips:
        total += np.flip(network.run(np.ascontiguousarray(np.flip(tile, axes))), axes)
    total /= len(flips) + 1
    return total


def _flips(mirror_axes: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Yield every non-empty combination of the axes, as axes of a (n, channels, z, y, x) array."""
    for count in range(1, len(mirror_axes) + 1):
        for axes in combinations(mirror_axes, count):
            yield tuple(axis + 2 for axis in axes)
