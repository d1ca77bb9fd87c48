"""The machine's memory: whether a case fits, said before the work instead of being killed in it; giving it back."""

import ctypes
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from flare_runtime.compute.available_memory import MORE_MEMORY, available_bytes
from flare_runtime.errors import CaseError
from flare_runtime.imaging.volume import Grid
from flare_runtime.model.manifest import Manifest, ZScoreScheme
from flare_runtime.pipeline.gpu_memory import MIB, CaseSize, by_axis, restoring_bytes
from flare_runtime.pipeline.interpolation import BAND, band_bytes
from flare_runtime.pipeline.resampling import ROWS, SLAB

_LOG = logging.getLogger(__name__)
_FLOAT = 4
# What compiling takes beside the weights, and how often it holds those.
_ENGINE_BYTES, _WEIGHTS = 96 * MIB, 5


@dataclass(frozen=True)
class HostNeed:
    """What a case takes of the machine's memory stage by stage, in bytes, beside a process that waits for one.

    Attributes:
        scan: the images as read.
        preparing: the scan, the image on the network's grid, and what is resampled in plane.
        running: the image, the blended scores, and the network over a tile. The scan has been let go.
        restoring: the image, the scores, and the mask.
    """

    scan: int
    preparing: int
    running: int
    restoring: int

    @property
    def peak(self) -> int:
        """The most at any time."""
        return max(self.scan, self.preparing, self.running, self.restoring)


@dataclass(frozen=True)
class HostMemory:
    """What the cases of one model take of the machine's memory, and whether there is as much.

    Attributes:
        manifest: the model.
        network_bytes: what its networks take while they run; None where that is on a GPU, with image and scores.
        coming_bytes: gives what the process is still to take for itself, as its network is being compiled.
    """

    manifest: Manifest
    network_bytes: int | None = None
    coming_bytes: Callable[[], int] = lambda: 0

    def need(self, size: CaseSize) -> HostNeed:
        """Estimate what a case takes."""
        voxels = prod(size.scan)
        if self.network_bytes is None:
            return HostNeed(size.scan_bytes, size.scan_bytes, 0, voxels)
        # No memory is given for the padding's planes before and behind an image, which are never written to.
        image = size.channels * size.resampled[0] * prod(size.padded[1:]) * _FLOAT
        scores = size.scores * prod(size.padded) * _FLOAT
        # A tile, its logits, their mean over folds or mirror images, its scores, and the weights they are given.
        tile = (size.channels + 2 * size.outputs + size.scores + 1) * prod(size.patch) * _FLOAT
        return HostNeed(
            scan=size.scan_bytes,
            preparing=size.scan_bytes + image + self._resampling(size),
            running=image + scores + tile + self.network_bytes,
            restoring=image + scores + restoring_bytes(size) + voxels,
        )

    def _resampling(self, size: CaseSize) -> int:
        depth, height, width = by_axis(size.axis, size.crop)
        new_depth, rows, columns = by_axis(size.axis, size.resampled)
        # A slab as float64 and float32, and resampled along one axis; rows resampled along the last.
        slab = min(SLAB, depth) * (3 * height * width + rows * width) * _FLOAT
        block = min(ROWS, rows) * columns * min(BAND, new_depth) * _FLOAT
        matrices = sum(band_bytes(old, new, BAND) for old, new in zip(size.crop, size.resampled, strict=True))
        return depth * rows * columns * _FLOAT + max(slab, block) + matrices + self._masking(size)

    def _masking(self, size: CaseSize) -> int:
        """Where a channel is normalised within what is not zero: that mask."""
        schemes = (channel.normalisation for channel in self.manifest.channels)
        masked = any(isinstance(scheme, ZScoreScheme) and scheme.masked for scheme in schemes)
        return masked * prod(size.crop)

    def check(self, size: CaseSize) -> None:
        """Refuse a case that is in memory already, cropped, and whose work this machine cannot hold.

        Whoever holds on to the scan while the network runs needs room for it on top.

        Raises:
            CaseError: `too_little_memory`, with both figures.
        """
        needed = self.need(size).peak
        _LOG.info("memory: about %s MiB, the scan included", f"{needed // MIB:,}")
        self._check(needed, size.scan_bytes)

    def check_before_reading(self, channels: Sequence[Grid]) -> None:
        """Refuse a case by its headers, where even a scan that is nearly all zero would not fit.

        Raises:
            CaseError: `too_little_memory`, with both figures.
        """
        self._check(self.need(self._size(channels, (1, 1, 1))).peak, 0)

    def peak_of(self, channels: Sequence[Grid]) -> int:
        """Estimate what a case takes of whose scan nothing can be left out."""
        grid = channels[0].transposed(self.manifest.transpose_forward)
        return self.need(self._size(channels, grid.shape)).peak

    def _size(self, channels: Sequence[Grid], crop: tuple[int, int, int]) -> CaseSize:
        grids = [grid.transposed(self.manifest.transpose_forward) for grid in channels]
        return CaseSize.of(grids, crop, self.manifest)

    def _check(self, needed: int, held: int) -> None:
        """Refuse what needs more than there is, `held` bytes of it being here already."""
        left = available_bytes()
        available = None if left is None else left + held
        needed += self.coming_bytes()
        if available is not None and needed > available:
            raise CaseError(
                "too_little_memory",
                f"needs about {needed // MIB:,} MiB, the scan included, {available // MIB:,} MiB are to be had; "
                f"{MORE_MEMORY}",
            )


def network_bytes(manifest: Manifest, backend: str, precision: str, folds: int = 1) -> int:
    """Estimate what the networks take on the CPU while they run, beside their weights.

    OpenVINO holds two tensors of its first stage's features over the patch and a quarter of one, in bfloat16 two of
    two bytes a voxel and one of four; ONNX Runtime four.
    """
    widths = 4 * _FLOAT
    if backend == "openvino":
        widths = _FLOAT + 2 + 2 if precision == "bf16" else 2 * _FLOAT + 1
    return folds * widths * manifest.network.features[0] * prod(manifest.patch)


def engine_bytes(manifest: Manifest, folds: int = 1) -> int:
    """Estimate what compiling the networks takes."""
    return _ENGINE_BYTES + folds * _WEIGHTS * manifest.network.parameters * _FLOAT


def give_back() -> None:
    """Return to the system what glibc keeps of freed memory, such as 50 MiB of compiling."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # not glibc
        return
    trim(0)
