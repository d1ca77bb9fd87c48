"""Removes components of a mask: all but the largest, as nnU-Net's postprocessing does, and those that are too small."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Literal, TypeAlias

import numpy as np

from flare_runtime.compute.arrays import MaskArray, Vector3
from flare_runtime.model.manifest import Manifest
from flare_runtime.pipeline.components import are_many, components, find_runs, label_image
from flare_runtime.pipeline.crop import mask_box
from flare_runtime.pipeline.interpolation import BoolArray

KeepLargest: TypeAlias = Literal["label", "foreground"]
# In noise: four of a label image, beside the sizes of at most a component for eight voxels, and as much while they are
# counted.
BYTES_A_VOXEL = 8
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Postprocessing:
    """What is removed from a mask, in this order.

    Attributes:
        keep_largest: groups of values; of the voxels with a value of a group only the largest component stays, or
            several where they are equally large.
        values: those whose components are removed where they are smaller than `min_volume_mm3`, each value by itself.
        min_volume_mm3: 0 removes none.
    """

    keep_largest: tuple[tuple[int, ...], ...] = ()
    values: tuple[int, ...] = ()
    min_volume_mm3: float = 0.0

    @classmethod
    def of(cls, manifest: Manifest, keep_largest: KeepLargest | None, min_volume_mm3: float | None) -> "Postprocessing":
        """Return what the model's own postprocessing removes, and then what a person asks for."""
        of_labels = [tuple(value for value in label.values if value) for label in manifest.labels]
        values = tuple(sorted({*manifest.label_names, *(manifest.regions_class_order or ())} - {0}))
        groups = [step.keep_largest for step in manifest.postprocessing]
        groups += {"label": of_labels, "foreground": [values], None: []}[keep_largest]
        return cls(tuple(groups), values, min_volume_mm3 or 0.0)

    def __bool__(self) -> bool:
        """Whether anything may be removed."""
        return bool(self.keep_largest or self.min_volume_mm3)

    def __str__(self) -> str:
        """Return it as records hold it."""
        steps = [f"largest component of {_spelled(group)}" for group in self.keep_largest]
        steps += [f"components of at least {self.min_volume_mm3:g} mm3"] if self.min_volume_mm3 else []
        return "; ".join(steps) or "none"

    def apply(self, mask: MaskArray, spacing_mm: Vector3) -> None:
        """Set to 0 what is to be removed from a mask (z, y, x)."""
        box = mask_box(mask) if self else None
        if box is None:
            return
        for group in self.keep_largest:
            _remove(mask[box], group, None)
        if self.min_volume_mm3:
            least = self.min_volume_mm3 / prod(spacing_mm) * (1 - _ROUNDING)
            for value in self.values:
                _remove(mask[box], (value,), least)


def _spelled(group: Sequence[int]) -> str:
    first, last = group[0], group[-1]
    if len(group) > 2 and list(group) == list(range(first, last + 1)):
        return f"{first} to {last}"
    return ", ".join(map(str, group))


def _remove(mask: MaskArray, values: Sequence[int], least_voxels: float | None) -> None:
    """Remove the components of fewer voxels than `least_voxels`, or than the largest has."""
    foreground = _having(mask, values)
    box = mask_box(foreground)
    if box is None:
        return
    small = _small_by_voxels if _has_many_runs(foreground[box]) else _small_by_runs
    for plane, removed in zip(mask[box], small(foreground[box], least_voxels), strict=True):
        plane[removed] = 0


def _having(mask: MaskArray, values: Sequence[int]) -> BoolArray:
    foreground = np.empty(mask.shape, bool)
    if len(values) == 1:
        return np.equal(mask, values[0], out=foreground)
    among = np.zeros(256, bool)
    among[list(values)] = True
    for plane, out in zip(mask, foreground, strict=True):  # NumPy makes eight bytes of each index
        out[...] = among[plane]
    return foreground


def _has_many_runs(foreground: BoolArray) -> bool:
    inner = sum(np.count_nonzero(plane[:, 1:] > plane[:, :-1]) for plane in foreground)
    return are_many(int(inner + np.count_nonzero(foreground[..., 0])), foreground)


def _small_by_runs(foreground: BoolArray, least_voxels: float | None) -> Iterator[BoolArray]:
    """Yield for each plane which voxels are in components that are too small."""
    depth, height, width = foreground.shape
    runs = find_runs(foreground)
    component, voxels = components(runs, foreground)
    small = (voxels < (voxels.max() if least_voxels is None else least_voxels))[component]
    y, start, stop = (column[small] for column in (runs.y, runs.start, runs.stop))
    planes = np.searchsorted(runs.z[small], np.arange(depth + 1))
    for first, last in pairwise(planes):
        edges = np.zeros((height, width + 1), np.int8)
        edges[y[first:last], start[first:last]] = 1
        edges[y[first:last], stop[first:last]] = -1  # runs do not touch each other
        yield edges.cumsum(axis=1, dtype=np.int8)[:, :-1] > 0


def _small_by_voxels(foreground: BoolArray, least_voxels: float | None) -> Iterator[BoolArray]:
    """Do the same as `_small_by_runs` in bounded memory and time, whatever the mask."""
    labels, count = label_image(foreground)
    voxels = np.zeros(count + 1, np.int64)
    planes = max(1, count // labels[0].size)  # so that counting costs as much for a component as for a voxel
    for start in range(0, len(labels), planes):
        voxels += np.bincount(labels[start : start + planes].ravel(), minlength=count + 1)
    voxels[0] = 0
    small = voxels < (voxels.max() if least_voxels is None else least_voxels)
    small[0] = False
    for plane in labels:
        yield small[plane]
