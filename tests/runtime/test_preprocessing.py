"""From volumes to what the network sees, against nnU-Net's own preprocessor."""

import numpy as np
import pytest

from flare_runtime.compute.box import Box
from flare_runtime.errors import CaseError
from flare_runtime.imaging.geometry import Geometry
from flare_runtime.imaging.volume import Volume
from flare_runtime.pipeline.preprocessing import prepare
from flare_runtime.pipeline.reader_rules import ReaderRules
from tests.runtime.manifests import make_manifest, manifest_fields
from tests.runtime.nifti_files import blobs

ONE_MM = (1.0, 1.0, 1.0)
CT = manifest_fields()["channels"][0]
RAW = {"name": "raw", "normalisation": {"scheme": "none"}}
MASKED = {"name": "MR", "normalisation": {"scheme": "zscore", "masked": True}}


def sides(box):
    return tuple((side.start, side.stop) for side in box)


def test_an_image_on_the_networks_grid_passes_through():
    manifest = make_manifest(channels=[RAW], spacing_mm=ONE_MM, patch=[8, 8, 8])
    voxels = blobs((9, 10, 11)) | 1
    prepared = prepare([Volume.of_array(voxels, ONE_MM)], manifest)
    np.testing.assert_array_equal(prepared.image, voxels[None].astype(np.float32))
    assert sides(prepared.crop) == sides(prepared.inner) == ((0, 9), (0, 10), (0, 11))
    assert (prepared.crop.shape, prepared.inner.shape) == ((9, 10, 11), (9, 10, 11))
    assert prepared.remarks == ()


@pytest.mark.parametrize(
    ("shape", "padded", "inner"),
    [
        ((5, 9, 12), (8, 9, 12), ((1, 6), (0, 9), (0, 12))),
        ((5, 6, 7), (8, 8, 8), ((1, 6), (1, 7), (0, 7))),
        ((1, 1, 1), (8, 8, 8), ((3, 4), (3, 4), (3, 4))),
    ],
)
def test_what_is_smaller_than_the_patch_is_padded_with_zeros_after_normalising(shape, padded, inner):
    manifest = make_manifest(spacing_mm=ONE_MM)
    prepared = prepare([Volume.of_array(np.full(shape, 100, np.int16), ONE_MM)], manifest)
    assert prepared.image.shape == (1, *padded)
    assert sides(prepared.inner) == inner
    inside = prepared.image[0][prepared.inner]
    np.testing.assert_allclose(inside, (100 - 40) / 120, rtol=1e-6)
    assert np.count_nonzero(prepared.image) == inside.size


def test_zeros_around_the_image_are_cropped_off():
    manifest = make_manifest(channels=[RAW], spacing_mm=ONE_MM)
    voxels = np.zeros((20, 20, 20), np.int16)
    voxels[3:13, 4:15, 5:17] = 7
    prepared = prepare([Volume.of_array(voxels, ONE_MM)], manifest)
    assert sides(prepared.crop) == ((3, 13), (4, 15), (5, 17))
    np.testing.assert_array_equal(prepared.image, np.full((1, 10, 11, 12), 7))


@pytest.mark.parametrize("channel", [CT, RAW, MASKED, {"name": "MR", "normalisation": {"scheme": "zscore"}}])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("count", [50, 5000])
def test_voxels_that_are_no_numbers_are_zero(channel, bad, count):
    manifest = make_manifest(channels=[channel], spacing_mm=ONE_MM)
    rules = ReaderRules.of(manifest)
    voxels = blobs((20, 24, 22)).astype(np.float32)
    voxels[:, :, 0] = -1000
    where = np.random.default_rng(0).choice(voxels.size, count, replace=False)
    voxels.reshape(-1)[where] = 0
    expected = prepare(rules.volumes([Volume.of_array(voxels.copy(), ONE_MM)]), manifest)
    voxels.reshape(-1)[where] = bad
    prepared = prepare(rules.volumes([Volume.of_array(voxels, ONE_MM)]), manifest)
    np.testing.assert_array_equal(prepared.image, expected.image)
    assert np.isfinite(prepared.image).all()
    assert np.count_nonzero(~np.isfinite(voxels)) == count  # the caller's array is left as it was


def test_nothing_but_zeros_and_voxels_that_are_no_numbers_is_none():
    voxels = np.zeros((9, 9, 9), np.float32)
    voxels[4, 4, 4] = np.nan
    manifest = make_manifest(channels=[MASKED])
    volumes = ReaderRules.of(manifest).volumes([Volume.of_array(voxels, ONE_MM)])
    assert prepare(volumes, manifest) is None


def test_nothing_but_zeros_is_none():
    assert prepare([Volume.of_array(np.zeros((9, 9, 9), np.int16), ONE_MM)], make_manifest()) is None


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_wrong_number_of_channels_is_refused(count):
    manifest = make_manifest(channels=[CT, {**CT, "name": "PET"}])
    with pytest.raises(CaseError, match="takes 2: CT, PET") as caught:
        prepare([Volume.of_array(np.ones((9, 9, 9), np.int16), ONE_MM)] * count, manifest)
    assert caught.value.reason == "wrong_channels"


@pytest.mark.parametrize(
    "other",
    [
        Volume.of_array(np.ones((9, 9, 8), np.int16), ONE_MM),
        Volume.of_array(np.ones((9, 9, 9), np.int16), (1.0, 1.0, 1.01)),
    ],
)
def test_channels_on_different_grids_are_refused(other):
    manifest = make_manifest(channels=[CT, CT])
    with pytest.raises(CaseError) as caught:
        prepare([Volume.of_array(np.ones((9, 9, 9), np.int16), ONE_MM), other], manifest)
    assert caught.value.reason == "channel_mismatch"


def test_channels_in_different_places_are_refused():
    manifest = make_manifest(channels=[CT, {**CT, "name": "PET"}])
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    moved = affine.copy()
    moved[2, 3] = 1070
    first, second = (Volume(blobs((9, 9, 9)), Geometry(matrix, ONE_MM, (9, 9, 9))) for matrix in (affine, moved))
    with pytest.raises(CaseError, match=r"the image of PET lies up to 1\.07e\+03 mm off, against that of CT") as caught:
        prepare([first, second], manifest)
    assert caught.value.reason == "channel_mismatch"
    assert prepare([first, first], manifest) is not None
    assert prepare([first, Volume.of_array(second.voxels, ONE_MM)], manifest) is not None  # its place is unknown


def test_an_image_that_resampling_would_make_gigantic_is_refused():
    with pytest.raises(CaseError) as caught:
        prepare([Volume.of_array(np.ones((20, 20, 20), np.int16), (20.0,) * 3)], make_manifest(spacing_mm=[0.01] * 3))
    assert caught.value.reason == "too_large"


def test_an_image_thinner_than_half_a_voxel_of_the_network_is_refused():
    with pytest.raises(CaseError) as caught:
        prepare([Volume.of_array(np.ones((1, 20, 20), np.int16), ONE_MM)], make_manifest(spacing_mm=[2.5, 1.0, 1.0]))
    assert caught.value.reason == "bad_dimensions"


def test_a_ct_without_hounsfield_units_is_refused_unless_any_intensity_is_allowed():
    manifest, grey = make_manifest(spacing_mm=ONE_MM), Volume.of_array(np.full((10, 10, 10), 60, np.int16), ONE_MM)
    with pytest.raises(CaseError) as caught:
        prepare([grey], manifest)
    assert caught.value.reason == "not_hounsfield"
    prepared = prepare([grey], manifest, any_intensity=True)
    assert [remark.code for remark in prepared.remarks] == ["not_hounsfield"]


def test_every_ct_channel_has_to_be_in_hounsfield_units():
    manifest = make_manifest(channels=manifest_fields()["channels"] * 2, spacing_mm=ONE_MM)
    sound, grey = (
        Volume.of_array(blobs((12, 12, 12)), ONE_MM),
        Volume.of_array(np.full((12, 12, 12), 60, np.int16), ONE_MM),
    )
    with pytest.raises(CaseError, match="not in Hounsfield units"):
        prepare([sound, grey], manifest)


def test_other_schemes_do_not_ask_for_hounsfield_units():
    manifest = make_manifest(channels=[RAW], spacing_mm=ONE_MM)
    assert prepare([Volume.of_array(np.ones((10, 10, 10), np.int16), ONE_MM)], manifest).remarks == ()


def test_the_input_is_left_as_it_was():
    voxels = blobs((12, 13, 14)).astype(np.float32)
    before = voxels.copy()
    prepare([Volume.of_array(voxels, (3.0, 2.0, 2.0))], make_manifest())
    np.testing.assert_array_equal(voxels, before)


def framed(shape, seed=0):
    """An image with zeros all round and a hole of zeros inside."""
    image = blobs(shape, seed) | 1
    image[: shape[0] // 5], image[:, -2:], image[:, :, :3] = 0, 0, 0
    image[shape[0] // 2, shape[1] // 2, shape[2] // 2] = 0
    return image


CASES = {
    "joint": ((20, 30, 28), (3.0, 1.1, 1.2), {}),
    "separate-z": ((9, 30, 28), (6.0, 1.1, 1.2), {}),
    "separate-z of the network": ((30, 20, 22), (1.5, 1.5, 1.5), {"spacing_mm": [6.0, 1.0, 1.1]}),
    "transposed": ((28, 20, 30), (1.2, 2.0, 0.9), {"transpose_forward": [1, 2, 0]}),
    "transposed, separate": ((28, 9, 30), (1.2, 6.0, 0.9), {"transpose_forward": [1, 0, 2]}),
    "two channels, one masked": ((20, 24, 22), (2.5, 2.0, 2.0), {"channels": [CT, MASKED]}),
    "smaller than the patch": ((4, 9, 8), (2.5, 1.0, 1.0), {"patch": [16, 16, 16]}),
}


@pytest.mark.parametrize(("shape", "spacing", "changes"), CASES.values(), ids=CASES.keys())
def test_the_network_sees_what_nnunets_preprocessor_makes(shape, spacing, changes):
    preprocessors = pytest.importorskip("nnunetv2.preprocessing.preprocessors.default_preprocessor")
    handler = pytest.importorskip("nnunetv2.utilities.plans_handling.plans_handler")
    from tests.model_folders import CONFIGURATION, make_plans

    manifest = make_manifest(**changes)
    images = np.stack([framed(shape, seed) for seed in range(len(manifest.channels))])
    plans = handler.PlansManager(
        make_plans(
            channels=len(images),
            patch=manifest.patch,
            spacing_mm=manifest.spacing_mm,
            transpose_forward=manifest.transpose_forward,
            normalisation=["CTNormalization", "ZScoreNormalization"][: len(images)],
            masked=[False, True][: len(images)],
        )
    )
    expected, _, properties = preprocessors.DefaultPreprocessor(verbose=False).run_case_npy(
        images, None, {"spacing": list(spacing)}, plans, plans.get_configuration(CONFIGURATION), {}
    )
    prepared = prepare([Volume.of_array(image, spacing) for image in images], manifest)
    got = prepared.inner.cut(prepared.image)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, atol=1e-4 * np.ptp(expected))
    assert sides(prepared.crop) == tuple(tuple(side) for side in properties["bbox_used_for_cropping"])
    assert prepared.crop.shape == properties["shape_after_cropping_and_before_resampling"]
    assert prepared.spacing_mm == tuple(spacing[axis] for axis in manifest.transpose_forward)
    assert np.count_nonzero(prepared.image) <= got.size


def test_the_region_of_the_body_is_where_its_box_lies_on_the_networks_grid(monkeypatch):
    manifest = make_manifest(channels=[RAW], spacing_mm=[1.0, 1.5, 0.75], patch=[40, 8, 8])
    voxels = np.zeros((20, 40, 50), np.int16)
    voxels[2:18, 4:40, 5:50] = 1
    body = Box(slice(4, 10), slice(0, 20), slice(15, 35))
    monkeypatch.setattr("flare_runtime.pipeline.preprocessing.body_box", lambda _volume: body)
    prepared = prepare([Volume.of_array(voxels, (2.0, 1.0, 1.0))], manifest, body_only=True)
    assert prepared.inner == Box.between((4, 0, 0), (36, 24, 60))
    # Of the crop it is 2 to 8, 0 to 16 and 10 to 30; resampled 4 to 16, 0 to 10.7 and 13.3 to 40. Along z a tile is 40.
    assert prepared.region == Box.between((0, 0, 13), (40, 11, 40))
    monkeypatch.setattr("flare_runtime.pipeline.preprocessing.body_box", lambda _volume: None)
    prepared = prepare([Volume.of_array(voxels, (2.0, 1.0, 1.0))], manifest, body_only=True)
    assert prepared.region == Box.whole((40, 24, 60))
