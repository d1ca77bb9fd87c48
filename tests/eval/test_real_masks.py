"""Surface Dice on real tumour masks: what DeepMind's package says, to the last digits that matter."""

import numpy as np
import pytest
import surface_distance
from scipy.ndimage import binary_dilation

from flare_eval.accuracy.rules import score_masks
from flare_eval.accuracy.surface import surface_distances
from flare_runtime.imaging.read import read_volume

pytestmark = pytest.mark.shared_data

FIRST = ("STS_001", "STS_008", "STS_025", "STS_044")
TOLERANCES = (1.0, 2.0, 4.0)
CHANGES = {
    "shifted by a voxel": lambda mask: np.roll(mask, (1, 1, 1), axis=(0, 1, 2)),
    "shifted by five": lambda mask: np.roll(mask, (0, 5, 0), axis=(0, 1, 2)),
    "dilated": binary_dilation,
    "half of it": lambda mask: (
        mask & (np.arange(mask.shape[0]) < np.flatnonzero(mask.any(axis=(1, 2))).mean())[:, None, None]
    ),
}


def check(path):
    volume = read_volume(path)
    x_first = np.asarray(volume.voxels == 1).transpose(2, 1, 0)
    spacing = volume.spacing_mm[::-1]
    for name, change in CHANGES.items():
        other = change(x_first)
        ours = surface_distances(x_first, other, spacing, max(TOLERANCES))
        theirs = surface_distance.compute_surface_distances(x_first, other, spacing)
        for tolerance in TOLERANCES:
            expected = surface_distance.compute_surface_dice_at_tolerance(theirs, tolerance)
            assert ours.surface_dice(tolerance) == pytest.approx(expected, abs=1e-6), (path.name, name, tolerance)
    mask = np.asarray(volume.voxels == 1, np.uint8)
    assert score_masks(mask, np.zeros_like(mask), volume.spacing_mm, (2.0,)) == (0.0, {"2": 0.0})
    assert score_masks(mask, mask, volume.spacing_mm, (2.0,)) == (1.0, {"2": 1.0})


@pytest.mark.parametrize("case", FIRST)
def test_some_tumours_changed_in_every_way(shared_data, case):
    check(shared_data / "sts" / "labels" / f"{case}.nii.gz")


@pytest.mark.slow
def test_all_tumours_changed_in_every_way(shared_data):
    paths = sorted((shared_data / "sts" / "labels").glob("*.nii.gz"))
    assert len(paths) > len(FIRST)
    for path in paths:
        check(path)
