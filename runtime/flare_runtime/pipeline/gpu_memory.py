"""Which arrays of a case fit on the GPU, decided by arithmetic before anything is uploaded."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

from flare_runtime.compute.arrays import Shape3
from flare_runtime.errors import CaseError, DeviceError
from flare_runtime.imaging.volume import Grid
from flare_runtime.model.manifest import Manifest
from flare_runtime.pipeline.decoding import Decoder
from flare_runtime.pipeline.interpolation import band_bytes
from flare_runtime.pipeline.resampling import DEVICE_BAND, ROWS, SLAB, new_shape, separate_axis
from flare_runtime.pipeline.restoring import BLOCK, SLAB_BYTES
from flare_runtime.pipeline.tiling import padded_shape

MIB = 1 << 20
DEFAULT_GPU_MEMORY_MIB = 4096
# What CUDA, its libraries' code, cuBLAS and cuDNN take before the first array: 603 MiB on an H200. A second thread's
# handle of cuBLAS takes a workspace of its own.
CONTEXT_MIB = 640
_FLOAT = 4


@dataclass(frozen=True)
class CaseSize:
    """The sizes that decide how much memory a case takes.

    Attributes:
        channels: of the image.
        raw_itemsize: bytes of a stored voxel.
        scan: voxels of the scan, (z, y, x).
        crop: voxels of the cropped scan, (z, y, x).
        resampled: voxels on the network's grid, (z, y, x).
        padded: the same, grown to the patch.
        axis: the one that is resampled last.
        scores: channels that are blended.
        outputs: channels of the network's logits.
        patch: (z, y, x).
        batch: how many tiles the network takes at once.
        folds: networks whose logits are averaged.
        mirrored: whether logits are averaged over mirror images too.
        masks: further channels that the network takes: a label of the previous stage's mask each.
    """

    channels: int
    raw_itemsize: int
    scan: Shape3
    crop: Shape3
    resampled: Shape3
    padded: Shape3
    axis: int
    scores: int
    outputs: int
    patch: Shape3
    batch: int = 1
    folds: int = 1
    mirrored: bool = False
    masks: int = 0

    @classmethod
    def of(cls, channels: Sequence[Grid], crop: Shape3, manifest: Manifest) -> "CaseSize":
        """Return the size of a case on the host, of which `crop` voxels are not zero.

        Args:
            channels: their grids, in the order of the model's axes.
            crop: (z, y, x).
            manifest: the model.
        """
        spacing, rule = channels[0].spacing_mm, manifest.image_resampling
        new_spacing = manifest.grid_spacing_mm(spacing)
        z, y, x = (max(side, 1) for side in new_shape(crop, spacing, new_spacing))
        outputs = manifest.network.outputs
        return cls(
            channels=len(channels),
            raw_itemsize=max(channel.itemsize for channel in channels),
            scan=channels[0].shape,
            crop=crop,
            resampled=(z, y, x),
            padded=padded_shape((z, y, x), manifest.patch),
            axis=separate_axis(spacing, new_spacing, rule.force_separate_z) or 0,
            scores=Decoder(outputs, manifest.regions_class_order).channels,
            outputs=outputs,
            patch=manifest.patch,
            masks=manifest.inputs - len(manifest.channels),
        )

    @property
    def inputs(self) -> int:
        """The channels that the network takes."""
        return self.channels + self.masks

    @property
    def scan_bytes(self) -> int:
        """What all channels take as they are read."""
        return self.channels * self.raw_itemsize * prod(self.scan)


@dataclass(frozen=True)
class Placement:
    """Which of the large arrays of a case are on the GPU.

    Attributes:
        raw_on_device: the scan is uploaded at once, else slab by slab.
        image_on_device: the scan is resampled on the GPU, else on the host and uploaded tile by tile.
        sums_on_device: tiles are blended on the GPU, else on the host.
        peak_bytes: of the GPU's memory at most, without the network and CUDA itself.
    """

    raw_on_device: bool
    image_on_device: bool
    sums_on_device: bool
    peak_bytes: int


@dataclass(frozen=True)
class EngineMemory:
    """What the networks of all folds take of a GPU's memory beside the tiles and the logits.

    Attributes:
        outside_bytes: not from CuPy's pool: CUDA, its libraries, and what an engine allocates itself.
        pool_bytes: from CuPy's pool.
    """

    outside_bytes: int
    pool_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """The sum of both."""
        return self.outside_bytes + self.pool_bytes


@dataclass(frozen=True)
class GpuBudget:
    """How a bound of the GPU's memory is shared out.

    Attributes:
        engine: what the networks take.
        arrays_bytes: for the arrays of a case.
    """

    engine: EngineMemory
    arrays_bytes: int

    @classmethod
    def sharing(cls, gpu_memory_mib: int, engine: EngineMemory, name: str) -> "GpuBudget":
        """Give the networks what they need and the arrays of a case the rest.

        Args:
            gpu_memory_mib: the bound of all.
            engine: what the networks take.
            name: of the networks, for the message.

        Raises:
            DeviceError: where nothing is left for the arrays.
        """
        left = gpu_memory_mib * MIB - engine.total_bytes
        if left <= 0:
            raise DeviceError(
                f"--gpu-memory {gpu_memory_mib} is too little: {name} needs about {_mib(engine.total_bytes)} MiB; "
                "raise it or use --device cpu"
            )
        return cls(engine, left)

    @property
    def pool_bytes(self) -> int:
        """What CuPy's pool may take."""
        return self.engine.pool_bytes + self.arrays_bytes

    def total_bytes(self, placement: Placement) -> int:
        """Return what a case takes at most, CUDA and the networks included."""
        return self.engine.total_bytes + placement.peak_bytes

    def place(self, size: CaseSize) -> Placement:
        """Return the fastest placement of a case that keeps to the budget.

        Raises:
            CaseError: `gpu_memory` where even one batch of tiles is too much.
        """
        options = list(placements(size))
        for placement in options:
            if placement.peak_bytes <= self.arrays_bytes:
                return placement
        needed, left = _mib(min(placement.peak_bytes for placement in options)), _mib(self.arrays_bytes)
        message = f"a tile needs {needed} MiB of GPU memory beside the network, {left} MiB are left"
        raise CaseError("gpu_memory", f"{message}; raise --gpu-memory or use --device cpu")


def smallest_placement(size: CaseSize) -> Placement:
    """Return the placement that takes least of the GPU's memory, to be tried after it ran out."""
    return min(placements(size), key=lambda placement: placement.peak_bytes)


def placements(size: CaseSize) -> Iterator[Placement]:
    """Yield all placements, the fastest first."""
    for raw, image, sums in ((1, 1, 1), (0, 1, 1), (0, 1, 0), (0, 0, 1), (0, 0, 0)):
        yield Placement(bool(raw), bool(image), bool(sums), _peak(size, bool(raw), bool(image), bool(sums)))


def _peak(size: CaseSize, raw: bool, image: bool, sums: bool) -> int:
    image_bytes = image * size.inputs * prod(size.padded) * _FLOAT
    sums_bytes = sums * size.scores * prod(size.padded) * _FLOAT
    label = prod(size.resampled) if size.masks else 0  # where the previous stage's mask has it
    preparing = image_bytes + max(_preparing(size, raw), label) if image else 0
    running = image_bytes + sums_bytes + _running(size)
    slab = SLAB_BYTES * min(BLOCK[0], size.crop[0]) * prod(size.crop[1:])
    restoring = image_bytes + sums_bytes + restoring_bytes(size, slab) if sums else 0
    return max(preparing, running, restoring)


def _preparing(size: CaseSize, raw: bool) -> int:
    """Return what preparing takes beside the image: the scan or a slab of it, and what is resampled of it."""
    depth, height, width = by_axis(size.axis, size.crop)
    new_depth, rows, columns = by_axis(size.axis, size.resampled)
    raw_bytes = (depth if raw else SLAB) * height * width * size.raw_itemsize
    in_plane = depth * rows * columns * _FLOAT
    # A slab as float64 and float32, resampled along one axis and along both. A block of rows, copied and resampled
    # along the last axis. CuPy computes a product in memory of its own before it copies it to its place.
    slab = SLAB * (3 * height * width + rows * (2 * width + columns)) * _FLOAT
    block = ROWS * columns * (depth + 2 * new_depth) * _FLOAT
    return raw_bytes + in_plane + max(slab, block) + _matrices(size)


def _running(size: CaseSize) -> int:
    """Return what running takes beside image and sums: a batch of tiles, its logits, and the Gaussian weights.

    Scores take the place of logits; of those that are computed again on the host one channel at a time is uploaded. At
    the end each plane is divided by the sum of its weights, which takes two planes.
    """
    # Tiles are stacked and flipped, and a last batch is filled up. Each network has logits, and so has each mean.
    logits = size.folds + (size.folds > 1) + size.mirrored
    batched = size.batch * (3 * size.inputs + logits * size.outputs)
    return (prod(size.patch) * (batched + 2) + 2 * prod(size.padded[1:])) * _FLOAT


def restoring_bytes(size: CaseSize, slab: int = 0) -> int:
    """Return what restoring takes at most beside image and scores.

    First the mask of positive scores; then one block of the output, interpolated along each axis and labelled, and a
    slab where the blocks are gathered, of so many bytes.
    """
    fine = [min(side, most) for side, most in zip(size.crop, BLOCK, strict=True)]
    # Linear interpolation of a block reaches at most so many coarse planes, rows and columns.
    reached = [
        min(coarse, round(side * coarse / whole) + 3)
        for side, coarse, whole in zip(fine, size.resampled, size.crop, strict=True)
    ]
    along_z = fine[0] * prod(reached[1:])
    along_x = fine[0] * reached[1] * fine[2]
    # The scores where there are labels are copied on the host for the probabilities of these.
    block = max(2 * prod(reached) + along_z + along_x, prod(fine)) + prod(fine)
    matrices = sum(whole * coarse for whole, coarse in zip(fine, reached, strict=True)) * _FLOAT
    positive = (size.scores + 1) * prod(size.resampled)
    # Among several classes, `argmax` gives an index of eight bytes a voxel, which is then turned into labels.
    return max(positive, size.scores * block * _FLOAT + matrices + 40 * prod(fine) + slab)


def _matrices(size: CaseSize) -> int:
    return sum(band_bytes(old, new, DEVICE_BAND) for old, new in zip(size.crop, size.resampled, strict=True))


def by_axis(axis: int, shape: Shape3) -> list[int]:
    """Return the sides of a shape, that of `axis` first."""
    return [shape[axis], *(side for i, side in enumerate(shape) if i != axis)]


def _mib(size: int) -> int:
    return -(-size // MIB)
