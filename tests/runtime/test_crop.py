"""The box that nnU-Net crops to."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flare_runtime.imaging.volume import Volume
from flare_runtime.pipeline.crop import nonzero_box

ONE_MM = (1.0, 1.0, 1.0)


def box_of(*arrays, **scaling):
    box = nonzero_box([Volume.of_array(np.asarray(array), ONE_MM, **scaling) for array in arrays])
    return None if box is None else tuple((side.start, side.stop) for side in box)


def test_air_is_not_zero():
    assert box_of(np.full((4, 5, 6), -1000, np.int16)) == ((0, 4), (0, 5), (0, 6))


def test_zeros_are_peeled_off_and_holes_stay():
    image = np.zeros((6, 7, 8), np.int16)
    image[1, 2, 3] = 5
    image[4, 5, 3] = -5
    assert box_of(image) == ((1, 5), (2, 6), (3, 4))


def test_any_channel_counts():
    first, second = np.zeros((2, 5, 5, 5), np.float32)
    first[1, 1, 1] = 1
    second[3, 2, 4] = 1
    assert box_of(first, second) == ((1, 4), (1, 3), (1, 5))


def test_nothing_but_zeros_has_no_box():
    assert box_of(np.zeros((3, 4, 5), np.int16), np.zeros((3, 4, 5), np.int16)) is None


def test_zero_is_meant_after_scaling():
    image = np.full((3, 4, 5), 1024, np.uint16)
    image[1, 2, 3] = 1025
    assert box_of(image, intercept=-1024.0) == ((1, 2), (2, 3), (3, 4))
    assert box_of(np.zeros((3, 4, 5), np.uint16), intercept=-1024.0) == ((0, 3), (0, 4), (0, 5))


@given(
    shape=st.tuples(st.integers(1, 7), st.integers(1, 7), st.integers(1, 7)),
    count=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_the_box_is_nnunets(shape, count, seed):
    cropping = pytest.importorskip("nnunetv2.preprocessing.cropping.cropping")
    rng = np.random.default_rng(seed)
    images = np.zeros((2, *shape), np.float32)
    for _ in range(count):
        images[rng.integers(2), rng.integers(shape[0]), rng.integers(shape[1]), rng.integers(shape[2])] = -3
    _, _, expected = cropping.crop_to_nonzero(images)
    assert box_of(*images) == tuple(tuple(side) for side in expected)
