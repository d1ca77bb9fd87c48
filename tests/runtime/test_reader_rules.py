"""What nnU-Net's readers make of images, whichever one a model was trained with."""

import numpy as np
import pytest

from flare_runtime import RunOptions
from flare_runtime.errors import CaseError
from flare_runtime.imaging.geometry import Geometry
from flare_runtime.imaging.read import read_grid, read_volume
from flare_runtime.imaging.volume import Volume
from flare_runtime.pipeline.reader_rules import ReaderRules
from flare_runtime.segmenter import Segmenter
from tests.runtime.manifests import ArithmeticNetwork, make_manifest, memory_bundle
from tests.runtime.nifti_files import sform_fields, write_nifti

ONE_MM = (1.0, 1.0, 1.0)
RAW = {"name": "MR", "normalisation": {"scheme": "none"}}
# Axes x, y, z to the back, to the head and to the right, 2, 3 and 1 mm.
PSR = np.array([[0, 0, 1.0, -5], [-2.0, 0, 0, 6], [0, 3.0, 0, -7], [0, 0, 0, 1]])
FOUR = ("SimpleITKIO", "SimpleITKIOWithReorient", "NibabelIO", "NibabelIOWithReorient")


def psr_volume(voxels):
    return Volume(voxels, Geometry(PSR, (1.0, 3.0, 2.0), voxels.shape))


def rules(reader="SimpleITKIO", *, reorient=None, any_spacing=False, **changes):
    return ReaderRules.of(make_manifest(reader=reader, **changes), reorient=reorient, any_spacing=any_spacing)


def codes(volume):
    return [remark.code for remark in volume.remarks]


def only(volumes):
    (volume,) = volumes
    return volume


# --- orientation


@pytest.mark.parametrize("reader", FOUR)
def test_two_readers_turn_scans_to_ras(reader):
    voxels = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    read = only(rules(reader).volumes([psr_volume(voxels)]))
    if reader.endswith("WithReorient"):
        np.testing.assert_array_equal(read.voxels, voxels.transpose(1, 2, 0)[:, ::-1])
        assert (read.spacing_mm, read.geometry.orientation) == ((3.0, 2.0, 1.0), "RAS")
        assert codes(read) == ["few_slices"]
    else:
        np.testing.assert_array_equal(read.voxels, voxels)
        assert np.shares_memory(read.voxels, voxels)
        assert read.spacing_mm == (1.0, 3.0, 2.0)
        assert codes(read) == ["few_slices", "orientation"]


def test_a_person_may_have_scans_turned_for_any_model():
    voxels = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    for reader in FOUR:
        read = only(rules(reader, reorient="LPS").volumes([psr_volume(voxels)]))
        assert (read.geometry.orientation, codes(read)) == ("LPS", [])


@pytest.mark.parametrize(
    ("trained", "stored", "remarked"),
    [
        (None, "LPS", False),
        (None, "RAS", False),
        (None, "LAS", False),
        (None, "LPI", True),
        (None, "PSR", True),
        ("LPS", "LPS", False),
        ("LPS", "RAS", True),
        ("PSR", "PSR", False),
    ],
)
def test_another_orientation_than_the_models_is_remarked_upon(trained, stored, remarked):
    grid = Geometry(PSR, (1.0, 3.0, 2.0), (3, 4, 5))
    turned = grid.turned(rules(reorient=stored).turn(grid))
    volume = Volume(np.ones(turned.shape, np.int16), turned)
    changes = {"training_orientation": trained} if trained else {}
    read = only(rules(**changes).volumes([volume]))
    assert codes(read) == ["orientation"] * remarked
    if remarked:
        text = read.remarks[0].text
        assert f"stored as {stored}, " in text
        assert f"--reorient {trained or 'CODE'} turns" in text


def test_an_array_of_unknown_place_is_taken_for_turned_already():
    array = Volume.of_array(np.ones((3, 4, 5), np.int16), ONE_MM)
    for asked in (rules("NibabelIOWithReorient"), rules(reorient="LPS")):
        read = only(asked.volumes([array]))
        assert (read.shape, codes(read)) == ((3, 4, 5), ["no_orientation"])
    assert codes(only(rules().volumes([array]))) == []


def test_channels_that_are_stored_differently_are_turned_to_one_grid():
    manifest = make_manifest(reader="NibabelIOWithReorient", channels=[RAW, RAW])
    first = psr_volume(np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    second = first.turned(rules(reorient="LPS").turn(first.geometry))
    assert first.geometry.difference(second.geometry)
    one, other = ReaderRules.of(manifest).volumes([first, second])
    assert one.geometry.difference(other.geometry) is None
    np.testing.assert_array_equal(one.voxels, other.voxels)


def test_estimates_are_made_for_the_grid_as_it_is_read(tmp_path):
    path = write_nifti(
        tmp_path / "a.nii", np.ones((5, 6, 7), np.int16), spacing_mm=(1, 3, 2), **sform_fields(PSR[:3, :3])
    )
    for reader in FOUR:
        read = rules(reader).read([path])[0]
        grid = rules(reader).grid(read_grid(path))
        assert (grid.shape, grid.spacing_mm, grid.itemsize) == (read.shape, read.spacing_mm, 2)
        assert read_volume(path).grid == read_grid(path)


@pytest.mark.parametrize(("options", "reader"), [({"reorient": "LAS"}, "SimpleITKIO"), ({}, "NibabelIOWithReorient")])
def test_a_mask_is_turned_back_and_so_are_probabilities(options, reader):
    """The network's logits depend on where a voxel lies in the tile, which is what turning changes."""
    bundle = memory_bundle(reader=reader, channels=[RAW], spacing_mm=ONE_MM, patch=[8, 8, 8])
    ramp = np.linspace(-1, 2, 8, dtype=np.float32)[:, None, None] + np.linspace(0, 1, 8, dtype=np.float32)
    network = ArithmeticNetwork(lambda tiles: np.concatenate([-tiles * ramp, tiles * ramp], axis=1))
    scan = np.random.default_rng(0).integers(1, 9, (8, 8, 8)).astype(np.int16)
    affine = np.array([[0, 0, 1.0, -5], [-1.0, 0, 0, 6], [0, 1.0, 0, -7], [0, 0, 0, 1]])  # PSR
    volume = Volume(scan, Geometry(affine, ONE_MM, scan.shape))
    got = Segmenter(bundle, network, RunOptions(**options)).segment(volume, probabilities=True)

    turned = volume.turned(ReaderRules.of(bundle.manifest, **options).turn(volume.geometry))
    plain = memory_bundle(channels=[RAW], spacing_mm=ONE_MM, patch=[8, 8, 8])
    expected = Segmenter(plain, network).segment(turned, probabilities=True)
    view = ReaderRules.of(bundle.manifest, **options).turn(volume.geometry).view
    np.testing.assert_array_equal(view(got.mask), expected.mask)
    np.testing.assert_array_equal(view(got.probabilities), expected.probabilities)
    assert 0 < got.mask.sum() < got.mask.size
    assert (got.mask != Segmenter(plain, network).segment(volume).mask).any()
    assert (got.template.geometry, got.template.source) == (volume.geometry, volume.source)


# --- voxels that are no numbers


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("reader", FOUR[:2])
def test_simpleitk_stores_zero_in_their_place(reader, bad):
    voxels = np.full((4, 5, 6), 7, np.float32)
    voxels[:3] = bad
    volume = Volume(voxels, Geometry(np.eye(4), ONE_MM, voxels.shape), 2.0, -1024.0)
    read = only(rules(reader).volumes([volume]))
    assert set(np.unique(read.intensities(read.voxels))) == {-1024, -1010}
    assert codes(read) == ["nonfinite"]
    assert read.remarks[0].text == (
        "90 of 120 voxels (75.00%) are NaN or infinite and count as -1024, as nnU-Net reads NIfTI"
    )


@pytest.mark.parametrize("reader", FOUR[2:])
def test_nibabel_keeps_them_so_that_nan_is_refused(reader):
    voxels = np.full((4, 5, 6), 7, np.float32)
    voxels[0, 0, 0] = np.nan
    with pytest.raises(CaseError, match="1 of 120 voxels") as caught:
        rules(reader).volumes([Volume.of_array(voxels, ONE_MM)])
    assert caught.value.reason == "nonfinite"


@pytest.mark.parametrize("reader", FOUR[2:])
def test_infinity_in_a_ct_is_clipped_then_and_refused_elsewhere(reader):
    voxels = np.full((4, 5, 6), 7, np.float32)
    voxels[0, 0, :2] = np.inf, -np.inf
    volume = Volume.of_array(voxels, ONE_MM)
    read = only(rules(reader).volumes([volume]))
    np.testing.assert_array_equal(read.intensities(read.voxels), voxels)
    assert "nonfinite" in codes(read)
    with pytest.raises(CaseError) as caught:
        rules(reader, channels=[RAW]).volumes([volume])
    assert caught.value.reason == "nonfinite"


def test_nothing_but_nan_has_an_empty_mask():
    segmenter = Segmenter(memory_bundle(channels=[RAW]), ArithmeticNetwork())
    result = segmenter.segment(np.full((8, 9, 10), np.nan, np.float32), ONE_MM)
    assert not result.mask.any()
    assert [remark.code for remark in result.remarks] == ["nonfinite", "all_zero"]


# --- plausible grids


def test_a_model_of_fine_voxels_takes_fine_scans(tmp_path):
    path = write_nifti(tmp_path / "a.nii", np.ones((5, 6, 7), np.int16), spacing_mm=(0.05, 0.05, 0.05))
    fine = {"spacing_mm": [0.05, 0.05, 0.05]}
    assert rules(**fine).read([path])[0].spacing_mm == pytest.approx((0.05, 0.05, 0.05))
    assert rules(any_spacing=True).read([path])
    with pytest.raises(CaseError, match="--any-spacing") as caught:
        rules().read([path])
    assert caught.value.reason == "bad_spacing"


def test_nibabel_takes_every_length_for_millimetres(tmp_path):
    sides = (5.0, 4.0, 3.0)
    path = write_nifti(tmp_path / "a.nii", np.ones((5, 6, 7), np.int16), spacing_mm=sides, xyzt_units=3)
    changes = {"spacing_mm": [5.0, 4.0, 3.0]}
    assert rules("NibabelIO", **changes).read([path])[0].spacing_mm == sides
    with pytest.raises(CaseError):
        rules("SimpleITKIO", **changes).read([path])
