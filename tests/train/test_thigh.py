"""The thigh phantoms: seeded, one mass, scanned as the real soft-tissue sarcoma crops are."""

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import binary_erosion, label

from flare_phantom.phantom import main, make_phantom, thigh_case
from flare_phantom.thigh import draw_thigh

COARSE_MM = (6.0, 3.0, 3.0)


def volume_ml(phantom):
    return phantom.mask.sum() * np.prod(phantom.spacing_mm) / 1000


def test_same_seed_gives_the_same_thigh_and_another_seed_another():
    first, again, other = (thigh_case(seed, COARSE_MM) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.mask, again.mask)
    assert first.image.shape != other.image.shape or (first.image != other.image).any()


@pytest.mark.parametrize("seed", range(12))
def test_one_mass_inside_the_body_50_mm_from_every_border(seed):
    phantom = thigh_case(seed, COARSE_MM)
    assert label(phantom.mask, np.ones((3, 3, 3)))[1] == 1
    assert 20 <= volume_ml(phantom) <= 800
    core = phantom.image[binary_erosion(phantom.mask, np.ones((1, 3, 3)))]
    assert core.min() > -300  # no air
    assert 10 < phantom.image[phantom.mask == 1].mean() < 45
    for at, count, step in zip(np.nonzero(phantom.mask), phantom.mask.shape, COARSE_MM, strict=True):
        before, after = at.min() * step, (count - 1 - at.max()) * step
        assert before == pytest.approx(50, abs=5 + step / 2)
        assert after == pytest.approx(50, abs=5 + step / 2)


def test_the_lesion_stated_is_the_mass():
    phantom = thigh_case(1, COARSE_MM)
    (lesion,) = phantom.lesions
    centre = np.divide(lesion.blob.centre_mm, COARSE_MM) + (np.array(phantom.mask.shape) - 1) / 2
    assert phantom.mask[tuple(np.rint(centre).astype(int))] == 1
    assert lesion.site == "muscle"


def test_tissues_have_the_hu_of_a_ct_without_contrast():
    images = [thigh_case(seed).image for seed in (1, 2)]
    for image in images:
        counts, edges = np.histogram(image, np.arange(-1024, 1600, 16))
        middle = edges[:-1] + 8
        fat = middle[np.argmax(np.where((middle > -300) & (middle < -40), counts, 0))]
        muscle = middle[np.argmax(np.where((middle > 0) & (middle < 200), counts, 0))]
        assert -125 < fat < -85
        assert 35 < muscle < 75
        assert 1000 < image.max() < 1700  # the femur's cortex
        assert 0.1 < (image < -300).mean() < 0.7


def test_grid_and_spacing_choose_the_voxels_and_not_the_anatomy():
    fine = make_phantom(5, (120, 160, 160), (1.5, 1.25, 1.25), kind="thigh")
    coarse = make_phantom(5, (60, 80, 80), (3.0, 2.5, 2.5), kind="thigh")
    assert volume_ml(coarse) == pytest.approx(volume_ml(fine), rel=0.03)
    assert [a.blob.centre_mm for a in fine.lesions] == [b.blob.centre_mm for b in coarse.lesions]
    blocks = fine.image.reshape(60, 2, 80, 2, 80, 2).mean(axis=(1, 3, 5))
    assert np.corrcoef(blocks.ravel(), coarse.image.ravel())[0, 1] > 0.98


def test_the_thigh_is_the_same_whether_sampled_whole_or_in_slabs(monkeypatch):
    whole = thigh_case(2, COARSE_MM)
    monkeypatch.setattr("flare_phantom.phantom._SLAB_VOXELS", 5 * whole.image[0].size)
    slabs = thigh_case(2, COARSE_MM)
    np.testing.assert_array_equal(whole.mask, slabs.mask)
    assert np.abs(whole.image.astype(int) - slabs.image).max() <= 1  # sums in another order


def test_both_sides_and_many_sizes_occur():
    thighs = [draw_thigh(np.random.default_rng(seed)) for seed in range(20)]
    sides = {np.sign(thigh.limb.femur.centre_mm[2]) for thigh in thighs}
    sizes = [np.prod(thigh.extent_mm) for thigh in thighs]
    assert sides == {-1, 1}
    assert max(sizes) > 5 * min(sizes)


def test_another_kind_is_refused():
    with pytest.raises(ValueError, match="kind must be one of trunk, thigh; got arm"):
        make_phantom(0, kind="arm")


def test_the_command_crops_the_thigh_unless_told_a_shape(tmp_path):
    main(["-o", str(tmp_path / "crop"), "--kind", "thigh", "--seed", "7", "--spacing", "8", "6", "6"])
    crop = nib.load(tmp_path / "crop" / "imagesTr" / "phantom_0007_0000.nii.gz")
    assert crop.shape[::-1] == thigh_case(7, (8.0, 6.0, 6.0)).image.shape
    main(["-o", str(tmp_path / "told"), "--kind", "thigh", "--shape", "9", "20", "30"])
    assert nib.load(tmp_path / "told" / "labelsTr" / "phantom_0000.nii.gz").shape == (30, 20, 9)
