"""Spline interpolation along one axis, as a matrix that is held in bands.

A spline through voxels is a sum of B-splines whose coefficients come of a recursive filter. A voxel's influence falls
off by a constant factor from one voxel to the next, so that a row of the matrix has some forty weights at most,
however long the axis. The matrices are those of `skimage.transform.resize(mode="edge", anti_aliasing=False)`, of
`scipy.ndimage.zoom(grid_mode=True, mode="nearest")` and of `map_coordinates` at the same centres.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import sqrt
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from flare_runtime.compute.arrays import FloatArray
from flare_runtime.imaging.volume import slabs

FloatArray64: TypeAlias = npt.NDArray[np.float64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]

# So many rows are held, and multiplied at a time on the host, by the columns that they need.
BAND = 64
# So many voxels off, no filter's weight is above 1e-11.
_REACH = 32
_NEGLIGIBLE = 1e-9
# Of the filters that turn samples into a B-spline's coefficients, by its order: the factors of the decay, with sign.
_POLES: dict[int, tuple[float, ...]] = {
    2: (sqrt(8) - 3,),
    3: (-1 / (2 + sqrt(3)),),
    4: (sqrt(664 - sqrt(438976)) + sqrt(304) - 19, sqrt(664 + sqrt(438976)) - sqrt(304) - 19),
    5: (sqrt(67.5 - sqrt(4436.25)) + sqrt(26.25) - 6.5, sqrt(67.5 + sqrt(4436.25)) - sqrt(26.25) - 6.5),
}


@dataclass(frozen=True, eq=False)
class Band:
    """Some rows of a matrix, and the columns from the first to the last that is not 0 in them.

    Attributes:
        rows: of the matrix.
        columns: of the matrix.
        weights: float32 (rows, columns).
    """

    rows: slice
    columns: slice
    weights: FloatArray


@dataclass(frozen=True, eq=False)
class BandedMatrix:
    """A float32 matrix of `new` rows and `old` columns, as bands of `BAND` rows from the first to the last."""

    new: int
    old: int
    bands: tuple[Band, ...]

    @property
    def has_negative(self) -> bool:
        """Whether any weight is below 0."""
        return any(bool((band.weights < 0).any()) for band in self.bands)

    def part(self, rows: slice) -> Band:
        """Return any consecutive rows as one band."""
        bands = [band for band in self.bands if band.rows.start < rows.stop and rows.start < band.rows.stop]
        first = min(band.columns.start for band in bands)
        last = max(band.columns.stop for band in bands)
        weights = np.zeros((rows.stop - rows.start, last - first), np.float32)
        for band in bands:
            start, stop = max(band.rows.start, rows.start), min(band.rows.stop, rows.stop)
            columns = slice(band.columns.start - first, band.columns.stop - first)
            weights[start - rows.start : stop - rows.start, columns] = band.weights[
                start - band.rows.start : stop - band.rows.start
            ]
        return _trimmed(rows, first, weights)

    def reaching(self, rows: slice, used: BoolArray) -> Band | None:
        """Return those of `rows`, from the first to the last, that have weight where `used` (old) is True, if any."""
        part = self.part(rows)
        hit = np.flatnonzero((part.weights != 0) @ used[part.columns]) + rows.start
        return self.part(slice(int(hit[0]), int(hit[-1]) + 1)) if len(hit) else None


def band_bytes(old: int, new: int, rows: int) -> int:
    """Return what a matrix takes at most in bands of `rows` rows."""
    columns = -(-min(rows, new) * old // new) + 2 * _REACH + max(_POLES)
    return new * min(old, columns) * 4


@lru_cache(maxsize=8)
def resize_matrix(old: int, new: int, order: int) -> BandedMatrix:
    """Return the matrix that interpolates at the new voxels' centres with a spline and edge padding.

    Args:
        old: number of voxels given.
        new: number of voxels wanted.
        order: of the spline, 0 to 5; 0 selects the nearest voxel, 1 is linear, 3 cubic.
    """
    return BandedMatrix(new, old, tuple(_band(old, new, order, rows) for rows in slabs(new, BAND)))


def _band(old: int, new: int, order: int, rows: slice) -> Band:
    centres = old / new * (np.arange(rows.start, rows.stop) + 0.5) - 0.5
    if order % 2 == 0:
        centres += 0.5
    below = np.floor(centres).astype(int)
    # Each of the B-splines that are not 0 at a centre, times what its coefficient takes of the voxels around.
    basis, influence = _basis(order, centres - below), _influence(order)
    weights = np.zeros((len(centres), order + len(influence)))
    for tap in range(order + 1):
        weights[:, tap : tap + len(influence)] += basis[:, tap, None] * influence
    first = below - order // 2 - len(influence) // 2
    columns = np.clip(first[:, None] + np.arange(weights.shape[1]), 0, old - 1)  # beyond an edge counts at it
    start = int(columns.min())
    exact = np.zeros((len(centres), int(columns.max()) + 1 - start))
    np.add.at(exact, (np.arange(len(centres))[:, None], columns - start), weights)
    # A spline's weights fall off without end. Beside the sum of the others these change no digit of float32, and the
    # least of them are numbers that Intel's CPUs multiply twenty times slower.
    exact[np.abs(exact) < _NEGLIGIBLE] = 0
    return _trimmed(rows, start, exact)


def _basis(order: int, share: FloatArray64) -> FloatArray64:
    """Return (n, order + 1) the B-splines that are not 0 at `share` (n) of the way between knots, by de Boor."""
    values = np.ones((len(share), 1))
    for degree in range(1, order + 1):
        lower = np.zeros((len(share), degree + 2))
        lower[:, 1:-1] = values
        k = np.arange(degree + 1)
        rising, falling = (share[:, None] + (degree - k)) / degree, (1 + k - share[:, None]) / degree
        values = lower[:, :-1] * rising + lower[:, 1:] * falling
    return values


def _influence(order: int) -> FloatArray64:
    """Return how much a coefficient takes of the voxels around it, the middle one being its own."""
    distance = np.abs(np.arange(-_REACH, _REACH + 1))
    influence = np.ones(1)
    for pole in _POLES.get(order, ()):
        influence = np.convolve(influence, (1 - pole) / (1 + pole) * pole**distance)
    return influence


def _trimmed(rows: slice, first: int, weights: npt.NDArray[np.floating]) -> Band:
    """Return `weights`, whose columns are those from `first` on, without the outer columns that are 0."""
    used = np.flatnonzero(weights.any(axis=0))
    start, stop = int(used[0]), int(used[-1]) + 1
    kept: FloatArray = np.ascontiguousarray(weights[:, start:stop], np.float32)
    kept.setflags(write=False)
    return Band(rows, slice(first + start, first + stop), kept)
