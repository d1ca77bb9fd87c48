"""Grids of any file format: compared, turned and cut."""

from itertools import permutations

import numpy as np
import pytest

from flare_runtime.compute.box import Box
from flare_runtime.imaging.geometry import Geometry

SHAPE, SPACING = (4, 5, 6), (3.0, 2.0, 1.5)
# Voxel (x, y, z) to mm: x goes back along y, y up along z, z to the right.
AFFINE = np.array([[0, 0, 3, 10.0], [-1.5, 0, 0, 20.0], [0, 2, 0, 30.0], [0, 0, 0, 1]])
ORIENTED = Geometry(AFFINE, SPACING, SHAPE)


def place(geometry, z, y, x):
    return geometry.affine @ (x, y, z, 1)


@pytest.mark.parametrize("axes", permutations(range(3)))
def test_a_turned_grid_has_every_voxel_where_it_was(axes):
    turned = ORIENTED.transposed(axes)
    assert turned.shape == tuple(SHAPE[axis] for axis in axes)
    assert turned.spacing_mm == tuple(SPACING[axis] for axis in axes)
    voxel = (1, 3, 4)
    np.testing.assert_array_equal(place(turned, *(voxel[axis] for axis in axes)), place(ORIENTED, *voxel))


def test_a_cut_grid_has_every_voxel_where_it_was():
    cut = ORIENTED.cropped(Box(slice(1, 3), slice(2, 5), slice(3, 4)))
    assert (cut.shape, cut.spacing_mm) == ((2, 3, 1), SPACING)
    # Voxel (z, y, x) = (1, 2, 3): 10 + 3 * 1, 20 - 1.5 * 3, 30 + 2 * 2.
    np.testing.assert_array_equal(place(cut, 0, 0, 0), (13, 15.5, 34, 1))
    np.testing.assert_array_equal(place(cut, 1, 2, 0), place(ORIENTED, 2, 4, 3))


def test_grids_without_a_place_are_turned_and_cut_too():
    grid = Geometry(None, SPACING, SHAPE).transposed((2, 0, 1)).cropped(Box(slice(0, 2), slice(1, 3), slice(0, 5)))
    assert (grid.affine, grid.spacing_mm, grid.shape) == (None, (1.5, 3.0, 2.0), (2, 2, 5))


def test_another_shape_is_a_difference():
    assert ORIENTED.difference(Geometry(AFFINE, SPACING, (4, 5, 7))) == (
        "measures (4, 5, 7) voxels (z, y, x), not (4, 5, 6)"
    )


def test_another_place_or_direction_of_the_same_shape_and_spacing_is_a_difference():
    moved, mirrored = AFFINE.copy(), AFFINE.copy()
    moved[0, 3] += 1070
    mirrored[:, 0] *= -1
    assert ORIENTED.difference(Geometry(moved, SPACING, SHAPE)) == "lies up to 1.07e+03 mm off"
    # The last of six voxels of 1.5 mm goes as far the other way.
    assert ORIENTED.difference(Geometry(mirrored, SPACING, SHAPE)) == "lies up to 15 mm off"


def test_what_has_no_place_is_compared_by_shape_and_spacing():
    array = Geometry(None, SPACING, SHAPE)
    assert array.difference(ORIENTED) is None
    assert ORIENTED.difference(array) is None
    assert array.difference(Geometry(None, (3.002, 2.0, 1.5), SHAPE)) is None
    assert ORIENTED.difference(Geometry(None, (3.01, 2.0, 1.5), SHAPE)) == (
        "has a spacing of 1.5 x 2 x 3.01 mm (x, y, z), not 1.5 x 2 x 3 mm (x, y, z)"
    )
