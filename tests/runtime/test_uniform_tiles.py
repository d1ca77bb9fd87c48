"""Tiles whose voxels are all alike are computed once."""

import numpy as np

from flare_runtime.pipeline.uniform_tiles import UniformTiles, uniform_value


def tile_of(*channels, shape=(2, 3, 40)):
    return np.stack([np.full(shape, value, np.float32) for value in channels])[None]


class Computing:
    """Gives ten times a tile's first channel, and counts."""

    def __init__(self):
        self.tiles = UniformTiles(self._compute)
        self.calls = 0

    def _compute(self, tile):
        self.calls += 1
        yield 10 * tile[0, :1]

    def scores(self, tile):
        (scores,) = self.tiles.scores(tile)
        return scores


def test_the_value_of_a_tile_is_that_of_every_channel():
    assert uniform_value(tile_of(-1.5, 2)) == np.float32([-1.5, 2]).tobytes()
    odd = tile_of(-1.5, 2)
    odd[0, 1, 1, 2, 17] = 3  # which no sample of every sixteenth sees
    assert uniform_value(odd) is None
    assert uniform_value(tile_of(np.nan)) is None  # which equals nothing


def test_an_equal_tile_is_not_computed_again():
    computing = Computing()
    for _ in range(3):
        scores = computing.scores(tile_of(-1.5))
        np.testing.assert_array_equal(scores, np.full((1, 2, 3, 40), -15))
        scores *= 7  # as blending does
    assert computing.calls == 1


def test_only_the_last_uniform_tile_is_kept_and_others_do_not_replace_it():
    computing = Computing()
    tissue = tile_of(1)
    tissue[0, 0, 0, 0, 1] = 5
    for tile, calls in ((tile_of(1), 1), (tissue, 2), (tile_of(1), 2), (tissue, 3), (tile_of(2), 4), (tile_of(1), 5)):
        np.testing.assert_array_equal(computing.scores(tile), 10 * tile[0, :1])
        assert computing.calls == calls
