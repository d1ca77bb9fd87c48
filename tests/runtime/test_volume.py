"""Volumes in the type they were stored in."""

import numpy as np
import pytest

from flare_runtime.compute.box import Box
from flare_runtime.errors import UsageError
from flare_runtime.imaging.geometry import Geometry
from flare_runtime.imaging.volume import Remark, Volume, slabs


@pytest.mark.parametrize(
    ("length", "thickness", "expected"),
    [(7, 3, [(0, 3), (3, 6), (6, 7)]), (6, 3, [(0, 3), (3, 6)]), (2, 8, [(0, 2)]), (0, 4, [])],
)
def test_slabs_cover_the_length_without_overlap(length, thickness, expected):
    assert [(part.start, part.stop) for part in slabs(length, thickness)] == expected


@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "f4", "f8"])
def test_intensities_are_float32_in_new_memory(dtype):
    voxels = np.arange(24, dtype=dtype).reshape(2, 3, 4)
    volume = Volume.of_array(voxels, (1.0, 1.0, 1.0))
    part = volume.intensities(voxels[1:])
    assert part.dtype == np.float32
    part[:] = -1
    assert voxels.min() == 0


def test_intensities_are_scaled_before_they_are_rounded():
    # 65533 * 0.1 - 6553 is 0.3, of which float32 arithmetic would keep but three digits.
    volume = Volume.of_array(np.full((1, 1, 1), 65533, np.uint16), (1.0, 1.0, 1.0), slope=0.1, intercept=-6553.0)
    assert volume.intensities(volume.voxels).item() == pytest.approx(0.3, abs=1e-7)


def test_transposing_moves_axes_and_spacing_and_copies_nothing():
    voxels = np.zeros((2, 3, 4), np.int16)
    geometry = Geometry(None, (5.0, 1.0, 2.0), (2, 3, 4))
    volume = Volume(voxels, geometry, 2.0, -1024.0, "header", (Remark("a", "b"),))
    turned = volume.transposed((2, 0, 1))
    assert (turned.shape, turned.spacing_mm) == ((4, 2, 3), (2.0, 5.0, 1.0))
    assert np.shares_memory(turned.voxels, voxels)
    assert (turned.slope, turned.intercept, turned.source, turned.remarks) == (2.0, -1024.0, "header", volume.remarks)
    turned.voxels[3, 1, 2] = 9
    assert voxels[1, 2, 3] == 9


def test_a_cropped_volume_keeps_all_but_the_voxels_around():
    voxels = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    volume = Volume(voxels, Geometry(None, (5.0, 1.0, 2.0), (2, 3, 4)), 2.0, -1024.0, "header", (Remark("a", "b"),))
    cut = volume.cropped(Box(slice(1, 2), slice(0, 2), slice(1, 4)))
    np.testing.assert_array_equal(cut.voxels, voxels[1:2, 0:2, 1:4])
    assert (cut.shape, cut.spacing_mm) == ((1, 2, 3), (5.0, 1.0, 2.0))
    assert (cut.slope, cut.intercept, cut.source, cut.remarks) == (2.0, -1024.0, "header", volume.remarks)


def test_voxels_of_another_grid_are_refused():
    with pytest.raises(UsageError, match=r"measure \(2, 3, 4\) \(z, y, x\), their grid \(4, 3, 2\)"):
        Volume(np.zeros((2, 3, 4)), Geometry(None, (1.0, 1.0, 1.0), (4, 3, 2)))
