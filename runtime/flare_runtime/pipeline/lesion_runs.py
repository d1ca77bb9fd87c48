"""The voxels of the largest components of a mask, value by value, as runs that are sorted by component."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flare_runtime.compute.arrays import AnyArray, MaskArray
from flare_runtime.imaging.volume import Volume
from flare_runtime.pipeline.components import IntArray, Runs, components, find_runs
from flare_runtime.pipeline.crop import mask_box
from flare_runtime.pipeline.label_probabilities import RowSums

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LesionRuns:
    """Components of a mask, the largest first.

    Attributes:
        values: of the mask in each component, (n,).
        voxels: of each component, (n,).
        runs: of all of them, one component after the other, each in the mask's order.
        first: the first run of each component, and the number of all, (n + 1,).
        totals: value to the number of all its components and voxels, those beyond `most` included.
    """

    values: IntArray
    voxels: IntArray
    runs: Runs
    first: IntArray
    totals: dict[int, tuple[int, int]]

    @classmethod
    def of(cls, mask: MaskArray, most: int | None) -> "LesionRuns":
        """Return the `most` largest components of a mask (z, y, x), all where None."""
        totals = {}
        parts: list[tuple[IntArray, ...]] = []
        sizes: list[tuple[IntArray, ...]] = []
        box = mask_box(mask)
        for value in range(1, int(mask[box].max()) + 1) if box else ():
            foreground = mask[box] == value
            runs = find_runs(foreground)
            if not len(runs.z):
                continue
            ids, voxels = components(runs, foreground)
            totals[value] = len(voxels), int(voxels.sum())
            largest, places = _largest(voxels, most)
            component = places[ids]
            kept = component >= 0
            offset = sum(len(counts) for _, counts in sizes)
            runs, component = (runs, component) if kept.all() else (runs.taken(kept), component[kept])
            parts.append((component + offset, runs.z, runs.y, runs.start, runs.stop))
            sizes.append((np.full(len(largest), value), voxels[largest]))
        if box is None or not parts:
            return cls(_none(), _none(), Runs(_none(), _none(), _none(), _none()), np.zeros(1, np.int64), totals)
        component, z, y, start, stop = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        values, voxels = (np.concatenate(columns) for columns in zip(*sizes, strict=True))
        largest, places = _largest(voxels, most)
        component = places[component]
        order = np.argsort(component, kind="stable")[np.count_nonzero(component < 0) :]
        dz, dy, dx = box.start
        found = Runs(z[order] + dz, y[order] + dy, start[order] + dx, stop[order] + dx)
        first = np.searchsorted(component[order], np.arange(len(largest) + 1))
        return cls(values[largest], voxels[largest], found, first, totals)

    def __len__(self) -> int:
        return len(self.values)

    def of_lesion(self, index: int) -> Runs:
        """Return the runs of one component, in the mask's order."""
        return self.runs.taken(slice(int(self.first[index]), int(self.first[index + 1])))

    def centres(self) -> Doubles:
        """Return the mean voxel index of each component, (n, 3)."""
        lengths = self.runs.stop - self.runs.start
        middles = (self.runs.z, self.runs.y, (self.runs.start + self.runs.stop - 1) / 2)
        sums = [np.add.reduceat(lengths * middle, self.first[:-1]) for middle in middles]
        return np.stack([total / self.voxels for total in sums], axis=1)

    def boxes(self) -> tuple[IntArray, IntArray]:
        """Return the lowest voxel index of each component, (n, 3), and the one behind the highest."""
        low = [np.minimum.reduceat(side, self.first[:-1]) for side in (self.runs.z, self.runs.y, self.runs.start)]
        high = [np.maximum.reduceat(side, self.first[:-1]) for side in (self.runs.z, self.runs.y, self.runs.stop)]
        return np.stack(low, axis=1), np.stack(high, axis=1) + np.array([1, 1, 0])  # runs name the one behind

    def cut_out(self, index: int) -> tuple[IntArray, AnyArray]:
        """Return the lowest voxel index of one component's box, and which voxels of the box belong to it."""
        runs = self.of_lesion(index)
        corner = np.array([runs.z.min(), runs.y.min(), runs.start.min()])
        shape = np.array([runs.z.max() + 1, runs.y.max() + 1, runs.stop.max()]) - corner
        steps = np.zeros(shape + np.array([0, 0, 1]), np.int8)
        z, y = runs.z - corner[0], runs.y - corner[1]
        steps[z, y, runs.start - corner[2]] = 1
        steps[z, y, runs.stop - corner[2]] = -1  # where no other run of the row begins
        return corner, np.cumsum(steps, axis=2, dtype=np.int8)[..., :-1].view(bool)

    def largest_planes(self) -> IntArray:
        """Return the plane z in which each component has most voxels, the lowest of several."""
        new = np.diff(self.runs.z, prepend=-1) != 0
        new[self.first[:-1]] = True
        begins = np.flatnonzero(new)
        areas = np.add.reduceat(self.runs.stop - self.runs.start, begins)
        component = np.searchsorted(self.first, begins, side="right") - 1
        by_area = np.lexsort((-areas, component))
        return self.runs.z[begins[by_area[np.searchsorted(component, np.arange(len(self)))]]]

    def intensities(self, image: Volume, axis: int) -> tuple[Doubles, Doubles]:
        """Return the mean and the standard deviation of each component's intensities.

        Args:
            image: on the grid of the mask, of which z was the `axis`.
            axis: of the image.
        """
        count = len(self)
        sums, squares, shifts = np.zeros(count), np.zeros(count), np.full(count, np.nan)
        for plane, index, component in self._by_plane(np.moveaxis(image.voxels, axis, 0)):
            values = image.intensities(plane.ravel()[index]).astype(np.float64)
            new = np.flatnonzero(np.isnan(shifts[component]))
            shifts[component[new[::-1]]] = values[new[::-1]]  # so that squares of small differences are summed
            values -= shifts[component]
            sums += np.bincount(component, values, count)
            squares += np.bincount(component, values * values, count)
        means = sums / self.voxels
        return shifts + means, np.sqrt(np.maximum(squares / self.voxels - means**2, 0))

    def mean_probabilities(self, rows: RowSums, axis: int) -> Doubles:
        """Return the mean probability of each component's label.

        Args:
            rows: of the mask, of which z was the `axis`.
            axis: of the mask.
        """
        z, y, x = (rows.places[one] for one in (axis, *(other for other in range(3) if other != axis)))
        height = int(max(y.max(initial=0), self.runs.y.max())) + 1
        width = int(max(x.max(initial=0), self.runs.stop.max())) + 1
        begins = (self.runs.z * height + self.runs.y) * width + self.runs.start
        order = np.argsort(begins)
        firsts = (z * height + y) * width + x
        at = np.searchsorted(begins[order], firsts, side="right") - 1
        run = order[at]
        # Others are of components that were removed, or are not listed.
        inside = (at >= 0) & (firsts < (begins + self.runs.stop - self.runs.start)[run])
        component = np.searchsorted(self.first, run[inside], side="right") - 1
        means: Doubles = np.bincount(component, rows.sums[inside], len(self)) / self.voxels
        return means

    def _by_plane(self, voxels: AnyArray) -> Iterator[tuple[AnyArray, IntArray, IntArray]]:
        """Yield every plane with lesions, the index in it of each of their voxels, and the component of each."""
        order = np.argsort(self.runs.z, kind="stable")
        runs = self.runs.taken(order)
        component = np.searchsorted(self.first, order, side="right") - 1
        begins = np.flatnonzero(np.diff(runs.z, prepend=-1))
        width = voxels.shape[2]
        for begin, end in zip(begins, [*begins[1:], len(order)], strict=True):
            part = runs.taken(slice(begin, end))
            lengths = part.stop - part.start
            steps = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            index = np.repeat(part.y * width + part.start, lengths) + steps
            yield voxels[part.z[0]], index, np.repeat(component[begin:end], lengths)


def _largest(voxels: IntArray, most: int | None) -> tuple[IntArray, IntArray]:
    """Return which components are the largest, and the place of each component among them, -1 for none."""
    largest = np.argsort(-voxels, kind="stable")[:most]
    places = np.full(len(voxels), -1)
    places[largest] = np.arange(len(largest))
    return largest, places


def _none() -> IntArray:
    return np.empty(0, np.int64)
