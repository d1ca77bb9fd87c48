"""The phantoms: seeded, drawn in millimetres, with the contrast they state."""

import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from flare_phantom.anatomy import Ellipsoid, Waves, draw_anatomy, draw_lesions
from flare_phantom.phantom import main, make_phantom, write_case

COARSE = {"shape": (40, 72, 80), "spacing_mm": (6.0, 5.0, 5.0)}


def grid(*counts_and_steps):
    axes = tuple(((np.arange(n) - (n - 1) / 2) * step).astype(np.float32) for n, step in counts_and_steps)
    return axes[0], axes[1], axes[2]


def test_same_seed_gives_the_same_phantom_and_another_seed_another():
    first, again, other = make_phantom(3, **COARSE), make_phantom(3, **COARSE), make_phantom(4, **COARSE)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.mask, again.mask)
    assert (first.image != other.image).any()


@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 30, 21), (33, 64, 48)])
def test_shape_types_and_spacing_are_those_asked_for(shape):
    phantom = make_phantom(0, shape, (5.0, 4.0, 3.0))
    assert phantom.image.shape == phantom.mask.shape == shape
    assert (phantom.image.dtype, phantom.mask.dtype) == (np.int16, np.uint8)
    assert phantom.spacing_mm == (5.0, 4.0, 3.0)


def test_a_scan_without_voxels_or_spacing_is_refused():
    with pytest.raises(ValueError, match="shape must be at least 1"):
        make_phantom(0, (0, 4, 4))
    with pytest.raises(ValueError, match="spacing positive"):
        make_phantom(0, (4, 4, 4), (1.0, 0.0, 1.0))


@pytest.mark.parametrize("seed", range(6))
def test_every_lesion_is_in_a_scan_of_the_trunk(seed):
    phantom = make_phantom(seed, **COARSE)
    assert 1 <= len(phantom.lesions) <= 6
    assert set(np.unique(phantom.mask)) == {0, 1}
    for lesion in phantom.lesions:
        index = [
            round(c / s + (n - 1) / 2)
            for c, s, n in zip(lesion.blob.centre_mm, (6, 5, 5), phantom.mask.shape, strict=True)
        ]
        assert phantom.mask[tuple(slice(i - 1, i + 2) for i in index)].any()


def test_lesion_volume_does_not_depend_on_the_grid():
    fine = make_phantom(2, (128, 240, 288), (1.8, 1.25, 1.25))
    coarse = make_phantom(2, (64, 120, 144), (3.6, 2.5, 2.5))
    volumes = [p.mask.sum() * np.prod(p.spacing_mm) for p in (fine, coarse)]
    assert volumes[1] == pytest.approx(volumes[0], rel=0.03)
    assert [a.blob.centre_mm for a in fine.lesions] == [b.blob.centre_mm for b in coarse.lesions]


def test_the_image_is_the_same_whether_sampled_whole_or_in_slabs(monkeypatch):
    whole = make_phantom(5, **COARSE)
    monkeypatch.setattr("flare_phantom.phantom._SLAB_VOXELS", 3 * 72 * 80)
    slabs = make_phantom(5, **COARSE)
    np.testing.assert_array_equal(whole.mask, slabs.mask)
    np.testing.assert_array_equal(whole.image, slabs.image)


def lesion_core(phantom, lesion):
    """Voxels of one lesion's mask within half its radii: away from its blurred edge."""
    axes = grid(*zip(phantom.image.shape, phantom.spacing_mm, strict=True))
    small = Ellipsoid(lesion.blob.centre_mm, tuple(0.5 * r for r in lesion.blob.radii_mm))
    box, inside = small.inside(axes)
    return phantom.image[box][inside & (phantom.mask[box] == 1)]


def test_lesions_show_the_hu_they_state():
    seen = {"lung": [], "liver": [], "muscle": []}
    for seed in range(5):
        phantom = make_phantom(seed, (96, 190, 240), (2.5, 1.6, 1.6))
        for lesion in phantom.lesions:
            core = lesion_core(phantom, lesion)
            if len(core) > 30:
                seen[lesion.site].append(float(core.mean()))
    # Stated: 20..60 HU in the lung; 90..110 less 35..50 in the liver; 49..61 plus 30..50 in the muscle.
    # Texture (5 HU), noise, and another lesion over this one blur each by some HU.
    for site, low, high in (("lung", 5, 75), ("liver", 25, 90), ("muscle", 65, 125)):
        assert seen[site], f"no {site} lesion in five phantoms"
        assert low < np.median(seen[site]) < high


def test_tissues_have_the_hu_of_a_ct():
    phantom = make_phantom(1, (48, 128, 128), (5.0, 3.0, 3.0))
    corner = phantom.image[:, :8, :8]
    assert corner.mean() == pytest.approx(-1000, abs=10)
    assert 9 < corner.std() < 22
    assert phantom.image.max() > 600
    lung = (phantom.image > -930) & (phantom.image < -770)
    assert lung.mean() > 0.03


def test_waves_have_unit_variance_and_follow_their_formula():
    waves = Waves.draw(np.random.default_rng(0), (20.0, 40.0), count=12)
    axes = grid((40, 5.0), (40, 5.0), (40, 5.0))
    field = waves.sample(axes)
    assert field.std() == pytest.approx(1.0, abs=0.1)
    point = np.array([axes[0][3], axes[1][5], axes[2][7]])
    by_hand = np.cos(waves.wave_vectors @ point + waves.phases).sum() * np.sqrt(2 / 12)
    assert field[3, 5, 7] == pytest.approx(by_hand, abs=1e-3)


def test_a_smooth_ellipsoid_has_its_volume_and_stays_in_its_box():
    axes = grid((41, 1.0), (61, 1.0), (81, 1.0))
    box, inside = Ellipsoid((2.0, -3.0, 4.0), (10.0, 15.0, 20.0)).inside(axes)
    assert inside.sum() == pytest.approx(4 / 3 * np.pi * 10 * 15 * 20, rel=0.02)
    assert box[0] == slice(12, 32)


def test_lesion_centres_keep_within_reach():
    for seed in range(10):
        rng = np.random.default_rng(seed)
        anatomy = draw_anatomy(rng)
        assert all(abs(lesion.blob.centre_mm[0]) <= 80 for lesion in draw_lesions(rng, anatomy))


def test_nifti_files_carry_spacing_types_and_both_transforms(tmp_path):
    phantom = make_phantom(1, (12, 20, 16), (9.0, 8.0, 7.0))
    image_path, label_path = tmp_path / "a" / "c_0000.nii.gz", tmp_path / "b" / "c.nii.gz"
    write_case(phantom, image_path, label_path)
    image, label = nib.load(image_path), nib.load(label_path)
    assert image.header["qform_code"] == image.header["sform_code"] == 1
    np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-4)
    np.testing.assert_allclose(image.header.get_zooms(), (7.0, 8.0, 9.0))
    assert nib.aff2axcodes(image.affine) == ("L", "P", "S")
    np.testing.assert_allclose(image.affine @ [7.5, 9.5, 5.5, 1.0], [0, 0, 0, 1], atol=1e-4)
    assert (image.get_data_dtype(), label.get_data_dtype()) == (np.int16, np.uint8)
    np.testing.assert_array_equal(np.asarray(image.dataobj).transpose(2, 1, 0), phantom.image)
    np.testing.assert_array_equal(np.asarray(label.dataobj).transpose(2, 1, 0), phantom.mask)


def test_the_command_writes_the_flare_layout(tmp_path):
    main(
        ["-o", str(tmp_path), "--cases", "2", "--seed", "7", "--shape", "8", "16", "16", "--spacing", "20", "20", "20"]
    )
    written = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert written == [
        "imagesTr/phantom_0007_0000.nii.gz",
        "imagesTr/phantom_0008_0000.nii.gz",
        "labelsTr/phantom_0007.nii.gz",
        "labelsTr/phantom_0008.nii.gz",
    ]


def test_importing_the_phantom_needs_no_training_framework():
    code = "import sys, flare_phantom.phantom; print({'torch', 'nnunetv2'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_a_case_is_written_through_no_link(tmp_path, capsys):
    label = tmp_path / "labelsTr" / "phantom_0001.nii.gz"
    label.parent.mkdir()
    label.symlink_to(tmp_path / "precious")
    assert main(["-o", str(tmp_path), "--cases", "2", "--shape", "4", "5", "6"]) == 6
    assert f"{label}: is a symbolic link" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*.nii.gz")] == [label.name]
