"""What logits mean: two classes, many classes, overlapping regions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flare_runtime.pipeline.decoding import Decoder


def decode(decoder, voxels):
    """Return the labels of voxels given one after the other as their logits."""
    logits = np.array(voxels, np.float32).T[:, None, None, :]
    scores = decoder.scores(logits)
    assert scores.shape == (decoder.channels, 1, 1, len(voxels))
    labels = decoder.labels(scores)
    assert labels.dtype == np.uint8
    return labels[0, 0].tolist()


def test_two_classes_carry_the_difference_and_a_tie_is_background():
    decoder = Decoder(2)
    assert decoder.channels == 1
    assert decode(decoder, [(1, 2), (2, 1), (5, 5), (-3, -2), (0, 0)]) == [1, 0, 0, 1, 0]


def test_three_classes_take_the_largest_and_ties_go_to_the_lower_label():
    voxels = [(0, 1, 2), (0, 2, 1), (3, 2, 1), (1, 1, 0), (0, 1, 1), (1, 1, 1), (0, 0, 1), (-1, -3, -2)]
    assert decode(Decoder(3), voxels) == [2, 1, 0, 0, 1, 0, 2, 0]


def test_regions_are_written_in_order_over_each_other():
    # The whole tumour writes 2, the core 3, the enhancing part 1: a later channel wins, whatever its label.
    decoder = Decoder(3, (2, 3, 1))
    assert decoder.channels == 3
    voxels = [(1, -1, -1), (1, 1, -1), (1, 1, 1), (-1, 1, -1), (-1, -1, -1), (0, 0, 0), (9, 1, 0.5)]
    assert decode(decoder, voxels) == [2, 3, 1, 3, 0, 0, 1]


def test_one_region_is_a_threshold_at_zero():
    assert decode(Decoder(1, (4,)), [(0.1,), (0,), (-0.1,)]) == [4, 0, 0]


@pytest.mark.parametrize("decoder", [Decoder(2), Decoder(3), Decoder(2, (1, 2))])
def test_scores_take_no_memory_of_their_own(decoder):
    logits = np.ones((decoder.outputs, 2, 2, 2), np.float32)
    assert np.shares_memory(decoder.scores(logits), logits)


@given(seed=st.integers(0, 1000), outputs=st.integers(2, 6))
def test_exclusive_classes_agree_with_argmax(seed, outputs):
    # Small integers make ties common and their differences exact.
    logits = np.random.default_rng(seed).integers(-2, 3, (outputs, 4, 4, 4)).astype(np.float32)
    decoder = Decoder(outputs)
    np.testing.assert_array_equal(decoder.labels(decoder.scores(logits.copy())), logits.argmax(axis=0))


@given(seed=st.integers(0, 1000))
def test_labels_agree_with_nnunets_label_manager(seed):
    handling = pytest.importorskip("nnunetv2.utilities.label_handling.label_handling")
    manager = handling.LabelManager(
        {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "active": [3]}, regions_class_order=[1, 2, 3]
    )
    logits = np.random.default_rng(seed).normal(size=(3, 4, 4, 4)).astype(np.float32)
    decoder = Decoder(3, (1, 2, 3))
    np.testing.assert_array_equal(
        decoder.labels(decoder.scores(logits.copy())), np.asarray(manager.convert_logits_to_segmentation(logits))
    )


def test_probabilities_by_hand():
    # Scores of two classes: log 2 and log 5 above the background, of 1 + 2 + 5 = 8 shares.
    scores = np.log(np.float32([2, 5])).reshape(2, 1, 1, 1)
    assert Decoder(3).probabilities(scores).ravel() == pytest.approx([1 / 8, 2 / 8, 5 / 8])
    assert Decoder(2, (1, 2)).probabilities(scores).ravel() == pytest.approx([2 / 3, 5 / 6])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("decoder", [Decoder(2), Decoder(1, (1,))])
def test_scores_far_from_0_are_certain(decoder):
    scores = np.array([-1e30, -200, 200, 1e30], np.float32).reshape(1, 1, 1, 4)
    assert decoder.probabilities(scores)[-1].ravel() == pytest.approx([0, 0, 1, 1])


def test_where_the_network_did_not_look_there_is_background_alone():
    assert Decoder(3).background((1, 1, 2)).tolist() == [[[[1, 1]]], [[[0, 0]]], [[[0, 0]]]]
    assert Decoder(2, (1, 2)).background((1, 1, 2)).tolist() == [[[[0, 0]]], [[[0, 0]]]]
