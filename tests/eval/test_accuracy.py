"""Every rule of the challenge by hand-computed cases, and every bad file by name."""

import gzip

import numpy as np
import pytest

from flare_eval.accuracy.rules import dice, score_masks
from flare_eval.accuracy.scores import Pair, Rules, evaluate, find_pairs, score_case
from flare_runtime.errors import UsageError
from tests.eval.nifti_masks import SPACING, ball, cube, write

SHAPE = (12, 16, 16)
REFERENCE = cube(SHAPE, (2, 2, 2), (6, 10, 10))  # 4 x 8 x 8 = 256 voxels of 1 mm^3
EMPTY = np.zeros(SHAPE, np.uint8)


@pytest.fixture
def score(tmp_path):
    def run(reference, prediction, tolerances=(2.0,), strict=False, **of_prediction):
        truth = write(tmp_path / "truth" / "STS_005.nii.gz", reference)
        mask = None if prediction is None else write(tmp_path / "mask" / "STS_005.nii.gz", prediction, **of_prediction)
        return score_case(Pair("STS_005", truth, mask), Rules(tolerances, strict=strict))

    return run


def test_a_perfect_prediction(score):
    result = score(REFERENCE, REFERENCE)
    assert (result.dsc, result.nsd, result.status) == (1.0, {"2": 1.0}, "scored")
    assert result.reference_ml == result.prediction_ml == 0.256
    assert (result.source, result.case) == ("STS", "STS_005")
    assert [lesion.found for lesion in result.lesions] == [True]
    assert result.message == ""


def test_rule_1_a_value_above_1_gives_0_even_where_it_is_right(score):
    result = score(REFERENCE, REFERENCE * 2)
    assert (result.dsc, result.nsd) == (0.0, {"2": 0.0})
    assert "holds 2" in result.message


def test_rule_1_comes_before_rule_2(score):
    prediction = EMPTY.copy()
    prediction[0, 0, 0] = 3
    assert score(EMPTY, prediction).dsc == 0.0


def test_rule_2_both_empty_give_1(score):
    result = score(EMPTY, EMPTY)
    assert (result.dsc, result.nsd) == (1.0, {"2": 1.0})
    assert result.lesions == []


@pytest.mark.parametrize(("reference", "prediction"), [(EMPTY, REFERENCE), (REFERENCE, EMPTY)])
def test_rule_3_one_empty_gives_0(score, reference, prediction):
    result = score(reference, prediction)
    assert (result.dsc, result.nsd) == (0.0, {"2": 0.0})
    assert result.false_positives == int(prediction.any())


def test_rule_4_below_a_dice_of_one_fifth_there_is_no_surface_score(score):
    # 25 of 256 + 1 voxels in common at most: one slab of 4 x 8 x 8 moved so that 24 voxels overlap.
    prediction = cube(SHAPE, (5, 7, 2), (9, 15, 10))  # overlap 1 x 3 x 8 = 24 of 256 and 256
    result = score(REFERENCE, prediction)
    assert result.dsc == round(2 * 24 / 512, 4) == 0.0938
    assert result.nsd == {"2": 0.0}


def test_rule_5_from_a_dice_of_one_fifth_on_there_is_one(score):
    # Overlap 4 x 8 x 2 = 64 of 256 and 384: exactly 0.2 is not below 0.2.
    prediction = cube(SHAPE, (2, 2, 8), (8, 10, 16))
    result = score(REFERENCE, prediction)
    assert result.dsc == 0.2
    assert 0 < result.nsd["2"] < 1


def test_dice_is_rounded_to_four_decimals(score):
    prediction = cube(SHAPE, (2, 2, 2), (6, 10, 9))  # 224, all inside
    assert score(REFERENCE, prediction).dsc == round(448 / 480, 4) == 0.9333


def test_spacing_counts_per_axis(score):
    # One voxel thicker: 2 mm in z, 0.5 mm in x.
    along_z = score(REFERENCE, cube(SHAPE, (2, 2, 2), (7, 10, 10)), (0.5, 1.9, 2.0)).nsd
    along_x = score(REFERENCE, cube(SHAPE, (2, 2, 2), (6, 10, 11)), (0.4, 0.5)).nsd
    assert along_z["0.5"] < 1
    assert along_z["1.9"] < 1
    assert along_z["2"] == 1.0
    assert along_x["0.4"] < 1
    assert along_x["0.5"] == 1.0


def test_a_missing_prediction_counts_as_0(score):
    result = score(REFERENCE, None)
    assert (result.status, result.dsc, result.nsd) == ("missing", 0.0, {"2": 0.0})
    assert [lesion.found for lesion in result.lesions] == [False]


def test_nothing_to_find_is_no_excuse_for_a_prediction_that_is_not_there(score):
    assert (score(EMPTY, None).dsc, score(EMPTY, None).nsd) == (0.0, {"2": 0.0})
    assert score(EMPTY, EMPTY[:-1]).dsc == 0.0


def test_dice_of_several_labels_counts_voxels_of_equal_ones():
    reference, prediction = (np.array(labels, np.uint8) for labels in ([[[1, 2, 0, 2]]], [[[1, 1, 1, 2]]]))
    assert dice(reference, prediction) == 2 * 2 / (3 + 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"spacing": (2.0, 1.0, 0.6)}, "mm off"), ({"origin": (5.0, 0.0, 0.0)}, "5 mm off")],
)
def test_another_grid_is_scored_and_named_or_refused(score, options, message):
    result = score(REFERENCE, REFERENCE, **options)
    assert (result.status, result.dsc, result.nsd) == ("scored", 1.0, {"2": 1.0})
    assert message in result.message
    refused = score(REFERENCE, REFERENCE, strict=True, **options)
    assert (refused.status, refused.dsc) == ("bad_prediction", 0.0)
    assert message in refused.message


def test_another_shape_is_named(score):
    result = score(REFERENCE, REFERENCE[:-1])
    assert result.status == "bad_prediction"
    assert "(11, 16, 16)" in result.message
    assert "(12, 16, 16)" in result.message


def test_a_shift_of_rounding_is_no_other_grid(score):
    assert score(REFERENCE, REFERENCE, origin=(1e-5, 0.0, 0.0)).status == "scored"


def test_float_masks_of_whole_numbers_are_read(score):
    assert score(REFERENCE.astype(np.float32), REFERENCE.astype(np.int32)).dsc == 1.0


def test_fractions_are_no_labels(score):
    assert "whole numbers" in score(REFERENCE, REFERENCE * 0.5).message


def test_a_reference_that_is_not_binary_cannot_be_scored(score):
    result = score(REFERENCE * 2, REFERENCE)
    assert (result.status, result.dsc, result.nsd) == ("bad_reference", None, {})
    assert "holds 2" in result.message


def test_unreadable_files_are_told_apart(tmp_path):
    good = write(tmp_path / "good.nii.gz", REFERENCE)
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(good.read_bytes()[:-20])
    text = tmp_path / "text.nii.gz"
    text.write_bytes(gzip.compress(b"no image"))
    assert score_case(Pair("a", good, bad)).status == "bad_prediction"
    assert score_case(Pair("a", good, text)).status == "bad_prediction"
    assert score_case(Pair("a", bad, good)).status == "bad_reference"


def test_several_lesions_and_false_positives(score):
    reference = ball(SHAPE, (4, 4, 4), 2) | ball(SHAPE, (8, 12, 12), 1)
    prediction = ball(SHAPE, (4, 4, 4), 2) | ball(SHAPE, (9, 3, 12), 1)
    result = score(reference, prediction)
    assert [lesion.found for lesion in result.lesions] == [True, False]
    assert result.false_positives == 1


def test_masks_can_be_scored_without_files():
    assert score_masks(REFERENCE, REFERENCE, SPACING, (2.0, 4.0)) == (1.0, {"2": 1.0, "4": 1.0})


@pytest.fixture
def folders(tmp_path):
    for case in ("b", "a", "c"):
        write(tmp_path / "truth" / f"{case}.nii.gz", REFERENCE)
    for case in ("a", "b", "extra"):
        write(tmp_path / "masks" / f"{case}.nii.gz", REFERENCE)
    return tmp_path / "truth", tmp_path / "masks"


def test_pairs_are_the_references_in_order_with_or_without_a_prediction(folders):
    pairs = find_pairs(*folders)
    assert [(pair.case, pair.prediction is not None) for pair in pairs] == [("a", True), ("b", True), ("c", False)]


def test_the_official_reading_leaves_missing_ones_out_and_names_them(folders):
    result = evaluate("m", find_pairs(*folders), Rules(official=True))
    assert [case.case for case in result.cases] == ["a", "b"]
    assert result.missing == ["c"]


def test_two_files_are_a_pair(folders):
    truth, masks = folders
    (pair,) = find_pairs(truth / "a.nii.gz", masks / "b.nii.gz")
    assert pair.case == "a"


def test_folders_that_cannot_be_matched_are_a_usage_error(folders, tmp_path):
    truth, masks = folders
    (tmp_path / "empty").mkdir()
    for given in ((truth, tmp_path / "none"), (tmp_path / "empty", masks), (truth, tmp_path / "empty")):
        with pytest.raises(UsageError):
            find_pairs(*given)


def test_several_processes_give_what_one_gives(folders):
    pairs = find_pairs(*folders)
    assert evaluate("m", pairs, workers=2) == evaluate("m", pairs, workers=1)
