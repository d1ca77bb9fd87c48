"""Connected components: how many, how large, where."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flare_runtime.imaging.geometry import Geometry
from flare_runtime.pipeline.lesions import Lesion, find_lesions


def test_an_empty_mask_has_no_lesions():
    assert find_lesions(np.zeros((3, 4, 5), np.uint8), (1.0, 1.0, 1.0)) == []


def test_size_place_and_order_by_hand():
    mask = np.zeros((10, 20, 20), np.uint8)
    mask[1:3, 2:4, 5:9] = 1  # 16 voxels about (1.5, 2.5, 6.5)
    mask[6:9, 10:15, 12:18] = 1  # 90 voxels about (7, 12, 14.5)
    # A voxel of 5.0 x 0.5 x 2.0 mm holds 0.005 ml.
    assert find_lesions(mask, (5.0, 0.5, 2.0)) == [
        Lesion(1, 90, 0.45, (7.0, 12.0, 14.5), (15.0, 2.5, 12.0)),
        Lesion(1, 16, 0.08, (1.5, 2.5, 6.5), (10.0, 1.0, 8.0)),
    ]


def test_corners_connect():
    mask = np.zeros((4, 4, 4), np.uint8)
    for i in range(4):
        mask[i, i, i] = 1
    (lesion,) = find_lesions(mask, (10.0, 10.0, 10.0))
    assert (lesion.voxels, lesion.volume_ml, lesion.centre) == (4, 4.0, (1.5, 1.5, 1.5))


def test_a_gap_of_one_voxel_separates():
    mask = np.zeros((1, 1, 5), np.uint8)
    mask[0, 0, [0, 1, 3]] = 1
    assert [lesion.voxels for lesion in find_lesions(mask, (1.0, 1.0, 1.0))] == [2, 1]


def test_labels_are_apart_even_where_they_touch():
    mask = np.zeros((2, 2, 6), np.uint8)
    mask[0, 0, :2] = 1
    mask[0, 0, 2:5] = 3
    assert find_lesions(mask, (10.0, 10.0, 10.0)) == [
        Lesion(3, 3, 3.0, (0.0, 0.0, 3.0), (10.0, 10.0, 30.0)),
        Lesion(1, 2, 2.0, (0.0, 0.0, 0.5), (10.0, 10.0, 20.0)),
    ]


def test_the_largest_label_an_8_bit_mask_can_hold_is_found():
    mask = np.zeros((2, 2, 2), np.uint8)
    mask[1, 1, 1] = 255
    assert find_lesions(mask, (10.0, 10.0, 10.0)) == [Lesion(255, 1, 1.0, (1.0, 1.0, 1.0), (10.0, 10.0, 10.0))]


def test_the_largest_are_listed_of_more_than_are_wanted():
    mask = np.zeros((1, 3, 9), np.uint8)
    mask[0, 0, [0, 3, 4, 6, 7, 8]] = 1  # 1, 2 and 3 voxels
    mask[0, 2, [0, 1, 2, 3]] = 2
    mask[0, 2, 6] = 2
    assert [(lesion.label, lesion.voxels) for lesion in find_lesions(mask, (1.0, 1.0, 1.0), 3)] == [
        (2, 4),
        (1, 3),
        (1, 2),
    ]
    assert find_lesions(mask, (1.0, 1.0, 1.0), 99) == find_lesions(mask, (1.0, 1.0, 1.0))


@pytest.mark.slow
def test_four_million_components_take_seconds_and_little_memory():
    mask = np.zeros((200, 400, 400), np.uint8)
    mask[::2, ::2, ::2] = 1
    tracemalloc.start()
    try:
        assert len(find_lesions(mask, (1.0, 1.0, 1.0), 10_000)) == 10_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 700 << 20


@given(seed=st.integers(0, 500), share=st.sampled_from([0.02, 0.1, 0.4]), labels=st.integers(1, 3))
def test_lesions_add_up_to_the_mask(seed, share, labels):
    measure = pytest.importorskip("skimage.measure")
    rng = np.random.default_rng(seed)
    mask = (rng.integers(1, labels + 1, (7, 8, 9)) * (rng.random((7, 8, 9)) < share)).astype(np.uint8)
    lesions = find_lesions(mask, (2.0, 1.0, 1.0))
    assert [lesion.voxels for lesion in lesions] == sorted((lesion.voxels for lesion in lesions), reverse=True)
    for value in range(1, labels + 1):
        mine = [lesion for lesion in lesions if lesion.label == value]
        regions = measure.regionprops(measure.label(mask == value, connectivity=3))
        assert sorted(lesion.voxels for lesion in mine) == sorted(int(region.area) for region in regions)
        expected = sorted(tuple(np.round(region.centroid, 1)) for region in regions)
        np.testing.assert_allclose(sorted(lesion.centre for lesion in mine), expected, atol=0.11)
        boxes = [np.subtract(region.bbox[3:], region.bbox[:3]) * (2.0, 1.0, 1.0) for region in regions]
        assert sorted(lesion.extent_mm for lesion in mine) == sorted(map(tuple, boxes))


def test_a_lesion_is_named_and_has_its_place_in_the_patient():
    # Voxel (x, y, z) lies at (20 - 2 x, 3 y, 100 + 5 z) mm.
    affine = np.array([[-2.0, 0, 0, 20], [0, 3, 0, 0], [0, 0, 5, 100], [0, 0, 0, 1]])
    lesion = Lesion(2, 10, 0.3, (4.0, 2.0, 1.5), (5.0, 3.0, 2.0))
    told = lesion.described({2: "tumour"}, Geometry(affine, (5.0, 3.0, 2.0), (9, 9, 9)))
    assert (told.name, told.centre_mm) == ("tumour", (17.0, 6.0, 120.0))
    assert (told.voxels, told.centre, told.extent_mm) == (lesion.voxels, lesion.centre, lesion.extent_mm)
    nowhere = lesion.described({1: "liver"}, Geometry(None, (5.0, 3.0, 2.0), (9, 9, 9)))
    assert (nowhere.name, nowhere.centre_mm) == (None, None)
