"""Lesion by lesion, by hand."""

import numpy as np

from flare_eval.accuracy.detection import detect


def line(text):
    return np.array([int(c) for c in text], np.uint8).reshape(1, 1, -1)


def test_found_missed_and_invented():
    #                    AAAA  B   C
    reference = line("0111100010010000")
    prediction = line("0011110000000110")
    lesions, false_positives = detect(reference, prediction, voxel_ml=0.5)
    assert [(lesion.volume_ml, lesion.found) for lesion in lesions] == [(2.0, True), (0.5, False), (0.5, False)]
    # Three voxels in common of four and four.
    assert lesions[0].dice == 0.75
    assert lesions[1].dice == 0.0
    assert false_positives == 1


def test_one_voxel_finds_a_lesion():
    (lesion,), false_positives = detect(line("0111100"), line("0000100"), 1.0)
    assert (lesion.found, lesion.dice, false_positives) == (True, 0.4, 0)


def test_one_component_over_two_lesions_finds_both():
    lesions, false_positives = detect(line("01101100"), line("01111100"), 1.0)
    assert [lesion.found for lesion in lesions] == [True, True]
    assert [lesion.dice for lesion in lesions] == [round(4 / 7, 4)] * 2
    assert false_positives == 0


def test_two_components_in_one_lesion_count_together():
    lesions, false_positives = detect(line("0111110"), line("0110110"), 1.0)
    assert len(lesions) == 1
    assert lesions[0].dice == round(8 / 9, 4)
    assert false_positives == 0


def test_voxels_that_touch_at_a_corner_are_one_lesion():
    reference = np.zeros((2, 2, 2), np.uint8)
    reference[0, 0, 0] = reference[1, 1, 1] = 1
    lesions, _ = detect(reference, reference, 1.0)
    assert len(lesions) == 1


def test_nothing_in_either():
    assert detect(line("000"), line("000"), 1.0) == ([], 0)


def test_nothing_in_the_reference():
    assert detect(line("00000"), line("10101"), 1.0) == ([], 3)
