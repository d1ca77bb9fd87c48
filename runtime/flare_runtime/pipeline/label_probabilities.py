"""The probability of each voxel's label, summed along rows, of which the mean over a lesion can be made.

A row is a run of voxels of one label along the last axis. All of it lies in one component, so that the place of its
first voxel says in which.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from flare_runtime.compute.arrays import AnyArray, MaskArray, Shape3
from flare_runtime.pipeline.components import IntArray


@dataclass(frozen=True, eq=False)
class RowSums:
    """The rows of a mask, in any order.

    Attributes:
        places: index of the first voxel of each, one array (n,) for each axis z, y, x.
        sums: of the probabilities of the label along each, (n,).
    """

    places: tuple[IntArray, IntArray, IntArray]
    sums: npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RowCollector:
    """Gathers the rows of a mask from its blocks; a row may end where a block does.

    Attributes:
        shape: of the mask, (z, y, x).
    """

    shape: Shape3
    _firsts: list[IntArray] = field(default_factory=list)  # counted through the mask, and single floats: noise has many
    _sums: list[npt.NDArray[np.float32]] = field(default_factory=list)

    def add(self, labels: MaskArray, inside: IntArray, probabilities: AnyArray, corner: Sequence[int]) -> None:
        """Take the rows of a block.

        Args:
            labels: of the block (z, y, x).
            inside: which of its voxels, counted through, have a label that is not 0, (n,); at least one.
            probabilities: of the labels there, in half precision, (n,).
            corner: where in the mask the block begins.
        """
        values = labels.reshape(-1)[inside]
        new = (np.diff(inside, prepend=-2) != 1) | (np.diff(values, prepend=0) != 0)
        begins = np.flatnonzero(new | (inside % labels.shape[2] == 0))
        index = np.unravel_index(inside[begins], labels.shape)
        places = [along + start for along, start in zip(index, corner, strict=True)]
        self._firsts.append(np.ravel_multi_index(places, self.shape))
        self._sums.append(np.add.reduceat(probabilities, begins, dtype=np.float64).astype(np.float32))

    def rows(self) -> RowSums:
        """Return the rows of all blocks."""
        firsts = np.concatenate([np.empty(0, np.int64), *self._firsts])
        z, y, x = np.unravel_index(firsts, self.shape)
        return RowSums((z, y, x), np.concatenate([np.empty(0), *self._sums]))
