"""The matrices that interpolate along one axis: whose they equal, and what a long axis takes."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates, zoom

from flare_runtime.pipeline.interpolation import BAND, band_bytes, resize_matrix
from tests.runtime.dense_matrices import dense

SIDES = st.integers(1, 40)
# Several bands, each beyond the reach of others.
LONGER = st.integers(1, 300)
ORDERS = st.integers(0, 5)


def dense_resize(old, new, order):
    return dense(resize_matrix(old, new, order))


def test_linear_doubling_has_the_weights_of_pixel_centres():
    # New centres lie at -0.25, 0.25, 0.75 and 1.25 of the old grid; the outer two are clamped to the edge.
    expected = [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]
    np.testing.assert_allclose(dense_resize(2, 4, 1), expected, atol=1e-7)


def test_linear_halving_averages_neighbours():
    np.testing.assert_allclose(dense_resize(4, 2, 1), [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]], atol=1e-7)


@given(old=SIDES, new=SIDES, order=ORDERS)
def test_a_constant_stays_constant(old, new, order):
    matrix = dense_resize(old, new, order)
    assert matrix.shape == (new, old)
    assert matrix.dtype == np.float32
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-5)


@given(old=SIDES, new=SIDES, order=st.integers(0, 1))
def test_linear_and_nearest_weights_are_never_negative(old, new, order):
    assert dense_resize(old, new, order).min() >= 0


@given(old=SIDES, new=SIDES)
def test_nearest_selects_one_slice_each_and_rounds_half_up(old, new):
    matrix = dense_resize(old, new, 0)
    centres = old / new * (np.arange(new) + 0.5) - 0.5
    nearest = np.clip(np.floor(centres + 0.5), 0, old - 1).astype(int)
    np.testing.assert_array_equal(matrix, np.eye(old)[nearest])


def test_nearest_halving_takes_the_upper_of_two_equally_near_slices():
    # Centres 0.5 and 2.5 lie half-way: floor(c + 0.5) goes up, where rounding half to even would give 0 and 2.
    np.testing.assert_array_equal(dense_resize(4, 2, 0).argmax(axis=1), [1, 3])


def test_nearest_to_one_third_takes_the_middle_slices():
    np.testing.assert_array_equal(dense_resize(9, 3, 0).argmax(axis=1), [1, 4, 7])


@pytest.mark.parametrize("order", range(6))
def test_equal_lengths_give_the_identity(order):
    np.testing.assert_array_equal(dense_resize(5, 5, order), np.eye(5))


@given(old=LONGER, new=LONGER, order=ORDERS)
def test_matrices_are_scipys_to_the_last_digits_of_float32(old, new, order):
    expected = zoom(np.eye(old), (new / old, 1.0), order=order, mode="nearest", grid_mode=True)
    np.testing.assert_allclose(dense_resize(old, new, order), expected, atol=1e-7)


def test_no_weight_is_a_number_that_slows_the_cpu_down():
    matrix = dense_resize(512, 256, 3)
    assert np.abs(matrix[matrix != 0]).min() >= 1e-9
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)


def test_cached_matrices_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        resize_matrix(7, 9, 3).bands[0].weights[0, 0] = 1


@given(old=SIDES, new=SIDES, order=ORDERS)
def test_a_row_of_voxels_is_resized_as_skimage_does(old, new, order):
    transform = pytest.importorskip("skimage.transform")
    signal = np.random.default_rng(old * 41 + new).standard_normal(old)
    expected = transform.resize(
        signal[:, None], (new, 1), order=order, mode="edge", anti_aliasing=False, clip=False, preserve_range=True
    )[:, 0]
    np.testing.assert_allclose(dense_resize(old, new, order) @ signal, expected, atol=1e-5)


@given(old=SIDES, new=SIDES, order=st.integers(0, 1))
def test_slices_are_selected_as_map_coordinates_does(old, new, order):
    signal = np.random.default_rng(old * 41 + new).standard_normal(old)
    centres = old / new * (np.arange(new) + 0.5) - 0.5
    expected = map_coordinates(signal, [centres], order=order, mode="nearest")
    np.testing.assert_allclose(dense_resize(old, new, order) @ signal, expected, atol=1e-5)


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize(("old", "new"), [(512, 256), (208, 217), (1, 80), (97, 230), (500, 20)])
def test_matrices_are_those_of_a_dense_system_to_the_last_bit_or_nearly(old, new, order):
    expected = zoom(np.eye(old), (new / old, 1.0), order=order, mode="nearest", grid_mode=True)
    expected[np.abs(expected) < 1e-9] = 0
    matrix = dense_resize(old, new, order)
    assert np.count_nonzero(matrix != expected.astype(np.float32)) <= 1e-3 * np.count_nonzero(matrix)
    np.testing.assert_allclose(matrix, expected, atol=1e-14, rtol=1e-7)


@given(old=LONGER, new=LONGER, order=ORDERS, data=st.data())
def test_a_part_is_what_the_whole_has_there(old, new, order, data):
    start = data.draw(st.integers(0, new - 1))
    rows = slice(start, data.draw(st.integers(start + 1, new)))
    whole, part = dense_resize(old, new, order), resize_matrix(old, new, order).part(rows)
    np.testing.assert_array_equal(part.weights, whole[rows, part.columns])
    assert np.count_nonzero(part.weights) == np.count_nonzero(whole[rows])
    assert part.weights[:, 0].any()
    assert part.weights[:, -1].any()


@given(old=LONGER, new=LONGER, order=ORDERS, seed=st.integers(0, 99))
def test_what_reaches_a_voxel_is_a_part_from_the_first_row_to_the_last(old, new, order, seed):
    used = np.random.default_rng(seed).random(old) < 0.02
    touched = np.flatnonzero((dense_resize(old, new, order) != 0) @ used)
    part = resize_matrix(old, new, order).reaching(slice(0, new), used)
    assert (part is None) == (len(touched) == 0)
    if part is not None:
        assert (part.rows.start, part.rows.stop - 1) == (touched[0], touched[-1])


@given(old=st.integers(1, 3000), new=st.integers(1, 3000), order=ORDERS)
def test_no_matrix_takes_more_than_is_planned_for_it(old, new, order):
    matrix = resize_matrix(old, new, order)
    assert sum(band.weights.nbytes for band in matrix.bands) <= band_bytes(old, new, BAND)
    assert matrix.part(slice(0, new)).weights.nbytes <= band_bytes(old, new, new)


@pytest.mark.parametrize(("old", "new"), [(30_000, 15_000), (15_000, 30_000), (30_000, 150), (150, 30_000)])
def test_the_longest_axis_takes_megabytes(old, new):
    tracemalloc.start()
    matrix = resize_matrix.__wrapped__(old, new, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert matrix.bands[-1].rows.stop == new
    assert peak < 24 * 2**20
