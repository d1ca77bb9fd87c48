"""How sure the network is of a lesion: the mean probability of its label, beside the probabilities of all voxels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from flare_runtime.imaging.geometry import Geometry
from flare_runtime.imaging.volume import Volume
from flare_runtime.options import RunOptions
from flare_runtime.pipeline.decoding import Decoder
from flare_runtime.pipeline.label_probabilities import RowCollector, RowSums
from flare_runtime.pipeline.lesions import measure_lesions
from flare_runtime.pipeline.restoring import restore, restore_probabilities
from flare_runtime.segmenter import Segmenter
from tests.runtime.manifests import ArithmeticNetwork, memory_bundle
from tests.runtime.nifti_files import blobs
from tests.runtime.strict_device import StrictDevice
from tests.runtime.test_device_pipeline import CT, MODELS
from tests.runtime.test_restoring import JOINT, grids

DECODERS = [Decoder(2), Decoder(4), Decoder(3, (1, 2, 3)), Decoder(3, (3, 1, 2)), Decoder(1, (1,))]


def of_labels(decoder, probabilities, labels):
    """Return the probability of each voxel's label; 0 for background."""
    order = decoder.regions_class_order or range(decoder.outputs)
    return sum(np.where((labels == label) & (labels > 0), probabilities[i], 0) for i, label in enumerate(order))


def test_the_probability_of_a_label_by_hand():
    logits = np.log(np.array([0.2, 0.5, 0.3], np.float32)).reshape(3, 1)
    decoder = Decoder(3)
    np.testing.assert_allclose(decoder.label_probabilities(decoder.scores(logits.copy())), [0.5], rtol=1e-6)
    odds = np.log(np.array([[0.9 / 0.1], [0.6 / 0.4], [0.3 / 0.7]], np.float32))  # the third region is not there
    np.testing.assert_allclose(Decoder(3, (1, 2, 3)).label_probabilities(odds), [0.6], rtol=1e-6)
    np.testing.assert_allclose(Decoder(2).label_probabilities(odds[:1]), [0.9], rtol=1e-6)


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_probability_of_a_label_is_that_of_its_class_or_region(decoder):
    scores = (8 * np.random.default_rng(0).standard_normal((decoder.channels, 5, 6, 7))).astype(np.float32)
    labels = decoder.labels(scores)
    expected = of_labels(decoder, decoder.probabilities(scores), labels)
    got = decoder.label_probabilities(scores)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got[labels > 0], expected[labels > 0], rtol=1e-5)


@given(st.integers(0, 2**32 - 1))
def test_rows_are_of_one_label_and_sum_what_lies_in_them(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, (2, 3, 7)).astype(np.uint8)
    probabilities = np.where(labels, rng.integers(1, 9, labels.shape) / 8, 0).astype(np.float16)
    inside = np.flatnonzero(labels)
    collector = RowCollector((10, 20, 30))
    if len(inside):
        collector.add(labels, inside, probabilities.ravel()[inside], (4, 5, 6))
    rows = collector.rows()
    assert rows.sums.sum() == probabilities.sum(dtype=np.float64)
    ends = {}
    for place, total in zip(np.stack(rows.places, axis=1) - (4, 5, 6), rows.sums, strict=True):
        z, y, x = place
        stop = x
        while stop < 7 and labels[z, y, stop] == labels[z, y, x]:
            stop += 1
        assert total == probabilities[z, y, x:stop].sum(dtype=np.float64)
        ends[z, y, x] = stop
    assert sum(stop - x for (_, _, x), stop in ends.items()) == len(inside)


@pytest.mark.parametrize("decoder", DECODERS)
def test_restored_rows_hold_the_probabilities_of_all_labels_on_the_host_and_on_a_device(decoder):
    scores = (3 * np.random.default_rng(1).standard_normal((decoder.channels, 6, 40, 9))).astype(np.float32)
    resizing, device = grids((6, 40, 9), (20, 150, 15), JOINT), StrictDevice()
    probabilities = decoder.background(resizing.new_shape)
    restore_probabilities(scores, resizing, decoder, probabilities)
    labels, again = (np.zeros(resizing.new_shape, np.uint8) for _ in range(2))
    rows = restore(scores, resizing, decoder, labels)
    expected = of_labels(decoder, probabilities, labels)
    assert rows.sums.sum() == pytest.approx(expected.sum(), rel=1e-4)
    by_plane = np.bincount(rows.places[0], rows.sums, len(labels))
    np.testing.assert_allclose(by_plane, expected.sum(axis=(1, 2)), rtol=1e-3)
    on_device = restore(device.upload(scores), resizing, decoder, again, device)
    np.testing.assert_allclose(np.bincount(on_device.places[0], on_device.sums, len(labels)), by_plane, rtol=1e-6)


def test_a_mean_is_over_a_lesion_alone_whatever_was_removed_or_is_not_listed():
    mask = np.zeros((3, 4, 9), np.uint8)
    mask[0, 0, :4], mask[0, 0, 4:6], mask[1, 1, 3:5] = 1, 2, 1  # two lesions that touch, and more of the first
    mask[2, 3, 8] = 1
    places = [(0, 0, 0), (0, 0, 2), (0, 0, 4), (1, 1, 3), (2, 3, 8), (2, 0, 0)]  # the last was removed
    sums = np.array([1.5, 1.0, 0.8, 1.4, 0.6, 1.0])
    geometry = Geometry(None, (1.0, 1.0, 1.0), mask.shape)
    rows = RowSums(tuple(np.array(places).T), sums)
    found = measure_lesions(mask, geometry, rows=rows).lesions
    assert [(one.label, one.voxels, one.mean_probability) for one in found] == [
        (1, 6, round(3.9 / 6, 3)),
        (2, 2, 0.4),
        (1, 1, 0.6),
    ]
    assert [one.mean_probability for one in measure_lesions(mask, geometry, rows=rows, most=1).lesions] == [0.65]
    assert measure_lesions(mask, geometry).lesions[0].mean_probability is None


def segmenter(model, options=None):
    changes, function = MODELS[model]
    bundle = memory_bundle(**{"channels": [CT], "spacing_mm": [3.0, 1.0, 1.0], "patch": [6, 16, 12], **changes})
    return Segmenter(bundle, ArithmeticNetwork(function), options)


def stored(letters):
    """Return a scan whose axes x, y and z point there."""
    image = (blobs((11, 34, 40)) - 20).astype(np.int16)
    image[:, :3] = 0
    affine = np.zeros((4, 4))
    for axis, (letter, side) in enumerate(zip(letters, (1.25, 1.5, 3.0), strict=True)):
        affine["LRPAIS".index(letter) // 2, axis] = side if letter in "RAS" else -side
    affine[:, 3] = 5, 6, 7, 1
    return Volume(image, Geometry(affine, (3.0, 1.5, 1.25), image.shape))


@pytest.mark.parametrize("model", [name for name in MODELS if name != "two channels"])
@pytest.mark.parametrize("letters", ["LPS", "SRP"])
def test_a_lesion_is_as_probable_as_its_voxels_are_on_average(model, letters):
    options = RunOptions(min_volume_mm3=60)  # removes some
    segments = segmenter(model, options)
    result = segments.segment(stored(letters), probabilities=True)
    assert result.lesions
    order = segments.bundle.manifest.regions_class_order
    for lesion in result.lesions:
        components, count = ndimage.label(result.mask == lesion.label, np.ones((3, 3, 3)))
        ids = np.arange(1, count + 1)
        centres = np.round(ndimage.center_of_mass(components > 0, components, ids), 1)
        (own,) = (i for i, centre in zip(ids, centres, strict=True) if np.allclose(centre, lesion.centre, atol=0.051))
        likely = result.probabilities[order.index(lesion.label) if order else lesion.label]
        assert lesion.mean_probability == pytest.approx(likely[components == own].mean(), abs=1e-3)
        assert 0.3 < lesion.mean_probability < 1
