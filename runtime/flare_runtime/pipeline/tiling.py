"""nnU-Net's sliding window: where the tiles lie, how they are weighted, and their weighted mean."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from flare_runtime.compute.arrays import FloatArray, Shape3
from flare_runtime.compute.box import Box
from flare_runtime.compute.device import HOST, Device

PEAK_WEIGHT = 10.0


def tile_starts(size: int, tile: int, step: float) -> list[int]:
    """Return where tiles of length `tile` start along an axis of `size` >= `tile` voxels.

    `step` is the largest distance between neighbours as a share of the tile; positions round half to even. Tiles of one
    voxel start at every voxel once: more than one at a place would all have the same scores.
    """
    if tile == 1:
        return list(range(size))
    count = int(np.ceil((size - tile) / (tile * step))) + 1
    distance = (size - tile) / max(count - 1, 1)
    return [int(np.round(distance * i)) for i in range(count)]


def gaussian_profile(tile: int) -> npt.NDArray[np.float64]:
    """Return the weight along one axis of a tile: a Gaussian of sigma tile / 8 about tile // 2, with maximum 1."""
    sigma = tile / 8
    offsets = np.arange(tile) - tile // 2
    # `scipy.ndimage.gaussian_filter` cuts its kernel off at four sigma.
    profile = np.where(np.abs(offsets) <= int(4 * sigma + 0.5), np.exp(-0.5 * (offsets / sigma) ** 2), 0.0)
    return np.asarray(profile / profile.max())


def padded_shape(shape: Shape3, patch: Shape3) -> Shape3:
    """Return `shape` grown to at least `patch` along every axis."""
    z, y, x = (max(n, p) for n, p in zip(shape, patch, strict=True))
    return z, y, x


@dataclass(frozen=True)
class TileGrid:
    """The tiles that cover an image: the product of the starts along each axis."""

    patch: Shape3
    starts: tuple[list[int], list[int], list[int]]

    @classmethod
    def covering(cls, shape: Shape3, patch: Shape3, step: float, region: Box | None = None) -> "TileGrid":
        """Lay tiles of `patch` over an image of `shape`, or a region of it, at least as large along every axis."""
        z, y, x = (
            [side.start + start for start in tile_starts(side.stop - side.start, p, step)]
            for side, p in zip(region or Box.whole(shape), patch, strict=True)
        )
        return cls(patch, (z, y, x))

    def __len__(self) -> int:
        return len(self.starts[0]) * len(self.starts[1]) * len(self.starts[2])

    def __iter__(self) -> Iterator[Box]:
        tile = Box.whole(self.patch)
        return map(tile.shifted, product(*self.starts))


class Blend:
    """The Gaussian-weighted mean of overlapping tiles, in float32.

    Tile starts and weights are both products over the axes, so the sum of the weights is one too: three vectors
    take the place of an array as large as the image.
    """

    def __init__(self, channels: int, shape: Shape3, grid: TileGrid, device: Device = HOST) -> None:
        self._device = device
        self._sum: FloatArray = device.xp.zeros((channels, *shape), np.float32)
        profiles = [gaussian_profile(p) for p in grid.patch]
        z, y, x = profiles
        self._weight = device.upload((PEAK_WEIGHT * z[:, None, None] * y[:, None] * x).astype(np.float32))
        self._totals = [np.zeros(n) for n in shape]
        for total, profile, starts in zip(self._totals, profiles, grid.starts, strict=True):
            for start in starts:
                total[start : start + len(profile)] += profile
            total[total == 0] = 1  # where there are no tiles the sums are 0 and stay so

    def add(self, box: Box, scores: FloatArray) -> None:
        """Add one tile's `scores` (channels, z, y, x), which are overwritten."""
        scores *= self._weight
        part = box.cut(self._sum)
        part += scores

    def mean(self) -> FloatArray:
        """Return the weighted mean (channels, z, y, x); the sums are consumed."""
        z, y, x = self._totals
        in_plane = self._device.upload((y[:, None] * x).astype(np.float32))
        for index, total in enumerate(z):
            self._sum[:, index] /= in_plane * np.float32(PEAK_WEIGHT * total)
        return self._sum
