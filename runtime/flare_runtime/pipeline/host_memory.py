"""How much of the machine's memory a case takes, so that one that does not fit is refused before the work begins."""

import ctypes
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod

from flare_runtime.compute.arrays import Shape3
from flare_runtime.compute.available_memory import MORE_MEMORY, available_bytes
from flare_runtime.errors import CaseError
from flare_runtime.imaging.volume import Grid
from flare_runtime.model.manifest import Manifest, ZScoreScheme
from flare_runtime.pipeline.decoding import Decoder
from flare_runtime.pipeline.gpu_memory import MIB, CaseSize, by_axis, restoring_bytes
from flare_runtime.pipeline.interpolation import BAND, band_bytes
from flare_runtime.pipeline.postprocessing import BYTES_A_VOXEL
from flare_runtime.pipeline.probability_maps import ProbabilityGrid, maps_bytes
from flare_runtime.pipeline.resampling import ROWS, SLAB

_LOG = logging.getLogger(__name__)
_FLOAT = 4
# What finding the voxels outside of the body takes for each.
_OUTSIDE_BYTES = 4
# Compiling a network takes this much, and this many copies of its weights.
_COMPILER_BYTES, _COPIES_OF_WEIGHTS = 96 * MIB, 5


@dataclass(frozen=True)
class HostNeed:
    """The memory that a case takes in each stage, in bytes, on top of what the process takes before it.

    Attributes:
        scan: reading the images.
        preparing: the scan, the image on the network's grid, and the scan resampled in plane.
        running: the image, the blended scores, and the network on a tile. The scan has been freed.
        restoring: the image, the scores, the mask, a block of the input's grid, and a map of probabilities.
        removing: the image, the mask, and the components of it. The scores have been freed.
        network: of `running`, the network on a tile, which works on one case at a time.
        first: the first channel, which is kept for the intensities of lesions where several cases are in work.
    """

    scan: int
    preparing: int
    running: int
    restoring: int
    removing: int = 0
    network: int = 0
    first: int = 0

    @property
    def beside_network(self) -> int:
        """The stage that takes most where another case may be at the network, in bytes."""
        later = max(self.running - self.network, self.restoring, self.removing)
        return max(self.scan, self.preparing, later + self.first)

    @property
    def peak(self) -> int:
        """The stage that takes most, in bytes."""
        return max(self.scan, self.preparing, self.running, self.restoring, self.removing)


@dataclass(frozen=True)
class HostMemory:
    """Estimates the machine's memory that the cases of one model take, and compares it with what is available.

    Attributes:
        manifest: the model.
        network_bytes: what its networks take while they run. None where they run on a GPU, which then holds the image
            and the scores as well.
        compiling_bytes: gives what compiling the networks will still take: 0 once they are compiled.
        removes: whether components are removed from masks.
        maps: on which grid probabilities are written, one map after the other; None where they are not.
        previous: of a cascade's previous stage, which segments a case before.
        keeps_scan: whether the scan stays in memory to the end, for the next stage.
    """

    manifest: Manifest
    network_bytes: int | None = None
    compiling_bytes: Callable[[], int] = lambda: 0
    removes: bool = False
    maps: ProbabilityGrid | None = None
    previous: "HostMemory | None" = None
    keeps_scan: bool = False

    def need(self, size: CaseSize) -> HostNeed:
        """Estimate what a case takes, a previous stage's work on it not counted."""
        voxels = prod(size.scan)
        maps = maps_bytes(self.maps, size, self.manifest) if self.maps else 0
        removing = self.removes * (1 + BYTES_A_VOXEL) * voxels
        first = size.scan_bytes // size.channels
        previous_mask = bool(size.masks) * voxels
        kept = self.keeps_scan * size.scan_bytes + previous_mask
        labels = bool(size.masks) * (prod(size.resampled) + _OUTSIDE_BYTES * prod(size.crop))
        if self.network_bytes is None:
            preparing = size.scan_bytes + previous_mask + labels
            return HostNeed(size.scan_bytes, preparing, kept, kept + maps + voxels, kept + removing, first=first)
        # The system gives no memory for the planes of padding before and after the image, which are never written to.
        image = size.inputs * size.resampled[0] * prod(size.padded[1:]) * _FLOAT
        scores = size.scores * prod(size.padded) * _FLOAT
        # A tile, its logits, their mean over folds or mirror images, its scores, and the Gaussian weights.
        tile = (size.inputs + 2 * size.outputs + size.scores + 1) * prod(size.patch) * _FLOAT
        network = tile + self.network_bytes
        return HostNeed(
            scan=size.scan_bytes,
            preparing=size.scan_bytes + previous_mask + image + max(self._resampling(size), labels),
            running=kept + image + scores + network,
            restoring=kept + image + scores + restoring_bytes(size) + maps + voxels,
            removing=kept + image + removing,
            network=network,
            first=first,
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
        """Return what the mask of non-zero voxels takes, which only some normalisations need."""
        schemes = (channel.normalisation for channel in self.manifest.channels)
        masked = any(isinstance(scheme, ZScoreScheme) and scheme.masked for scheme in schemes)
        return masked * prod(size.crop)

    def check(self, size: CaseSize) -> None:
        """Refuse a case whose scan has been read, where the work on it takes more memory than there is.

        The scan is taken to be freed before the network runs; a caller that keeps it needs that much more.

        Raises:
            CaseError: `too_little_memory`, with both figures.
        """
        needed = self.need(size).peak
        _LOG.info("memory: about %s MiB, the scan included", f"{needed // MIB:,}")
        self._check(needed, size.scan_bytes)

    def check_before_reading(self, channels: Sequence[Grid]) -> None:
        """Refuse a case by its headers where it would not fit even if all but one of its voxels were zero.

        Raises:
            CaseError: `too_little_memory`, with both figures.
        """
        self._check(self._peak(channels, (1, 1, 1)), 0)

    def peak_of(self, channels: Sequence[Grid]) -> int:
        """Estimate what a case takes at most: as much as without a voxel that is zero."""
        return self._peak(channels, None)

    def _peak(self, channels: Sequence[Grid], crop: Shape3 | None) -> int:
        """Estimate what a case takes in any stage, of which `crop` voxels are not zero; all of them where None."""
        own = self.need(self._size(channels, crop)).peak
        return own if self.previous is None else max(own, self.previous._peak(channels, crop))

    def need_of(self, channels: Sequence[Grid]) -> HostNeed:
        """Estimate what a case takes where no voxel is zero, and where a GPU has no room for any of its arrays."""
        memory = replace(self, network_bytes=self.network_bytes or 0)
        need = memory.need(self._size(channels, None))
        if self.previous is None:
            return need
        return replace(need, preparing=max(need.preparing, self.previous.need_of(channels).peak))

    def fit(self, needs: Sequence[HostNeed], processes: int = 1) -> bool:
        """Whether so many cases fit into a process's share of the memory at once, each in another stage.

        What they hold already counts once more.
        """
        left = available_bytes()
        needed = sum(need.beside_network for need in needs) + max(need.network for need in needs)
        return left is None or processes * (needed + self.compiling_bytes()) <= left

    def check_probabilities(self, shape: Shape3, padded_voxels: int) -> None:
        """Refuse to compute the probabilities of a prepared case where they do not fit beside its scores and its mask.

        Args:
            shape: of the scan, (z, y, x).
            padded_voxels: of the prepared image.

        Raises:
            CaseError: `too_little_memory`, with both figures.
        """
        outputs = self.manifest.network.outputs
        channels = 0 if self.network_bytes is None else Decoder(outputs, self.manifest.regions_class_order).channels
        needed = channels * padded_voxels * _FLOAT + (outputs * _FLOAT + 1) * prod(shape)
        self._check(needed, 0, "the probabilities")

    def _size(self, channels: Sequence[Grid], crop: Shape3 | None) -> CaseSize:
        grids = [grid.transposed(self.manifest.transpose_forward) for grid in channels]
        return CaseSize.of(grids, crop or grids[0].shape, self.manifest)

    def _check(self, needed: int, held: int, included: str = "") -> None:
        """Refuse what needs more than is available, where the process holds `held` bytes of it already."""
        included = included or ("the scan and the probabilities" if self.maps else "the scan")
        left = available_bytes()
        available = None if left is None else left + held
        needed += self.compiling_bytes()
        if available is not None and needed > available:
            raise CaseError(
                "too_little_memory",
                f"needs about {needed // MIB:,} MiB, {included} included, {available // MIB:,} MiB are to be had; "
                f"{MORE_MEMORY}",
            )


def engine_bytes(manifest: Manifest, folds: int = 1) -> int:
    """Estimate what compiling the networks takes while it lasts."""
    return _COMPILER_BYTES + folds * _COPIES_OF_WEIGHTS * manifest.network.parameters * _FLOAT


def give_back() -> None:
    """Return freed memory that glibc keeps to the system: after compiling a network about 50 MiB."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # not glibc
        return
    trim(0)
