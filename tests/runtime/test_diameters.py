"""Diameters of lesions: boxes and discs by hand, anything by trying all pairs of points."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flare_runtime.pipeline.components import find_runs
from flare_runtime.pipeline.diameters import axial_diameters


def diameters(mask, spacing_mm=(1.0, 1.0)):
    return axial_diameters(find_runs(np.asarray(mask, bool)), spacing_mm)


def box(height, width):
    mask = np.zeros((1, height + 2, width + 2), bool)
    mask[0, 1:-1, 1:-1] = True
    return mask


def test_one_voxel_is_as_wide_as_the_spacing():
    assert diameters(box(1, 1), (0.5, 2.0)) == (2.0, 0.5, 0)


def test_a_row_of_voxels_is_as_long_as_they_are():
    assert diameters(box(1, 5), (0.5, 2.0)) == (10.0, 0.5, 0)


def test_a_box_by_hand():
    # The middles of the outer faces of 6 x 4 voxels: the farthest are 6 apart along x and 3 along y.
    longest, across, _ = diameters(box(4, 6))
    assert longest == round(float(np.hypot(6, 3)), 2)
    # At right angles to (6, 3) runs (-2, 4), such as from (1, -2) on the lower side to (-1, 2) on the upper.
    assert across == round(2 * float(np.hypot(1, 2)), 2)


@pytest.mark.parametrize(("radius", "spacing_mm"), [(30.0, (1.0, 1.0)), (12.0, (0.5, 0.8)), (40.0, (2.5, 0.7))])
def test_a_disc_is_as_wide_as_it_was_drawn(radius, spacing_mm):
    dy, dx = spacing_mm
    y, x = np.mgrid[: int(2 * radius / dy) + 5, : int(2 * radius / dx) + 5]
    mask = np.hypot(y * dy - radius - dy - 0.1, x * dx - radius - dx - 0.2) < radius
    longest, across, _ = diameters(mask[None], spacing_mm)
    assert longest == pytest.approx(2 * radius, abs=max(spacing_mm))
    assert across == pytest.approx(2 * radius, abs=max(spacing_mm))


def test_the_axes_of_an_ellipse_that_lies_aslant():
    y, x = np.mgrid[:120, :120] - 60.3
    along, across = x * np.cos(0.6) + y * np.sin(0.6), y * np.cos(0.6) - x * np.sin(0.6)
    longest, perpendicular, _ = diameters(((along / 50) ** 2 + (across / 20) ** 2 < 1)[None])
    assert longest == pytest.approx(100, abs=1)
    assert perpendicular == pytest.approx(40, abs=1.5)


def test_the_plane_is_where_it_is_longest_not_where_it_is_largest():
    mask = np.zeros((3, 12, 12), bool)
    mask[0, :6, :6] = True
    mask[2, 3, :] = True
    assert diameters(mask) == (12.0, 1.0, 2)


def by_all_pairs(mask, spacing_mm):
    """Every middle of an outer face against every other, plane by plane."""
    dy, dx = spacing_mm
    best = 0.0
    for plane in np.pad(mask, ((0, 0), (1, 1), (1, 1))):
        faces = []
        for step in ((0, 1), (0, -1), (1, 0), (-1, 0)):
            places = np.argwhere(plane & ~np.roll(plane, (-step[0], -step[1]), (0, 1)))
            faces.append((places + np.divide(step, 2)) * (dy, dx))
        points = np.concatenate(faces)
        if len(points):
            best = max(best, float(np.linalg.norm(points[:, None] - points[None], axis=-1).max()))
    return best


@given(
    seed=st.integers(0, 10_000),
    share=st.sampled_from([0.05, 0.3, 0.8]),
    spacing_mm=st.sampled_from([(1.0, 1.0), (0.7, 0.9), (5.0, 0.5)]),
)
def test_no_two_points_of_the_outline_are_farther_apart(seed, share, spacing_mm):
    mask = np.random.default_rng(seed).random((4, 8, 9)) < share
    mask[1, 4, 4] = True
    longest, across, _ = diameters(mask, spacing_mm)
    assert longest == pytest.approx(by_all_pairs(mask, spacing_mm), abs=0.006)
    assert 0 < across <= longest + 0.011


@given(seed=st.integers(0, 10_000))
def test_a_turned_lesion_measures_the_same(seed):
    mask = np.random.default_rng(seed).random((2, 7, 7)) < 0.3
    mask[0, 3, 3] = True
    first = diameters(mask, (0.8, 0.8))
    turned = diameters(mask.transpose(0, 2, 1)[:, ::-1], (0.8, 0.8))
    assert (first.longest_mm, first.plane) == (turned.longest_mm, turned.plane)


def test_half_a_plane_of_noise_takes_no_time():
    mask = np.random.default_rng(0).random((4, 512, 512)) < 0.5
    started = time.process_time()
    diameters(mask)
    assert time.process_time() - started < 2
