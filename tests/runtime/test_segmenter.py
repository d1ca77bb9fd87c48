"""From a volume or an array to mask and lesions, with networks that are plain arithmetic."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Lock

import numpy as np
import pytest

from flare_runtime import Segmenter, Volume
from flare_runtime.errors import BundleError, CaseError, FlareError, UsageError
from flare_runtime.imaging.volume import Remark
from flare_runtime.options import RunOptions
from tests.runtime.manifests import ArithmeticNetwork, manifest_fields, memory_bundle
from tests.runtime.nifti_files import blobs

ONE_MM = (1.0, 1.0, 1.0)
RAW = {"name": "raw", "normalisation": {"scheme": "none"}}


def segmenter_of(network=None, *, tta=False, step=None, any_intensity=False, **changes):
    changes = {"channels": [RAW], "spacing_mm": ONE_MM, **changes}
    options = {"tta": tta, "step": step, "any_intensity": any_intensity}
    return Segmenter(memory_bundle(**changes), network or ArithmeticNetwork(), RunOptions(**options))


def two_balls(shape=(24, 30, 32)):
    """Return -100 everywhere but for 100 in two boxes, and the boxes' mask."""
    inside = np.zeros(shape, bool)
    inside[4:9, 5:11, 6:13] = True
    inside[15:18, 20:24, 20:25] = True
    return np.where(inside, 100, -100).astype(np.int16), inside


def test_a_threshold_network_finds_exactly_what_is_positive():
    image, inside = two_balls()
    result = segmenter_of().segment(image, ONE_MM)
    assert result.mask.dtype == np.uint8
    np.testing.assert_array_equal(result.mask, inside)
    assert [(lesion.voxels, lesion.volume_ml, lesion.centre) for lesion in result.lesions] == [
        (5 * 6 * 7, 0.21, (6.0, 7.5, 9.0)),
        (3 * 4 * 5, 0.06, (16.0, 21.5, 22.0)),
    ]
    assert set(result.timings_s) == {"preprocess", "network", "blend", "restore", "measure"}
    assert min(result.timings_s.values()) >= 0
    assert result.remarks == ()


def test_more_lesions_than_are_listed_are_remarked_upon():
    image = np.full((60, 60, 60), -100, np.int16)
    image[::2, ::2, ::2] = 100  # 27,000 voxels, none beside another
    result = segmenter_of().segment(image, ONE_MM)
    assert len(result.lesions) == 10_000
    assert [remark.code for remark in result.remarks] == ["many_lesions"]
    assert int(result.mask.sum()) == 27_000


@pytest.mark.parametrize("transpose", [[0, 1, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]])
def test_a_transposed_model_gives_the_mask_on_the_inputs_axes(transpose):
    image, inside = two_balls()
    result = segmenter_of(transpose_forward=transpose).segment(image, ONE_MM)
    np.testing.assert_array_equal(result.mask, inside)
    assert result.lesions[0].centre == (6.0, 7.5, 9.0)


def test_the_network_sees_the_transposed_image():
    seen = []

    def remember(tiles):
        seen.append(tiles.copy())
        return np.zeros((1, 2, *tiles.shape[2:]))

    image = blobs((5, 6, 7)) | 1
    changes = {"transpose_forward": [2, 0, 1], "spacing_mm": [3.0, 1.0, 2.0], "patch": [7, 5, 6]}
    segmenter_of(ArithmeticNetwork(remember), **changes).segment(image, (1.0, 2.0, 3.0))
    np.testing.assert_array_equal(seen[0][0, 0], image.transpose(2, 0, 1))


def test_what_was_cropped_off_is_background():
    network = ArithmeticNetwork(lambda tiles: np.stack([tiles[:, 0] * 0, tiles[:, 0] * 0 + 1], axis=1))
    image = np.zeros((20, 20, 20), np.int16)
    image[3:13, 4:15, 5:17] = 7
    result = segmenter_of(network).segment(image, ONE_MM)
    np.testing.assert_array_equal(result.mask, image == 7)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 30, 30), (5, 6, 7)])
def test_images_smaller_than_the_patch_are_segmented(shape):
    image = np.full(shape, -5, np.int16)
    image[..., -1:] = 5
    np.testing.assert_array_equal(segmenter_of().segment(image, ONE_MM).mask, image > 0)


def test_volumes_and_lesions_use_the_inputs_own_spacing():
    image = np.full((8, 10, 10), -100, np.float32)
    image[2:6, 3:7, 3:7] = 100
    result = segmenter_of(spacing_mm=[2.0, 1.0, 1.0]).segment(image, (2.0, 1.0, 1.0))
    assert [(lesion.voxels, lesion.volume_ml) for lesion in result.lesions] == [(64, 0.128)]


def test_a_coarser_network_restores_a_box_to_within_a_voxel():
    image = np.full((40, 40, 40), -100, np.float32)
    image[10:30, 8:28, 12:32] = 100
    mask = segmenter_of(spacing_mm=[2.0, 2.0, 2.0]).segment(image, ONE_MM).mask
    assert mask[11:29, 9:27, 13:31].all()
    outside = mask.copy()
    outside[9:31, 7:29, 11:33] = 0
    assert not outside.any()


def test_a_finer_network_restores_a_box_on_a_coarse_input():
    # The input's voxels are three of the network's: most network voxels have no input voxel's centre.
    image = np.full((8, 10, 12), -100, np.float32)
    image[2:6, 3:7, 4:8] = 100
    mask = segmenter_of().segment(image, (3.0, 3.0, 3.0)).mask
    np.testing.assert_array_equal(mask, image > 0)


def test_a_network_that_fires_between_the_inputs_voxels_finds_nothing_there():
    # One voxel of the network's grid in the corner of an input voxel three times its size.
    def function(tiles):
        logits = np.zeros((1, 2, *tiles.shape[2:]))
        logits[0, 0] = 1
        logits[0, 1, 3, 3, 3] = 9
        return logits

    result = segmenter_of(ArithmeticNetwork(function), patch=[12, 12, 12]).segment(np.ones((4, 4, 4)), (3.0, 3.0, 3.0))
    assert not result.mask.any()
    assert result.lesions == []


def test_nothing_found_is_an_empty_mask_without_lesions():
    result = segmenter_of().segment(np.full((9, 10, 11), -3.0), ONE_MM)
    assert not result.mask.any()
    assert result.mask.shape == (9, 10, 11)
    assert result.lesions == []


def test_an_all_zero_image_is_empty_with_a_remark_and_no_network_run():
    network = ArithmeticNetwork()
    result = segmenter_of(network).segment(np.zeros((9, 10, 11), np.int16), ONE_MM)
    assert not result.mask.any()
    assert result.lesions == []
    assert [remark.code for remark in result.remarks] == ["all_zero"]
    assert set(result.timings_s) == {"preprocess", "network", "blend", "restore", "measure"}
    assert network.calls == 0


def test_remarks_of_reader_and_preprocessing_are_passed_on():
    channels = manifest_fields()["channels"]
    volume = replace(Volume.of_array(np.ones((10, 10, 10), np.int16), ONE_MM), remarks=(Remark("misnamed", "text"),))
    with pytest.raises(CaseError, match="not in Hounsfield units"):
        segmenter_of(channels=channels).segment(volume)
    result = segmenter_of(channels=channels, any_intensity=True).segment(volume)
    assert [remark.code for remark in result.remarks] == ["misnamed", "not_hounsfield"]


def test_channels_come_as_volumes_or_as_one_array():
    network = ArithmeticNetwork(lambda tiles: np.stack([tiles[:, 0], tiles[:, 1]], axis=1))
    segmenter = segmenter_of(network, channels=[RAW, {**RAW, "name": "other"}])
    images = np.stack([blobs((9, 10, 11), seed) for seed in (0, 1)])
    from_array = segmenter.segment(images, ONE_MM).mask
    from_volumes = segmenter.segment([Volume.of_array(image, ONE_MM) for image in images]).mask
    np.testing.assert_array_equal(from_array, images[1] > images[0])
    np.testing.assert_array_equal(from_volumes, from_array)
    with pytest.raises(CaseError, match="takes 2"):
        segmenter.segment(images[0], ONE_MM)


def test_scaled_volumes_are_segmented_in_their_intensities():
    image, inside = two_balls()
    stored = ((image + 1024) / 2).astype(np.uint16)
    result = segmenter_of().segment(Volume.of_array(stored, ONE_MM, slope=2.0, intercept=-1024.0))
    np.testing.assert_array_equal(result.mask, inside)


def test_mirroring_is_used_only_where_asked_for():
    runs = []
    for tta in (False, True):
        network = ArithmeticNetwork()
        segmenter_of(network, tta=tta, mirror_axes=[0, 2]).segment(np.ones((8, 8, 8)), ONE_MM)
        runs.append(network.calls)
    assert runs == [1, 4]


def test_the_step_is_the_models_unless_given():
    runs = []
    for step in (None, 1.0, 0.25):
        network = ArithmeticNetwork()
        segmenter_of(network, step=step).segment(np.arange(1, 1025).reshape(8, 8, 16), ONE_MM)
        runs.append(network.calls)
    assert runs == [3, 2, 5]


@pytest.mark.parametrize("step", [0, -0.5, 1e-9, 0.049, 1.1, float("nan")])
def test_an_impossible_step_is_refused(step):
    with pytest.raises(UsageError, match=r"at least 0\.05 and at most 1"):
        segmenter_of(step=step)


@pytest.mark.parametrize(
    ("image", "spacing", "says"),
    [
        (np.ones((3, 3, 3)), None, "needs spacing_mm"),
        (np.ones((3, 3)), ONE_MM, "2 axes"),
        (np.ones((1, 1, 3, 3, 3)), ONE_MM, "5 axes"),
        (Volume.of_array(np.ones((3, 3, 3)), ONE_MM), ONE_MM, "a Volume has its own"),
    ],
)
def test_arguments_that_make_no_sense_together_are_refused(image, spacing, says):
    with pytest.raises(UsageError, match=says):
        segmenter_of().segment(image, spacing)


@pytest.mark.parametrize(
    "spacing", [(0, 1, 1), (-1, 1, 1), (float("nan"), 1, 1), (float("inf"), 1, 1), (1, 1), (1, 1, 1, 1)]
)
def test_a_spacing_that_cannot_be_is_refused(spacing):
    with pytest.raises(FlareError):
        segmenter_of().segment(np.ones((8, 8, 8)), spacing)


def test_nan_in_an_array_counts_as_in_a_file():
    image = np.ones((8, 8, 8), np.float32)
    image[:, 2:, 3] = np.nan
    result = segmenter_of().segment(image, ONE_MM)
    np.testing.assert_array_equal(result.mask, np.isfinite(image))  # 0 is background here
    assert [remark.code for remark in result.remarks] == ["nonfinite"]


def test_one_segmenter_serves_many_cases_alike():
    segmenter = segmenter_of()
    image, inside = two_balls()
    for _ in range(2):
        np.testing.assert_array_equal(segmenter.segment(image, ONE_MM).mask, inside)
        segmenter.segment(np.full((40, 9, 9), -1.0), (2.0, 1.0, 1.0))


class OneAtATime(ArithmeticNetwork):
    """Overwrites the logits of its last run, and cannot be released while it runs, as OpenVINO's requests."""

    def __init__(self):
        super().__init__()
        self._busy = Lock()
        self._logits = np.empty((1, 2, 8, 8, 8), np.float32)

    def run(self, tiles):
        assert self._busy.acquire(blocking=False), "busy"
        time.sleep(0.001)
        self._logits[:] = super().run(tiles)
        self._busy.release()
        return self._logits

    def release(self):
        assert not self._busy.locked(), "busy"
        self._logits[:] = np.nan


def test_threads_share_a_segmenter_and_each_gets_its_own_mask():
    segmenter = segmenter_of(OneAtATime())
    cases = [two_balls((24, 30, 32 + number)) for number in range(4)]
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(lambda case: segmenter.segment(case[0], ONE_MM), cases))
    for result, (_, inside) in zip(results, cases, strict=True):
        np.testing.assert_array_equal(result.mask, inside)


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_threads_share_a_real_network(tiny_bundle, backend):
    segmenter = Segmenter.load(tiny_bundle, RunOptions(device="cpu", backend=backend, precision="fp32", threads=1))
    images = [blobs((20, 30, 28), seed) for seed in range(4)]
    alone = [segmenter.segment(image, (2.5, 1.5, 1.5)).mask for image in images]
    with ThreadPoolExecutor(4) as threads:
        shared = list(threads.map(lambda image: segmenter.segment(image, (2.5, 1.5, 1.5)).mask, images))
    for expected, found in zip(alone, shared, strict=True):
        assert expected.any()
        np.testing.assert_array_equal(found, expected)


def test_a_case_of_endless_tiles_is_refused_before_the_network_runs():
    network = ArithmeticNetwork()
    with pytest.raises(CaseError, match="100,000 are allowed") as caught:
        segmenter_of(network, patch=[2, 2, 2], step=0.05).segment(np.ones((30, 30, 30)), ONE_MM)
    assert caught.value.reason == "too_many_tiles"
    assert network.calls == 0


@pytest.mark.parametrize("shape", [(1, 3, 8, 8, 8), (1, 2, 8, 8, 4), (2, 8, 8, 8)])
def test_logits_of_another_shape_than_promised_are_the_bundles_fault(shape):
    with pytest.raises(BundleError, match=r"was promised"):
        segmenter_of(ArithmeticNetwork(lambda _tiles: np.zeros(shape))).segment(np.ones((8, 8, 8)), ONE_MM)


def test_regions_are_decoded_in_their_order():
    network = ArithmeticNetwork(lambda tiles: np.stack([tiles[:, 0], tiles[:, 0] - 50], axis=1))
    image = np.array([[[-10, 10, 60]]], np.int16)
    result = segmenter_of(network, regions_class_order=[2, 1]).segment(image, ONE_MM)
    assert result.mask.tolist() == [[[0, 2, 1]]]
    assert [(lesion.label, lesion.voxels) for lesion in result.lesions] == [(1, 1), (2, 1)]


@pytest.mark.parametrize("transpose", [[0, 1, 2], [1, 2, 0], [2, 1, 0]])
def test_probabilities_are_given_on_the_inputs_grid_where_asked_for(transpose):
    image = np.zeros((12, 14, 16), np.int16)
    image[2:11, 1:13, 3:15] = np.random.default_rng(0).integers(-4, 5, (9, 12, 12))
    image[2, 1, 3] = image[10, 12, 14] = 3  # the corners of what nnU-Net crops to
    segmenter = segmenter_of(transpose_forward=transpose)
    result = segmenter.finish(segmenter.prepare(image, ONE_MM), with_probabilities=True)
    # The logits are -v and v.
    expected = 1 / (1 + np.exp(-2.0 * image))
    outside = np.ones(image.shape, bool)
    outside[2:11, 1:13, 3:15] = False
    expected[outside] = 0
    assert (result.probabilities.dtype, result.probabilities.shape) == (np.float32, (2, 12, 14, 16))
    np.testing.assert_allclose(result.probabilities, [1 - expected, expected], atol=1e-5)
    plain = segmenter.finish(segmenter.prepare(image, ONE_MM))
    np.testing.assert_array_equal(result.mask, plain.mask)
    assert plain.probabilities is None


def test_probabilities_of_nothing_are_background():
    segmenter = segmenter_of()
    case = segmenter.prepare(np.zeros((4, 5, 6), np.int16), ONE_MM)
    probabilities = segmenter.finish(case, with_probabilities=True).probabilities
    assert probabilities.shape == (2, 4, 5, 6)
    assert (probabilities[0] == 1).all()
    assert not probabilities[1].any()
