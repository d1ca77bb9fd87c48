"""Boxes of voxels: how they are made, measured, moved, grown and clipped."""

from collections.abc import Iterable
from typing import NamedTuple

from flare_runtime.compute.arrays import AnyArray, Shape3


class Box(NamedTuple):
    """A slice with a start and a stop along each axis (z, y, x); it indexes an array of these axes."""

    z: slice
    y: slice
    x: slice

    @classmethod
    def between(cls, start: Iterable[int], stop: Iterable[int]) -> "Box":
        """Return the box from its first voxel (z, y, x) to the one behind its last."""
        return cls(*(slice(int(first), int(end)) for first, end in zip(start, stop, strict=True)))

    @classmethod
    def whole(cls, shape: Shape3) -> "Box":
        """Return the box of all voxels of an array."""
        return cls.between((0, 0, 0), shape)

    @classmethod
    def centred(cls, shape: Shape3, outer: Shape3) -> "Box":
        """Return the box of `shape` in the middle of an array; of an odd surplus the upper side takes more."""
        return cls.whole(shape).shifted((n - side) // 2 for side, n in zip(shape, outer, strict=True))

    @property
    def start(self) -> Shape3:
        """The first voxel, (z, y, x)."""
        return self.z.start, self.y.start, self.x.start

    @property
    def stop(self) -> Shape3:
        """The voxel behind the last, (z, y, x)."""
        return self.z.stop, self.y.stop, self.x.stop

    @property
    def shape(self) -> Shape3:
        """The number of voxels, (z, y, x)."""
        z, y, x = (side.stop - side.start for side in self)
        return z, y, x

    def cut(self, image: AnyArray) -> AnyArray:
        """Return a view of this box in every channel of an image (channels, z, y, x)."""
        return image[(slice(None), *self)]

    def with_side(self, axis: int, side: slice) -> "Box":
        """Return the box with another side along one axis."""
        return Box(*(side if index == axis else own for index, own in enumerate(self)))

    def shifted(self, offset: Iterable[int]) -> "Box":
        """Return the box moved by `offset` (z, y, x)."""
        return Box(*(slice(side.start + by, side.stop + by) for side, by in zip(self, offset, strict=True)))

    def clipped(self, shape: Shape3) -> "Box":
        """Return the part of the box that lies in an array of `shape`."""
        return Box(*(slice(max(side.start, 0), min(side.stop, n)) for side, n in zip(self, shape, strict=True)))

    def grown(self, margin: Iterable[int]) -> "Box":
        """Return the box with `margin` (z, y, x) more voxels on both sides; it may reach beyond its array."""
        return Box(*(slice(side.start - more, side.stop + more) for side, more in zip(self, margin, strict=True)))

    def grown_to(self, least: Shape3, shape: Shape3) -> "Box":
        """Return the box grown about its middle to at least `least`, within an array of `shape`, as large or larger."""
        sides = []
        for side, wanted, n in zip(self, least, shape, strict=True):
            length = max(side.stop - side.start, wanted)
            start = min(max((side.start + side.stop - length) // 2, 0), n - length)
            sides.append(slice(start, start + length))
        return Box(*sides)
