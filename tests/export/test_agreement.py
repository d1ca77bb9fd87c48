"""How far two masks agree, counted by hand."""

import numpy as np
import pytest

from flare_export.parity.agreement import compare
from flare_runtime.model.manifest import Agreement


def mask(*values):
    return np.array(values, np.uint8).reshape(1, 1, -1)


def agreement(voxel_agreement, dice, foreground_voxels):
    return Agreement(voxel_agreement=voxel_agreement, dice=dice, foreground_voxels=foreground_voxels)


def test_equal_masks_agree_fully():
    assert compare(mask(0, 1, 2, 0), mask(0, 1, 2, 0)) == agreement(1.0, 1.0, 2)


def test_two_empty_masks_agree_fully():
    assert compare(mask(0, 0), mask(0, 0)) == agreement(1.0, 1.0, 0)


def test_dice_and_share_by_hand():
    # Foreground 3 and 2, 1 in common: Dice 2 / 5; 3 of 5 voxels differ.
    assert compare(mask(1, 1, 1, 0, 0), mask(1, 0, 0, 1, 0)) == agreement(2 / 5, 2 / 5, 3)


def test_another_class_is_no_overlap():
    assert compare(mask(1, 2), mask(2, 1)) == agreement(0.0, 0.0, 2)


def test_nothing_found_has_no_dice():
    assert compare(mask(1, 0, 0, 0), mask(0, 0, 0, 0)) == agreement(0.75, 0.0, 1)


def test_masks_of_different_shapes_are_not_compared():
    with pytest.raises(ValueError, match=r"\(1, 1, 2\) and \(1, 1, 3\)"):
        compare(mask(0, 0), mask(0, 0, 0))
