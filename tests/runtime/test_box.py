"""Boxes of voxels by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flare_runtime.compute.box import Box

SIDES = st.tuples(*[st.integers(-5, 30)] * 3)
BOX = Box(slice(1, 4), slice(0, 2), slice(5, 9))


def test_a_box_says_where_it_is_and_how_large():
    assert (BOX.start, BOX.stop, BOX.shape) == ((1, 0, 5), (4, 2, 9), (3, 2, 4))
    assert Box.between((1, 0, 5), np.array([4, 2, 9])) == BOX
    assert all(type(end) is int for end in Box.between(np.array([1, 0, 5]), np.array([4.0, 2.0, 9.0])).stop)


def test_a_box_indexes_an_array_and_cuts_every_channel_of_an_image():
    image = np.arange(2 * 6 * 3 * 10).reshape(2, 6, 3, 10)
    np.testing.assert_array_equal(image[1][BOX], image[1, 1:4, 0:2, 5:9])
    np.testing.assert_array_equal(BOX.cut(image), image[:, 1:4, 0:2, 5:9])
    assert np.shares_memory(BOX.cut(image), image)


def test_one_side_is_put_in_the_place_of_another():
    assert BOX.with_side(2, slice(0, 1)) == (slice(1, 4), slice(0, 2), slice(0, 1))


def test_a_box_moves_grows_and_is_clipped():
    assert BOX.shifted((2, 0, -5)) == (slice(3, 6), slice(0, 2), slice(0, 4))
    assert BOX.grown((1, 2, 0)) == (slice(0, 5), slice(-2, 4), slice(5, 9))
    assert BOX.grown((1, 2, 0)).clipped((4, 9, 7)) == (slice(0, 4), slice(0, 4), slice(5, 7))


@pytest.mark.parametrize(
    ("shape", "outer", "start", "stop"),
    [((10, 2, 3), (10, 8, 8), (0, 3, 2), (10, 5, 5)), ((1, 1, 1), (2, 3, 4), (0, 1, 1), (1, 2, 2))],
)
def test_a_centred_box_leaves_the_odd_voxel_above(shape, outer, start, stop):
    assert Box.centred(shape, outer) == Box.between(start, stop)


@pytest.mark.parametrize(
    ("side", "expected"),
    [((2, 5), (0, 8)), ((10, 12), (7, 15)), ((18, 20), (12, 20)), ((4, 16), (4, 16))],
)
def test_a_box_that_is_less_than_a_tile_grows_about_its_middle_and_stays_inside(side, expected):
    box = Box(slice(*side), slice(0, 1), slice(0, 1))
    assert box.grown_to((8, 1, 1), (20, 1, 1)) == (slice(*expected), slice(0, 1), slice(0, 1))


@given(start=SIDES, stop=SIDES, offset=SIDES, shape=st.tuples(*[st.integers(1, 20)] * 3))
def test_moving_there_and_back_changes_nothing_and_a_clipped_box_is_what_indexing_finds(start, stop, offset, shape):
    box = Box.between(start, stop)
    assert box.shifted(offset).shifted(-by for by in offset) == box
    where = np.indices(shape)
    inside = np.all([(at >= low) & (at < high) for at, low, high in zip(where, start, stop, strict=True)], axis=0)
    marked = np.zeros(shape, bool)
    clipped = box.clipped(shape)
    if min(clipped.shape) > 0:
        marked[clipped] = True
    np.testing.assert_array_equal(marked, inside)
