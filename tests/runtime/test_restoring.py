"""Back on the input's grid: the same labels as from upsampling everything."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flare_runtime.compute.box import Box
from flare_runtime.model.manifest import Resampling
from flare_runtime.pipeline.decoding import Decoder
from flare_runtime.pipeline.resampling import Resizing
from flare_runtime.pipeline.restoring import restore, restore_probabilities
from tests.runtime.dense_matrices import dense
from tests.runtime.strict_device import StrictDevice

JOINT, THICK = ((1.0, 1.0, 1.0), (0.7, 0.6, 0.8)), ((1.0, 1.0, 1.0), (5.0, 0.6, 0.8))


def grids(old, new, spacings, **rule):
    return Resizing.between(old, new, *spacings, Resampling(**{"order": 1, **rule}))


def restored(scores, resizing, decoder):
    out = np.zeros(resizing.new_shape, np.uint8)
    restore(scores, resizing, decoder, out)
    return out


def everywhere(scores, resizing):
    """Interpolate all scores in float64."""
    z, y, x = (dense(matrix).astype(np.float64) for matrix in resizing.matrices)
    return np.einsum("ai,bj,ck,nijk->nabc", z, y, x, scores, optimize=True)


def assert_same_where_decided(labels, expected, fine):
    """Compare labels wherever float32 rounding cannot have decided."""
    top = np.sort(np.concatenate([np.zeros((1, *fine.shape[1:])), fine]), axis=0)
    decided = top[-1] - top[-2] > 1e-5
    assert decided.mean() > 0.5
    np.testing.assert_array_equal(labels[decided], expected[decided])


@pytest.mark.parametrize("spacings", [JOINT, THICK], ids=["joint", "separate-z"])
@pytest.mark.parametrize("new", [(23, 40, 33), (7, 11, 9), (12, 40, 33)])
@pytest.mark.parametrize("positives", ["sparse", "dense"])
def test_two_classes_equal_nnunets_upsampling_and_argmax(spacings, new, positives):
    nnunet = pytest.importorskip("nnunetv2.preprocessing.resampling.default_resampling")
    old = (12, 20, 18)
    rng = np.random.default_rng(1)
    logits = rng.standard_normal((2, *old)).astype(np.float32)
    if positives == "sparse":
        logits[0] += 20
        logits[1, 1:4, 2:5, 3:6] = logits[1, 9, 15:18, :3] = 40
    fine = nnunet.resample_data_or_seg_to_shape(
        logits.astype(np.float64), new, *spacings, order=1, order_z=0, force_separate_z=None
    )
    resizing = grids(old, new, spacings)
    assert resizing.separate == (0 if spacings is THICK else None)
    labels = restored(logits[1:] - logits[:1], resizing, Decoder(2))
    assert labels.any()
    assert not labels.all()
    assert_same_where_decided(labels, fine.argmax(axis=0), fine[1:] - fine[:1])


def test_three_classes_equal_nnunets_upsampling_and_argmax():
    nnunet = pytest.importorskip("nnunetv2.preprocessing.resampling.default_resampling")
    logits = np.random.default_rng(2).standard_normal((3, 10, 14, 12)).astype(np.float32)
    fine = nnunet.resample_data_or_seg_to_shape(logits.astype(np.float64), (31, 20, 25), *JOINT, order=1)
    labels = restored(logits[1:] - logits[:1], grids((10, 14, 12), (31, 20, 25), JOINT), Decoder(3))
    assert set(np.unique(labels)) == {0, 1, 2}
    assert_same_where_decided(labels, fine.argmax(axis=0), fine[1:] - fine[:1])


@settings(max_examples=60)
@given(
    old=st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12)),
    new=st.tuples(st.integers(1, 40), st.integers(1, 25), st.integers(1, 25)),
    spacings=st.sampled_from([JOINT, THICK]),
    share=st.sampled_from([0.0, 0.01, 0.2, 0.9]),
    order=st.integers(0, 1),
    decoder=st.sampled_from([Decoder(2), Decoder(4), Decoder(3, (2, 1, 3))]),
    seed=st.integers(0, 99),
)
def test_labels_equal_those_of_interpolation_everywhere(old, new, spacings, share, order, decoder, seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(1, 4, (decoder.channels, *old)).astype(np.float32)
    scores[rng.random(scores.shape) >= share] *= -1
    resizing = grids(old, new, spacings, order=order)
    fine = everywhere(scores, resizing)
    labels = restored(scores, resizing, decoder)
    close = np.abs(fine).min(axis=0) < 1e-5
    if decoder.channels > 1:
        ordered = np.sort(fine, axis=0)
        close |= ordered[-1] - ordered[-2] < 1e-5
    expected = decoder.labels(fine.astype(np.float32))
    np.testing.assert_array_equal(labels[~close], expected[~close])


def test_one_positive_voxel_grows_to_what_linear_interpolation_makes_of_it():
    scores = np.full((1, 3, 3, 3), -1, np.float32)
    scores[0, 1, 1, 1] = 31
    # Tripled, weights along an axis are 1/3, 2/3, 1, 2/3, 1/3 about the centre, and -1 + 32 w > 0 where w > 1/32:
    # the smallest product, 1/27, still counts.
    labels = restored(scores, grids((3, 3, 3), (9, 9, 9), ((3.0,) * 3, (1.0,) * 3)), Decoder(2))
    expected = np.zeros((9, 9, 9), np.uint8)
    expected[2:7, 2:7, 2:7] = 1
    np.testing.assert_array_equal(labels, expected)
    scores[0, 1, 1, 1] = 25  # now w > 1/26, which the corners miss
    labels = restored(scores, grids((3, 3, 3), (9, 9, 9), ((3.0,) * 3, (1.0,) * 3)), Decoder(2))
    assert labels.sum() == 125 - 8
    assert not labels[2, 2, 2]


@pytest.mark.parametrize(("positive", "expected"), [(0, 0), (1, 1), (2, 0)])
def test_a_coarser_input_grid_may_step_over_a_positive_voxel(positive, expected):
    # Of three voxels resampled to one, the centre alone has weight.
    scores = np.full((1, 3, 3, 3), -1, np.float32)
    scores[0, 1, 1, positive] = 5
    resizing = grids((3, 3, 3), (1, 1, 1), ((1.0,) * 3, (3.0,) * 3))
    assert restored(scores, resizing, Decoder(2)).tolist() == [[[expected]]]


def test_an_equal_grid_thresholds_in_place():
    scores = np.random.default_rng(0).standard_normal((1, 20, 7, 5)).astype(np.float32)
    resizing = grids((20, 7, 5), (20, 7, 5), JOINT)
    np.testing.assert_array_equal(restored(scores, resizing, Decoder(2)), scores[0] > 0)


def test_nothing_positive_leaves_the_mask_untouched():
    scores = np.full((2, 5, 6, 7), -0.001, np.float32)
    assert not restored(scores, grids((5, 6, 7), (20, 20, 20), JOINT), Decoder(3)).any()


def test_zero_scores_are_background():
    assert not restored(np.zeros((1, 5, 6, 7), np.float32), grids((5, 6, 7), (20, 20, 20), JOINT), Decoder(2)).any()


def test_labels_go_into_a_transposed_and_cropped_view():
    scores = np.random.default_rng(0).standard_normal((1, 6, 8, 9)).astype(np.float32)
    resizing = grids((6, 8, 9), (20, 12, 15), JOINT)
    mask = np.zeros((30, 40, 50), np.uint8)
    view = mask.transpose(2, 0, 1)[5:25, 6:18, 7:22]
    restore(scores, resizing, Decoder(2), view)
    np.testing.assert_array_equal(view, restored(scores, resizing, Decoder(2)))
    assert mask.sum() == view.sum()


def test_overshooting_orders_are_refused():
    with pytest.raises(ValueError, match="order 0 or 1 only"):
        restored(np.ones((1, 8, 8, 8), np.float32), grids((8, 8, 8), (20, 20, 20), JOINT, order=3), Decoder(2))


REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "active": [3]}
CLASSES = {"background": 0, "organ": 1, "lesion": 2}


@pytest.mark.parametrize("spacings", [JOINT, THICK], ids=["joint", "separate-z"])
@pytest.mark.parametrize(
    ("labels", "decoder"),
    [(CLASSES, Decoder(3)), ({"background": 0, "lesion": 1}, Decoder(2)), (REGIONS, Decoder(3, (1, 2, 3)))],
)
def test_probabilities_are_those_that_nnunet_saves(labels, decoder, spacings):
    nnunet = pytest.importorskip("nnunetv2.preprocessing.resampling.default_resampling")
    handling = pytest.importorskip("nnunetv2.utilities.label_handling.label_handling")
    manager = handling.LabelManager(labels, decoder.regions_class_order)
    old, new, shape = (6, 8, 9), (20, 70, 15), (30, 75, 16)
    bbox = [[4, 24], [5, 75], [0, 15]]
    logits = 6 * np.random.default_rng(3).standard_normal((decoder.outputs, *old)).astype(np.float32)
    fine = nnunet.resample_data_or_seg_to_shape(logits, new, *spacings, order=1, order_z=0, force_separate_z=None)
    expected = manager.revert_cropping_on_probabilities(manager.apply_inference_nonlin(fine), bbox, shape)
    expected = expected.numpy().transpose(0, 3, 1, 2)
    got = decoder.background((16, 30, 75))
    target = Box.between(*np.transpose(bbox)).cut(got.transpose(0, 2, 3, 1))
    restore_probabilities(decoder.scores(logits), grids(old, new, spacings), decoder, target)
    assert (got.dtype, got.shape) == (np.float32, expected.shape)
    np.testing.assert_allclose(got, expected, atol=2e-6)


def test_probabilities_agree_with_the_labels_and_leave_the_scores_alone():
    scores = np.random.default_rng(5).standard_normal((2, 6, 8, 9)).astype(np.float32)
    before, resizing = scores.copy(), grids((6, 8, 9), (20, 12, 15), JOINT)
    out = Decoder(3).background((20, 12, 15))
    restore_probabilities(scores, resizing, Decoder(3), out)
    np.testing.assert_array_equal(scores, before)
    np.testing.assert_allclose(out.sum(axis=0), 1, atol=1e-6)
    np.testing.assert_array_equal(out.argmax(axis=0), restored(scores, resizing, Decoder(3)))


@pytest.mark.parametrize("scores", [1, 2])
def test_the_host_waits_for_a_device_once_for_so_many_planes(scores):
    """It is busy with the next case. 40 planes are three times sixteen, 150 rows three times 64."""
    coarse = np.random.default_rng(5).standard_normal((scores, 20, 50, 9)).astype(np.float32)
    resizing, device, decoder = grids((20, 50, 9), (40, 150, 15), JOINT), StrictDevice(), Decoder(scores + 1)
    out = np.zeros(resizing.new_shape, np.uint8)
    restore(device.upload(coarse), resizing, decoder, out, device)
    np.testing.assert_array_equal(out, restored(coarse, resizing, decoder))
    assert device.memory.waits == 1 + 3


def test_probabilities_of_a_device_are_the_hosts():
    scores = np.random.default_rng(5).standard_normal((2, 6, 8, 9)).astype(np.float32)
    resizing, device = grids((6, 8, 9), (20, 12, 15), JOINT), StrictDevice()
    there, here = (np.zeros((3, 20, 12, 15), np.float32) for _ in range(2))
    restore_probabilities(device.upload(scores), resizing, Decoder(3), there, device)
    restore_probabilities(scores, resizing, Decoder(3), here)
    np.testing.assert_array_equal(there, here)


def test_probabilities_of_a_row_of_thousands_of_voxels_come_in_several_blocks():
    scores = np.random.default_rng(5).standard_normal((1, 2, 3, 1000)).astype(np.float32)
    resizing = grids((2, 3, 1000), (2, 3, 4500), ((1.0,) * 3, (1.0, 1.0, 2 / 9)))
    out = Decoder(2).background((2, 3, 4500))
    restore_probabilities(scores, resizing, Decoder(2), out)
    expected = 1 / (1 + np.exp(-everywhere(scores, resizing)[0]))
    np.testing.assert_allclose(out, [1 - expected, expected], atol=1e-6)
