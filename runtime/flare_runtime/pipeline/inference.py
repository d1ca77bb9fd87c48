"""The network over a whole image, tile by tile."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from flare_runtime.compute.arrays import FloatArray, Shape3
from flare_runtime.compute.box import Box
from flare_runtime.compute.device import HOST, Device
from flare_runtime.compute.network import Network
from flare_runtime.errors import CaseError
from flare_runtime.pipeline.decoding import Decoder
from flare_runtime.pipeline.tile_scores import TileScorer
from flare_runtime.pipeline.tiling import Blend, TileGrid
from flare_runtime.pipeline.uniform_tiles import UniformTiles

# A scan of a whole body is a thousand tiles at a step of 0.5.
MAX_TILES = 100_000
# Wraps the tiles of one case to show progress.
Progress = Callable[[TileGrid], Iterable[Box]]


@dataclass(frozen=True)
class BlendedScores:
    """What a network makes of an image.

    Attributes:
        scores: the tiles' weighted mean (channels, z, y, x); 0 where no tile lay.
        network_s: seconds spent in the network.
        rescued: tiles that had to be computed again in float32.
    """

    scores: FloatArray
    network_s: float
    rescued: int


@dataclass(frozen=True)
class TiledInference:
    """How a network is run over images that are larger than its patch.

    Attributes:
        network: takes tiles of `patch`.
        decoder: says what its logits mean.
        patch: (z, y, x).
        step: distance of neighbouring tiles as a share of the patch.
        mirror_axes: every combination of flips along these axes is averaged (0 is z).
        device: where the network takes its tiles.
        rescue: opens a float32 network on the host, for tiles in which `network` gives NaN or infinity.
    """

    network: Network
    decoder: Decoder
    patch: Shape3
    step: float
    mirror_axes: tuple[int, ...] = ()
    device: Device = HOST
    rescue: Callable[[], Network] | None = None

    def run(
        self, image: FloatArray, region: Box | None = None, *, sums: Device = HOST, progress: Progress = iter
    ) -> BlendedScores:
        """Return the blended scores of `image` (channels, z, y, x), at least as large as the patch.

        Args:
            image: normalised, on the network's grid; on `device` or on the host.
            region: to lay tiles over, at least as large as the patch; everything where None.
            sums: where the tiles are blended: `device`, or the host.
            progress: wraps the sequence of tiles.

        Raises:
            CaseError: `too_many_tiles` where the image needs more than `MAX_TILES`; as `TileScorer.scores` does.
            BundleError: as `TileScorer.scores` does.
        """
        shape = (image.shape[1], image.shape[2], image.shape[3])
        grid = self._tiles(shape, region)
        blend = Blend(self.decoder.channels, shape, grid, sums)
        scorer = TileScorer(
            self.network,
            self.decoder,
            device=self.device,
            sums=sums,
            mirror_axes=self.mirror_axes,
            rescue=self.rescue,
        )
        # On a GPU comparing voxels would cost a wait, and computing costs little.
        one_on_host = self.network.batch == 1 and not self.device.is_gpu
        scores_of = UniformTiles(scorer.scores).scores if one_on_host else scorer.scores
        for boxes in _batches(progress(grid), self.network.batch):
            tiles = self.device.xp.stack([self.device.upload(box.cut(image)) for box in boxes])
            for box, scores in zip(boxes, scores_of(tiles), strict=True):
                blend.add(box, scores)
            del tiles, scores  # which the next ones would have to fit beside
        return BlendedScores(blend.mean(), scorer.network_s, scorer.rescued)

    def _tiles(self, shape: Shape3, region: Box | None) -> TileGrid:
        grid = TileGrid.covering(shape, self.patch, self.step, region)
        if len(grid) > MAX_TILES:
            raise CaseError(
                "too_many_tiles",
                f"{len(grid):,} tiles are needed, {MAX_TILES:,} are allowed; raise --step, or use --crop body",
            )
        return grid


def _batches(boxes: Iterable[Box], size: int) -> Iterator[list[Box]]:
    """Yield the boxes in their order, `size` at a time, the last time those that are left."""
    remaining = iter(boxes)
    while batch := list(islice(remaining, size)):
        yield batch
