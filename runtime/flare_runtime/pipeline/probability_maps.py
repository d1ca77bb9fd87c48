"""The probabilities of a case in half precision, one class after the other, so that one class alone takes memory."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from flare_runtime.compute.arrays import AnyArray, FloatArray, Shape3
from flare_runtime.compute.box import Box
from flare_runtime.compute.device import Device
from flare_runtime.imaging.geometry import Geometry
from flare_runtime.model.manifest import Manifest
from flare_runtime.pipeline.decoding import Decoder
from flare_runtime.pipeline.gpu_memory import CaseSize
from flare_runtime.pipeline.resampling import Resizing
from flare_runtime.pipeline.restoring import interpolated_blocks

HalfArray: TypeAlias = npt.NDArray[np.float16]
# On which grid they are: that of the image, or the network's own, in its order of axes and without what was cropped.
ProbabilityGrid: TypeAlias = Literal["input", "network"]
_FLOAT, _HALF = 4, 2


@dataclass(frozen=True, eq=False)
class CoarseScores:
    """Where the probabilities of a case come from.

    Attributes:
        scores: (channels, *resizing.old_shape), on `device`.
        resizing: from there to the maps.
        device: where they are interpolated.
        part: returns the part of a map that they fill, (*resizing.new_shape), as a view.
        unseen: boxes of that part over which the network was not run.
    """

    scores: FloatArray
    resizing: Resizing
    device: Device
    part: Callable[[AnyArray], AnyArray]
    unseen: Sequence[Box] = ()

    def blocks(self, channels: slice = slice(None)) -> Iterator[tuple[Box, FloatArray]]:
        """Yield where each block lies and the scores (channels, z, y, x) there, on the host."""
        return interpolated_blocks(self.scores[channels], self.resizing, self.device)


@dataclass(frozen=True, eq=False)
class ProbabilityMaps:
    """The probabilities of a case as nnU-Net defines them: of every class, the background first, or of every region.

    Attributes:
        decoder: says what scores mean.
        geometry: of each map.
        coarse: None where the network saw nothing, and all is background.
    """

    decoder: Decoder
    geometry: Geometry
    coarse: CoarseScores | None

    def __iter__(self) -> Iterator[HalfArray]:
        """Yield one map (z, y, x) after the other, all in the same memory."""
        regions = self.decoder.regions_class_order is not None
        divisor = None if regions or self.coarse is None else _logarithm_of_divisor(self.coarse)
        whole = np.empty(self.geometry.shape, np.float16)
        for output in range(self.decoder.outputs):
            background = output == 0 and not regions
            whole.fill(background)
            if self.coarse is not None:
                part = self.coarse.part(whole)
                self._fill(self.coarse, part, output, divisor)
                for box in self.coarse.unseen:
                    part[box] = background
            yield whole

    def _fill(self, coarse: CoarseScores, part: AnyArray, output: int, divisor: FloatArray | None) -> None:
        if divisor is None:
            for block, scores in coarse.blocks(slice(output, output + 1)):
                part[block] = self.decoder.probabilities(scores)[0]
        elif output == 0:
            for plane, of_plane in zip(part, divisor, strict=True):
                plane[...] = np.exp(-of_plane)
        else:
            for block, scores in coarse.blocks(slice(output - 1, output)):
                part[block] = np.exp(scores[0] - divisor[block])


def _logarithm_of_divisor(coarse: CoarseScores) -> FloatArray:
    """Return what the softmax over exclusive classes divides by, of which the background's score is 0."""
    logarithm = np.empty(coarse.resizing.new_shape, np.float32)
    for block, scores in coarse.blocks():
        logarithm[block] = np.logaddexp.reduce(scores, axis=0, initial=0)
    return logarithm


MapsTo: TypeAlias = Callable[[ProbabilityMaps], None]


def unseen_boxes(region: Box, inner: Box, shape: Shape3) -> list[Box]:
    """Return the boxes of an image of `shape` that lie outside a region, which `inner` of the same grid stands for."""
    ratio = np.divide(shape, inner.shape)
    seen = region.shifted(-start for start in inner.start).clipped(inner.shape)
    sides = Box.between(np.ceil(np.multiply(seen.start, ratio)), np.floor(np.multiply(seen.stop, ratio)))
    whole, boxes = Box.whole(shape), []
    for axis, side in enumerate(sides):
        outer = (slice(0, side.start), slice(side.stop, shape[axis]))
        boxes += [whole.with_side(axis, part) for part in outer if part.start < part.stop]
    return boxes


def maps_bytes(grid: ProbabilityGrid, size: CaseSize, manifest: Manifest) -> int:
    """Return what the maps of a case take: one of them, and for exclusive classes the divisor of all."""
    voxels = prod(size.scan if grid == "input" else size.resampled)
    return voxels * (_HALF + _FLOAT * (manifest.regions_class_order is None))
