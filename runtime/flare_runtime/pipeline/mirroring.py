"""nnU-Net's test-time augmentation: the mean of a network's logits over mirror images of its tiles."""

from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

from flare_runtime.compute.arrays import FloatArray


def mirrored_mean(
    run: Callable[[FloatArray], FloatArray], tiles: FloatArray, mirror_axes: tuple[int, ...], xp: Any
) -> FloatArray:
    """Return the mean of the logits over all combinations of flips, the tiles as they are included.

    Args:
        run: gives the logits (n, outputs, z, y, x) of tiles; may overwrite them with the next call's.
        tiles: (n, channels, z, y, x).
        mirror_axes: to flip along (0 is z). Without any, what `run` gives is returned as it is.
        xp: the array module of the tiles.
    """
    if not mirror_axes:
        return run(tiles)
    total = run(tiles).copy()
    flips = list(_flips(mirror_axes))
    for axes in flips:
        total += xp.flip(run(xp.ascontiguousarray(xp.flip(tiles, axes))), axes)
    total /= len(flips) + 1
    return total


def _flips(mirror_axes: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Yield every non-empty combination of the axes, as axes of a (n, channels, z, y, x) array."""
    for count in range(1, len(mirror_axes) + 1):
        for axes in combinations(mirror_axes, count):
            yield tuple(axis + 2 for axis in axes)
