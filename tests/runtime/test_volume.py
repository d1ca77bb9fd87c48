"""Volumes in the type they were stored in."""

import numpy as np
import pytest

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
    volume = Volume(voxels, (1.0, 1.0, 1.0))
    part = volume.intensities(voxels[1:])
    assert part.dtype == np.float32
    part[:] = -1
    assert voxels.min() == 0


def test_intensities_are_scaled_before_they_are_rounded():
    # 65533 * 0.1 - 6553 is 0.3, of which float32 arithmetic would keep but three digits.
    volume = Volume(np.full((1, 1, 1), 65533, np.uint16), (1.0, 1.0, 1.0), slope=0.1, intercept=-6553.0)
    assert volume.intensities(volume.voxels).item() == pytest.approx(0.3, abs=1e-7)


def test_transposing_moves_axes_and_spacing_and_copies_nothing():
    voxels = np.zeros((2, 3, 4), np.int16)
    volume = Volume(voxels, (5.0, 1.0, 2.0), 2.0, -1024.0, "header", (Remark("a", "b"),))
    turned = volume.transposed((2, 0, 1))
    assert (turned.shape, turned.spacing_mm) == ((4, 2, 3), (2.0, 5.0, 1.0))
    assert np.shares_memory(turned.voxels, voxels)
    assert (turned.slope, turned.intercept, turned.header, turned.remarks) == (2.0, -1024.0, "header", volume.remarks)
    turned.voxels[3, 1, 2] = 9
    assert voxels[1, 2, 3] == 9
