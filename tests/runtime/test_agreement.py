"""How far two masks agree, counted by hand."""

import numpy as np
import pytest

from flare_runtime.pipeline.agreement import Agreement, compare


def mask(*values):
    return np.array(values, np.uint8).reshape(1, 1, -1)


def test_equal_masks_agree_fully():
    assert compare(mask(0, 1, 2, 0), mask(0, 1, 2, 0)) == Agreement(1.0, 1.0, 0, 2)


def test_two_empty_masks_agree_fully():
    assert compare(mask(0, 0), mask(0, 0)) == Agreement(1.0, 1.0, 0, 0)


def test_dice_and_share_by_hand():
    # Foreground 3 and 2, 1 in common: Dice 2 / 5; 3 of 5 voxels differ.
    assert compare(mask(1, 1, 1, 0, 0), mask(1, 0, 0, 1, 0)) == Agreement(2 / 5, 2 / 5, 3, 3)


def test_another_class_is_no_overlap():
    assert compare(mask(1, 2), mask(2, 1)) == Agreement(0.0, 0.0, 2, 2)


def test_nothing_found_has_no_dice():
    assert compare(mask(1, 0, 0, 0), mask(0, 0, 0, 0)) == Agreement(0.75, 0.0, 1, 1)


def test_masks_of_different_shapes_are_not_compared():
    with pytest.raises(ValueError, match=r"\(1, 1, 2\) and \(1, 1, 3\)"):
        compare(mask(0, 0), mask(0, 0, 0))
