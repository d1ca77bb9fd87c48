"""Surface distances: by hand, and against DeepMind's own package."""

import numpy as np
import pytest
import surface_distance
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from flare_eval.accuracy.surface import element_areas, surface_distances
from tests.eval.nifti_masks import ball


def theirs(reference, prediction, spacing, tolerance):
    distances = surface_distance.compute_surface_distances(reference, prediction, spacing)
    return surface_distance.compute_surface_dice_at_tolerance(distances, tolerance)


def test_a_single_voxel_has_eight_elements():
    voxel = np.ones((1, 1, 1), bool)
    found = surface_distances(voxel, voxel, (1.0, 1.0, 1.0), 2.0)
    assert len(found.areas[0]) == 8
    # One corner set: a triangle between the middles of three edges, of area sqrt(3) / 8.
    np.testing.assert_allclose(found.areas[0], np.sqrt(3) / 8)
    assert (found.distances[0] == 0).all()
    assert found.surface_dice(2.0) == 1.0


def test_two_voxels_apart_by_hand():
    masks = np.zeros((2, 1, 1, 5), bool)
    masks[0, 0, 0, 0] = masks[1, 0, 0, 3] = True
    found = surface_distances(*masks, (1.0, 1.0, 1.0), 5.0)
    # Corners 0 and 1 of the one lie 3 and 2 away from corner 3 of the other.
    assert sorted(set(found.distances[0])) == [2.0, 3.0]
    assert found.surface_dice(1.9) == 0.0
    assert found.surface_dice(2.0) == pytest.approx(0.5)
    assert found.surface_dice(3.0) == 1.0


def test_a_flat_face_has_the_area_of_its_squares():
    half = np.zeros((6, 20, 20), bool)
    half[:3] = True
    areas = surface_distances(half, half, (2.0, 1.0, 0.5), 1.0).areas[0]
    assert np.isclose(areas, 1.0 * 0.5).sum() >= 19 * 19


def test_farther_than_the_limit_is_infinite_and_not_to_be_asked_for():
    masks = np.zeros((2, 1, 1, 9), bool)
    masks[0, 0, 0, 0] = masks[1, 0, 0, 8] = True
    found = surface_distances(*masks, (1.0, 1.0, 1.0), 3.0)
    assert np.isinf(found.distances[0]).all()
    with pytest.raises(ValueError, match="up to 3"):
        found.surface_dice(4.0)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="measure"):
        surface_distances(np.ones((1, 1, 1), bool), np.ones((1, 1, 2), bool), (1.0, 1.0, 1.0), 1.0)


def test_the_area_table_is_positive_but_for_all_or_nothing():
    areas = element_areas((1.0, 0.7, 3.0))
    assert areas[0] == areas[255] == 0
    assert (areas[1:255] > 0).all()


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.bool_, (5, 6, 4)),
    arrays(np.bool_, (5, 6, 4)),
    st.tuples(*[st.sampled_from([0.3, 0.7, 0.9765625, 1.0, 2.5, 5.0])] * 3),
    st.sampled_from([0.5, 1.0, 2.0, 5.0]),
)
def test_any_pair_of_masks_agrees_with_deepmind(reference, prediction, spacing, tolerance):
    if not (reference.any() and prediction.any()):
        return
    ours = surface_distances(reference, prediction, spacing, tolerance).surface_dice(tolerance)
    assert ours == pytest.approx(theirs(reference, prediction, spacing, tolerance), abs=1e-12)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.27, 0.98, 0.98), (0.8, 0.8, 5.0)])
@pytest.mark.parametrize("shift", [(0, 0, 0), (1, 0, 0), (0, 2, 3), (4, 4, 4)])
def test_shifted_balls_agree_with_deepmind(spacing, shift):
    reference = ball((30, 34, 32), (14, 15, 16), 9 * min(spacing), spacing).astype(bool)
    prediction = np.roll(reference, shift, axis=(0, 1, 2))
    surfaces = surface_distances(reference, prediction, spacing, 5.0)
    for tolerance in (0.5, 1.0, 2.0, 5.0):
        assert surfaces.surface_dice(tolerance) == pytest.approx(
            theirs(reference, prediction, spacing, tolerance), abs=1e-12
        )
