"""Connected components: how many, how large, where."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flare_runtime.errors import CaseError
from flare_runtime.imaging.geometry import Geometry
from flare_runtime.imaging.volume import Volume
from flare_runtime.pipeline import components
from flare_runtime.pipeline.lesion_runs import LesionRuns
from flare_runtime.pipeline.lesions import LabelTotal, Lesion, find_lesions, measure_lesions


def basic(lesions):
    """What tells lesions apart."""
    return [Lesion(one.label, one.voxels, one.volume_ml, one.centre, one.extent_mm) for one in lesions]


def test_an_empty_mask_has_no_lesions():
    assert find_lesions(np.zeros((3, 4, 5), np.uint8), (1.0, 1.0, 1.0)) == []


def test_size_place_and_order_by_hand():
    mask = np.zeros((10, 20, 20), np.uint8)
    mask[1:3, 2:4, 5:9] = 1  # 16 voxels about (1.5, 2.5, 6.5)
    mask[6:9, 10:15, 12:18] = 1  # 90 voxels about (7, 12, 14.5)
    # A voxel of 5.0 x 0.5 x 2.0 mm holds 0.005 ml.
    assert basic(find_lesions(mask, (5.0, 0.5, 2.0))) == [
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
    assert basic(find_lesions(mask, (10.0, 10.0, 10.0))) == [
        Lesion(3, 3, 3.0, (0.0, 0.0, 3.0), (10.0, 10.0, 30.0)),
        Lesion(1, 2, 2.0, (0.0, 0.0, 0.5), (10.0, 10.0, 20.0)),
    ]


def test_the_largest_label_an_8_bit_mask_can_hold_is_found():
    mask = np.zeros((2, 2, 2), np.uint8)
    mask[1, 1, 1] = 255
    assert basic(find_lesions(mask, (10.0, 10.0, 10.0))) == [Lesion(255, 1, 1.0, (1.0, 1.0, 1.0), (10.0, 10.0, 10.0))]


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
    mask = np.zeros((9, 9, 9), np.uint8)
    mask[4, 2, 1:3] = 2  # about (4, 2, 1.5)
    (lesion,) = measure_lesions(mask, Geometry(affine, (5.0, 3.0, 2.0), (9, 9, 9)), {2: "tumour"}).lesions
    assert (lesion.id, lesion.name, lesion.centre_mm) == (1, "tumour", (17.0, 6.0, 120.0))
    assert lesion.centre_lps_mm == (-17.0, -6.0, 120.0)
    (nowhere,) = measure_lesions(mask, Geometry(None, (5.0, 3.0, 2.0), (9, 9, 9)), {1: "liver"}).lesions
    assert (nowhere.name, nowhere.centre_mm, nowhere.centre_lps_mm) == (None, None, None)


def test_slices_and_diameters_are_axial_however_the_scan_is_stored():
    mask = np.zeros((12, 10, 14), np.uint8)
    mask[3, 2:4, 1:9] = 1  # 8 x 2 voxels in slice 3
    mask[4, 2:8, 1:6] = 1  # 5 x 6 voxels in slice 4, the largest
    spacing = (5.0, 1.0, 1.0)
    affine = np.diag([1.0, 1.0, 5.0, 1.0])
    (upright,) = measure_lesions(mask, Geometry(affine, spacing, mask.shape)).lesions
    assert (upright.largest_slice, upright.diameter_slice) == (4, 3)
    assert upright.diameter_mm == round(float(np.hypot(8, 1)), 2)
    for axes in ((1, 0, 2), (2, 1, 0), (1, 2, 0)):
        grid = Geometry(affine, spacing, mask.shape).transposed(axes)
        (stored,) = measure_lesions(mask.transpose(axes), grid).lesions
        assert (stored.largest_slice, stored.diameter_slice) == (4, 3)
        assert (stored.diameter_mm, stored.perpendicular_mm) == (upright.diameter_mm, upright.perpendicular_mm)
        assert stored.centre_mm == upright.centre_mm
        assert stored.extent_mm == tuple(upright.extent_mm[axis] for axis in axes)


def test_what_reaches_a_face_of_the_scan_is_marked():
    for place in ((0, 4, 4), (8, 4, 4), (4, 0, 4), (4, 8, 4), (4, 4, 0), (4, 4, 8)):
        mask = np.zeros((9, 9, 9), np.uint8)
        mask[place] = 1
        assert find_lesions(mask, (1.0, 1.0, 1.0))[0].touches_border
    mask = np.zeros((9, 9, 9), np.uint8)
    mask[1:8, 1:8, 1:8] = 1
    assert not find_lesions(mask, (1.0, 1.0, 1.0))[0].touches_border


@given(seed=st.integers(0, 500), axis=st.integers(0, 2))
def test_intensities_are_those_of_the_voxels(seed, axis):
    rng = np.random.default_rng(seed)
    mask = (rng.integers(1, 3, (7, 8, 9)) * (rng.random((7, 8, 9)) < 0.2)).astype(np.uint8)
    mask[: seed % 3], mask[6 - seed % 4 :] = 0, 0
    mask[2, 3, 3] = 1
    affine = np.eye(4)[:, [*np.roll(np.arange(3), axis).tolist(), 3]]
    geometry = Geometry(affine, (1.0, 1.0, 1.0), (7, 8, 9))
    volume = Volume(rng.integers(0, 4000, mask.shape).astype(np.int16), geometry, 0.5, -1024.0)

    def scan(wanted):
        with_lesions = np.flatnonzero(mask.any(axis=(1, 2)))
        assert (wanted.start, wanted.stop) == (with_lesions[0], with_lesions[-1] + 1)
        part = np.full_like(volume.voxels, 30_000)
        part[wanted] = volume.voxels[wanted]
        return replace(volume, voxels=part)

    lesions = measure_lesions(mask, geometry, scan=scan).lesions
    for lesion in lesions:
        if lesion.voxels == 1:
            z, y, x = map(int, lesion.centre)
            assert lesion.mean_intensity == round(float(volume.voxels[z, y, x]) * 0.5 - 1024, 1)
            assert lesion.sd_intensity == 0
    measure = pytest.importorskip("skimage.measure")
    expected = []
    for value in (1, 2):
        labels = measure.label(mask == value, connectivity=3)
        for number in range(1, labels.max() + 1):
            values = volume.intensities(volume.voxels[labels == number]).astype(float)
            expected.append((value, len(values), round(values.mean(), 1), round(values.std(), 1)))
    found = [(one.label, one.voxels, one.mean_intensity, one.sd_intensity) for one in lesions]
    np.testing.assert_allclose(sorted(found), sorted(expected), atol=0.11)


def test_intensities_of_a_bright_metal_beside_nothing_else_are_exact():
    mask = np.ones((40, 60, 60), np.uint8)
    volume = Volume.of_array(np.full(mask.shape, 30_000, np.int32), (1.0, 1.0, 1.0))
    (lesion,) = measure_lesions(mask, volume.geometry, scan=lambda _wanted: volume).lesions
    assert (lesion.mean_intensity, lesion.sd_intensity) == (30_000, 0)


def test_an_image_that_is_gone_or_another_leaves_intensities_out_with_a_remark():
    mask = np.ones((2, 2, 2), np.uint8)
    geometry = Geometry(None, (1.0, 1.0, 1.0), (2, 2, 2))

    def gone(_wanted):
        raise CaseError("unreadable", "scan.nii.gz: No such file")

    other = Volume.of_array(np.zeros((3, 3, 3)), (1.0, 1.0, 1.0))
    for scan in (gone, lambda _wanted: other):
        found = measure_lesions(mask, geometry, scan=scan)
        assert found.lesions[0].mean_intensity is None
        assert [remark.code for remark in found.remarks] == ["no_intensities"]
    nan = Volume.of_array(np.full((2, 2, 2), np.nan), (1.0, 1.0, 1.0))
    assert measure_lesions(mask, geometry, scan=lambda _wanted: nan).lesions[0].mean_intensity is None


def test_an_empty_mask_asks_for_no_image():
    def never():
        raise AssertionError

    found = measure_lesions(np.zeros((2, 2, 2), np.uint8), Geometry(None, (1.0, 1.0, 1.0), (2, 2, 2)), scan=never)
    assert (found.lesions, found.totals, found.remarks) == ([], (), ())


def test_totals_count_what_is_not_listed():
    mask = np.zeros((1, 3, 12), np.uint8)
    mask[0, 0, ::2] = 1
    mask[0, 2, 3:6] = 4
    found = measure_lesions(mask, Geometry(None, (10.0, 10.0, 10.0), mask.shape), {1: "cyst"}, most=2)
    assert [lesion.id for lesion in found.lesions] == [1, 2]
    assert found.totals == (LabelTotal(1, "cyst", 6, 6.0), LabelTotal(4, None, 1, 3.0))


def test_noise_is_connected_as_anything_else(monkeypatch):
    mask = np.random.default_rng(3).integers(0, 3, (9, 20, 30)).astype(np.uint8)
    by_runs = LesionRuns.of(mask, None)
    monkeypatch.setattr(components, "_MANY_RUNS", 0)
    by_label_image = LesionRuns.of(mask, None)
    assert by_label_image.totals == by_runs.totals
    for name in ("values", "voxels", "first"):
        np.testing.assert_array_equal(getattr(by_label_image, name), getattr(by_runs, name))
    for name in ("z", "y", "start", "stop"):
        np.testing.assert_array_equal(getattr(by_label_image.runs, name), getattr(by_runs.runs, name))


def test_lesions_beyond_a_thousand_have_no_diameters_and_a_remark_says_so():
    mask = np.zeros((2, 66, 70), np.uint8)
    mask[0, ::2, ::2] = 1
    found = measure_lesions(mask, Geometry(None, (1.0, 1.0, 1.0), mask.shape))
    assert [lesion.diameter_mm for lesion in found.lesions] == [1.0] * 1000 + [None] * 155
    assert [(one.code, one.text) for one in found.remarks] == [
        ("many_lesions", "there are 1,155 lesions; the 1,000 largest have diameters")
    ]
