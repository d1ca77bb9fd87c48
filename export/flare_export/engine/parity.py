"""Compares an engine with the float32 network, tile by tile of whole batches."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flare_export.errors import DisagreementError
from flare_export.parity.agreement import compare
from flare_runtime.backends.synthetic_patch import structured_patch
from flare_runtime.compute.arrays import AnyArray, FloatArray, MaskArray
from flare_runtime.errors import UsageError
from flare_runtime.model.manifest import Agreement, Manifest
from flare_runtime.pipeline.decoding import Decoder
from flare_runtime.pipeline.preprocessing import prepare
from flare_runtime.pipeline.reader_rules import ReaderRules
from flare_runtime.pipeline.tiling import TileGrid

# Takes tiles (n, channels, z, y, x) of the host and returns their logits (n, outputs, z, y, x).
Run = Callable[[FloatArray], FloatArray]
# A number for each channel of the scores.
Moments = npt.NDArray[np.float64]

MIN_DICE = 0.999
# Of the scores' standard deviation, in the worst tile. Half precision costs a hundredth; a tile that was computed
# wrongly, or in another's place, is off by about one, even where it holds no foreground.
MAX_RELATIVE_ERROR = 0.1
# Tiles of each case at least, evenly over the scan.
_TILES = 4


@dataclass(frozen=True)
class EngineParity:
    """The comparison of all tiles.

    Attributes:
        tiles: how many.
        agreement: of the masks.
        engine_voxels: of the foreground that the engine sees.
        max_logit_difference: largest absolute difference.
        relative_error: the worst tile's root mean square difference of a class's scores, over their standard deviation.
    """

    tiles: int
    agreement: Agreement
    engine_voxels: int
    max_logit_difference: float
    relative_error: float


def synthetic_batch(manifest: Manifest, batch: int) -> FloatArray:
    """Return `batch` different tiles (batch, channels, z, y, x) for where no case is given."""
    channels = manifest.inputs
    return np.concatenate([structured_patch(channels, manifest.patch, seed) for seed in range(batch)])


def case_batches(cases: Sequence[Sequence[Path]], manifest: Manifest, batch: int) -> Iterator[FloatArray]:
    """Yield batches of different tiles (batch, channels, z, y, x), cut from cases as the runtime cuts them.

    Args:
        cases: for each case the files of its channels.
        manifest: the model.
        batch: the engine's number of tiles.

    Raises:
        CaseError: for a case that cannot be trusted.
        UsageError: for one without any voxel that is not zero.
    """
    wanted = -(-_TILES // batch) * batch
    rules = ReaderRules.of(manifest)
    for files in cases:
        prepared = prepare(rules.read(files), manifest)
        if prepared is None:
            raise UsageError(f"{files[0]}: holds nothing but zeros; verify with another case")
        tiles = np.stack(list(islice(_different_tiles(prepared.image, manifest, wanted), wanted)))
        yield from np.split(tiles, wanted // batch)


def _different_tiles(image: FloatArray, manifest: Manifest, count: int) -> Iterator[FloatArray]:
    """Yield tiles evenly over the image, then the same mirrored and shifted, until there are enough."""
    shape = (image.shape[1], image.shape[2], image.shape[3])
    boxes = list(TileGrid.covering(shape, manifest.patch, manifest.step))
    if len(boxes) > count:
        boxes = [boxes[index * len(boxes) // count] for index in range(count)]
    tiles = [np.ascontiguousarray(box.cut(image)) for box in boxes]
    axes = range(1, 4)
    for shift in range(count):
        for flipped in chain.from_iterable(combinations(axes, number) for number in range(4)):
            for tile in tiles:
                yield np.roll(np.flip(tile, flipped), shift, axis=-1)


def measure_engine(engine: Run, reference: Run, batches: Iterable[FloatArray], decoder: Decoder) -> EngineParity:
    """Run batches through an engine, and their tiles one by one through the reference.

    Args:
        engine: takes whole batches.
        reference: takes one tile at a time, so that it knows nothing of batches.
        batches: (batch, channels, z, y, x), each of different tiles.
        decoder: says what the logits mean.

    Raises:
        DisagreementError: where the engine gives NaN, infinity, or logits of another shape.
    """
    masks: list[MaskArray] = []
    expected_masks: list[MaskArray] = []
    errors: list[Moments] = []
    spreads: list[tuple[Moments, Moments]] = []
    largest = 0.0
    for tiles in batches:
        logits = np.array(engine(tiles))
        for index, tile in enumerate(tiles):
            expected = reference(tile[None])[0]
            _check_logits(logits, expected, index, len(tiles))
            largest = max(largest, float(np.abs(logits[index] - expected).max()))
            scores, expected_scores = decoder.scores(logits[index]), decoder.scores(expected)
            errors.append(_mean(np.square(scores - expected_scores)))
            spreads.append((_mean(expected_scores), _mean(np.square(expected_scores, dtype=np.float64))))
            masks.append(decoder.labels(scores))
            expected_masks.append(decoder.labels(expected_scores))
    engine_masks = np.stack(masks)
    return EngineParity(
        tiles=len(masks),
        agreement=compare(np.stack(expected_masks), engine_masks),
        engine_voxels=int(np.count_nonzero(engine_masks)),
        max_logit_difference=largest,
        relative_error=float(np.sqrt(np.max(errors / _variance(spreads)))),
    )


def _check_logits(logits: FloatArray, expected: FloatArray, index: int, batch: int) -> None:
    if logits.shape != (batch, *expected.shape):
        raise DisagreementError(f"the engine gives logits of {logits.shape}, {(batch, *expected.shape)} are right")
    if not np.isfinite(logits[index]).all():
        raise DisagreementError(f"the engine gives NaN or infinity for tile {index + 1} of a batch of {batch}")


def _mean(scores: AnyArray) -> Moments:
    return np.asarray(scores.mean(axis=(1, 2, 3), dtype=np.float64))


def _variance(spreads: Sequence[tuple[Moments, Moments]]) -> Moments:
    """Return each channel's variance over tiles of one size, given the means and mean squares of each tile."""
    mean, mean_square = np.mean(spreads, axis=0)
    # Of scores that are all but the same, a hundredth of their size stands in for the deviation.
    return np.asarray(np.maximum(np.maximum(mean_square - mean**2, 1e-4 * mean_square), 1e-12))


def check_parity(parity: EngineParity) -> None:
    """Refuse an engine that disagrees.

    Raises:
        DisagreementError: with the reason.
    """
    agreement = parity.agreement
    foreground = agreement.foreground_voxels
    if foreground and not parity.engine_voxels:
        raise DisagreementError(f"the engine finds nothing where the reference has {foreground:,} voxels")
    # Of nothing there is no Dice worth the name: a single voxel would make it 0.
    what, share = ("Dice", agreement.dice) if foreground else ("share of voxels", agreement.voxel_agreement)
    if not share >= MIN_DICE:
        raise DisagreementError(
            f"the engine agrees with the reference to a {what} of {share:.6f}, at least {MIN_DICE} is demanded"
        )
    if not parity.relative_error <= MAX_RELATIVE_ERROR:
        raise DisagreementError(
            f"the engine's scores of one tile are off by {parity.relative_error:.2g} of their standard deviation, at "
            f"most {MAX_RELATIVE_ERROR} is allowed"
        )
