"""How often each label of a reference meets each label of a prediction; Dice and IoU of all classes follow from it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from flare_runtime.compute.arrays import MaskArray
from flare_runtime.imaging.volume import slabs

_VALUES = 256
_SLAB = 8


class Counts(NamedTuple):
    """Voxels of a class in both masks, in the prediction alone, in the reference alone and in neither."""

    tp: int
    fp: int
    fn: int
    tn: int


def confusion(reference: MaskArray, prediction: MaskArray) -> npt.NDArray[np.int64]:
    """Return (256, 256) numbers of voxels by the labels of two images (z, y, x) of one shape, in one pass of slabs."""
    table = np.zeros(_VALUES * _VALUES, np.int64)
    for part in slabs(len(reference), _SLAB):
        truth, mask = reference[part].ravel(), prediction[part].ravel()
        used = np.flatnonzero(truth | mask)  # most voxels are background in both
        table += np.bincount(truth[used].astype(np.uint16) * _VALUES + mask[used], minlength=len(table))
    table[0] = reference.size - table.sum()
    return table.reshape(_VALUES, _VALUES)


def class_counts(table: npt.NDArray[np.int64], values: Sequence[int], ignore: int | None) -> Counts:
    """Return the counts of the class that these labels belong to, without the voxels that the reference ignores."""
    inside = np.zeros(_VALUES, bool)
    inside[list(values)] = True
    counted = np.ones(_VALUES, bool)
    if ignore is not None:
        counted[ignore] = False
    here, there = inside & counted, ~inside & counted
    tp, fn = table[here][:, inside].sum(), table[here][:, ~inside].sum()
    fp, tn = table[there][:, inside].sum(), table[there][:, ~inside].sum()
    return Counts(int(tp), int(fp), int(fn), int(tn))
