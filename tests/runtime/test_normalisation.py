"""Every scheme against nnU-Net's class, and by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flare_runtime.errors import CaseError
from flare_runtime.imaging.volume import Volume, slabs
from flare_runtime.model.manifest import CTScheme, NoScheme, Rescale01Scheme, RGB01Scheme, ZScoreScheme
from flare_runtime.pipeline.normalisation import fit

CT = CTScheme(lower=-600.0, upper=500.0, mean=40.0, std=120.0)
EVERYWHERE = (slice(None),) * 3


def normalised(scheme, voxels, inside=None, thickness=3, **scaling):
    """Fit a scheme and apply it piece by piece, as the pipeline does."""
    volume = Volume.of_array(np.asarray(voxels), (1.0, 1.0, 1.0), **scaling)
    apply = fit(scheme, volume, inside)
    pieces = []
    for part in slabs(volume.shape[0], thickness):
        piece = volume.intensities(volume.voxels[part])
        apply(piece, (part, slice(None), slice(None)))
        pieces.append(piece)
    return np.concatenate(pieces)


def random_image(shape=(19, 7, 5), seed=0):
    return np.random.default_rng(seed).normal(20, 400, shape).astype(np.float32)


def test_ct_by_hand():
    got = normalised(CT, np.array([[[-1000, -600, 40, 100, 500, 3000]]], np.int16))
    expected = [(-600 - 40) / 120, (-600 - 40) / 120, 0, 0.5, (500 - 40) / 120, (500 - 40) / 120]
    np.testing.assert_allclose(got[0, 0], expected, rtol=1e-6)


def test_zscore_by_hand():
    # Mean 3 and population standard deviation 2.
    np.testing.assert_allclose(normalised(ZScoreScheme(), np.array([[[1, 5, 1, 5]]], np.int16))[0, 0], [-1, 1, -1, 1])


def test_masked_zscore_by_hand():
    image = np.array([[[100, 1, 5, 0]]], np.float32)
    inside = np.array([[[False, True, True, False]]])
    got = normalised(ZScoreScheme(masked=True), image, inside)
    # Outside stays as it is; inside has mean 3 and standard deviation 2.
    np.testing.assert_allclose(got[0, 0], [100, -1, 1, 0])


def test_rescale_by_hand():
    np.testing.assert_allclose(normalised(Rescale01Scheme(), np.array([[[-2, 0, 6]]], np.int16))[0, 0], [0, 0.25, 1])


def test_rgb_by_hand():
    got = normalised(RGB01Scheme(), np.array([[[0, 51, 255]]], np.uint8))
    np.testing.assert_allclose(got[0, 0], [0, 0.2, 1], rtol=1e-6)


@pytest.mark.parametrize("values", [[-1, 10], [0, 256]])
def test_what_is_no_rgb_is_refused(values):
    with pytest.raises(CaseError, match="takes 0 to 255") as caught:
        normalised(RGB01Scheme(), np.array([[values]], np.int16))
    assert caught.value.reason == "not_rgb"


def test_none_leaves_the_scaled_intensities():
    got = normalised(NoScheme(), np.array([[[0, 1]]], np.uint8), slope=2.0, intercept=-1024.0)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got[0, 0], [-1024, -1022])


@pytest.mark.parametrize("scheme", [ZScoreScheme(), Rescale01Scheme()])
def test_a_constant_image_becomes_zeros_not_nan(scheme):
    np.testing.assert_array_equal(normalised(scheme, np.full((4, 3, 2), 7, np.int16)), 0)


def nnunets(name, image, *, inside=None, masked=False):
    schemes = pytest.importorskip("nnunetv2.preprocessing.normalization.default_normalization_schemes")
    properties = {"mean": CT.mean, "std": CT.std, "percentile_00_5": CT.lower, "percentile_99_5": CT.upper}
    seg = None if inside is None else np.where(inside, 0, -1)
    return getattr(schemes, name)(use_mask_for_norm=masked, intensityproperties=properties).run(image.copy(), seg)


@pytest.mark.parametrize(
    ("scheme", "name"),
    [
        (CT, "CTNormalization"),
        (ZScoreScheme(), "ZScoreNormalization"),
        (Rescale01Scheme(), "RescaleTo01Normalization"),
        (NoScheme(), "NoNormalization"),
    ],
)
def test_schemes_are_nnunets(scheme, name):
    image = random_image()
    np.testing.assert_allclose(normalised(scheme, image), nnunets(name, image), rtol=1e-5, atol=1e-5)


def test_rgb_is_nnunets():
    image = np.random.default_rng(0).integers(0, 256, (9, 5, 4)).astype(np.float32)
    np.testing.assert_allclose(normalised(RGB01Scheme(), image), nnunets("RGBTo01Normalization", image), rtol=1e-6)


@given(seed=st.integers(0, 500), share=st.sampled_from([0.01, 0.3, 0.99]))
def test_masked_zscore_is_nnunets(seed, share):
    rng = np.random.default_rng(seed)
    image = random_image((11, 6, 5), seed)
    inside = rng.random(image.shape) < share
    inside[0, 0, :2] = True
    image[~inside] = 0
    expected = nnunets("ZScoreNormalization", image, inside=inside, masked=True)
    got = normalised(ZScoreScheme(masked=True), image, inside)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scheme", [CT, ZScoreScheme(), Rescale01Scheme()])
def test_pieces_along_any_axis_give_the_same(scheme):
    image = random_image()
    volume = Volume.of_array(image, (1.0, 1.0, 1.0))
    apply = fit(scheme, volume, None)
    whole = image.copy()
    apply(whole, EVERYWHERE)
    np.testing.assert_array_equal(normalised(scheme, image, thickness=4), whole)
    sideways = image[:, :, 2:4].copy()
    apply(sideways, (slice(None), slice(None), slice(2, 4)))
    np.testing.assert_array_equal(sideways, whole[:, :, 2:4])


def test_pieces_of_a_masked_image_use_their_part_of_the_mask():
    image = random_image()
    inside = np.random.default_rng(1).random(image.shape) < 0.5
    apply = fit(ZScoreScheme(masked=True), Volume.of_array(image, (1.0, 1.0, 1.0)), inside)
    whole = image.copy()
    apply(whole, EVERYWHERE)
    np.testing.assert_array_equal(whole[~inside], image[~inside])
    assert (whole[inside] != image[inside]).all()
    sideways = image[:, 3:5].copy()
    apply(sideways, (slice(None), slice(3, 5), slice(None)))
    np.testing.assert_array_equal(sideways, whole[:, 3:5])
