"""The mean over mirror images, by hand."""

import numpy as np
import pytest

from flare_runtime.pipeline.mirroring import mirrored_mean

TILE = np.array([1, 2, 4, 8], np.float32).reshape(1, 1, 2, 1, 2)


def weighted(tiles):
    """Logits that depend on the place: the voxel times 1, 10, 100 or 1000."""
    return tiles * np.float32([1, 10, 100, 1000]).reshape(1, 1, 2, 1, 2)


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        ((), [1, 20, 400, 8000]),
        # Flipped along z the tile is 4 8 1 2: its logits 4 80 100 2000, flipped back 100 2000 4 80.
        ((0,), [101 / 2, 2020 / 2, 404 / 2, 8080 / 2]),
        # Along x 2 1 8 4: 2 10 800 4000, back 10 2 4000 800. Along both 8 4 2 1: 8 40 200 1000, back 1000 200 40 8.
        ((0, 2), [1111 / 4, 2222 / 4, 4444 / 4, 8888 / 4]),
    ],
)
def test_the_mean_is_over_all_combinations_of_flips(axes, expected):
    seen = []

    def run(tiles):
        assert tiles.flags.c_contiguous
        seen.append(tiles.ravel().tolist())
        return weighted(tiles)

    mean = mirrored_mean(run, TILE, axes, np)
    assert mean.ravel().tolist() == pytest.approx(expected)
    assert len(seen) == len({tuple(tile) for tile in seen}) == 2 ** len(axes)
    assert TILE.ravel().tolist() == [1, 2, 4, 8]


def test_without_axes_the_logits_are_handed_on():
    logits = weighted(TILE)
    assert mirrored_mean(lambda _tiles: logits, TILE, (), np) is logits


def test_each_tile_of_a_batch_is_mirrored_by_itself():
    batch = np.concatenate([TILE, 2 * TILE])
    mean = mirrored_mean(weighted, batch, (2,), np)
    np.testing.assert_array_equal(mean[1], 2 * mean[0])
    np.testing.assert_array_equal(mean[:1], mirrored_mean(weighted, TILE, (2,), np))
