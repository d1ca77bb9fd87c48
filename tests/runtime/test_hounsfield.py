"""Intensities that cannot be Hounsfield units are refused; no real scan is, whatever is in it or around it."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from flare_phantom.phantom import make_phantom, thigh_case
from flare_runtime.errors import CaseError
from flare_runtime.imaging.read import read_volume
from flare_runtime.imaging.volume import Volume
from flare_runtime.pipeline.hounsfield import check_hounsfield

SPACING = (5.0, 3.0, 3.0)


def finding(voxels, slope=1.0, intercept=0.0):
    """Return what is wrong with an image, or None."""
    volume = voxels if isinstance(voxels, Volume) else Volume.of_array(np.asarray(voxels), SPACING, slope, intercept)
    remarks = check_hounsfield(volume, "CT", any_intensity=True)
    if not remarks:
        assert check_hounsfield(volume, "CT") == ()
        return None
    with pytest.raises(CaseError) as caught:
        check_hounsfield(volume, "CT")
    (remark,), text = remarks, str(caught.value)
    assert remark.code == caught.value.reason == "not_hounsfield"
    assert text.startswith(remark.text)
    assert text.endswith("--any-intensity")
    assert "\n" not in text
    return remark.text


@pytest.fixture(scope="module")
def trunk():
    return make_phantom(1, (48, 128, 128), SPACING).image


@pytest.fixture(scope="module")
def thigh():
    return thigh_case(2, (6.0, 2.0, 2.0)).image


def padded(image, value):
    """Set what lies outside the round field of view."""
    _, height, width = image.shape
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    return np.where(y**2 + x**2 > 1, np.int16(value), image)


def inexact(image):
    """Change the last digits, as resampling with splines does, so that no two voxels of a padding are the same."""
    return image + np.random.default_rng(0).normal(0, 1e-3, image.shape).astype(np.float32)


def with_metal(image):
    """Put in a screw and the dark streaks beside it."""
    changed = image.copy()
    changed[20:28, 60:64, 60:64] = 30000
    changed[20:28, 56:68, 40:60:3] = -1900
    return changed


def with_one_voxel(image, value):
    changed = image.copy()
    changed[0, 0, 0] = value
    return changed


def cut_out(image, low, high):
    """Set everything but a tissue to air, as segmentations do."""
    return np.where((image > low) & (image < high), image, np.int16(-1024))


def sharp_kernel(image):
    return image + np.random.default_rng(0).normal(0, 120, image.shape)


HOUNSFIELD = {
    "as it is": lambda image: image,
    "clipped by the scanner": lambda image: image.clip(-1024, 3071),
    "clipped to what the model sees": lambda image: image.clip(-160, 240),
    "padded with -2000": lambda image: padded(image, -2000),
    "padded with -3024": lambda image: padded(image, -3024),
    "padded with -32768": lambda image: padded(image, -32768),
    "padded, and computed in floating point": lambda image: inexact(padded(image, -3024)),
    "padded within and beyond": lambda image: np.concatenate([padded(image, -2000), np.full_like(image, -3024)]),
    "metal": with_metal,
    "contrast": lambda image: np.where((image > 60) & (image < 130), image + np.int16(350), image),
    "unclipped noise of a sharp kernel": sharp_kernel,
    "a body cut out of its air": lambda image: cut_out(image, -250, 3000),
    "bone and muscle cut out": lambda image: cut_out(image, 0, 3000),
    "in steps of 7": lambda image: np.round(image / 7.0) * 7,
    "off by a hundred": lambda image: image + 100,
}


@pytest.mark.parametrize("change", HOUNSFIELD.values(), ids=HOUNSFIELD.keys())
@pytest.mark.parametrize("kind", ["trunk", "thigh"])
def test_a_scan_in_hounsfield_units_is_taken(request, kind, change):
    assert finding(change(request.getfixturevalue(kind))) is None


def without_units(image):
    """Return images whose intensities are no Hounsfield units any more, by what was done to them."""
    image = image.astype(np.float32)
    smallest, largest = image.min(), image.max()
    return {
        "+1024": image + 1024,
        "+1000": image + 1000,
        "+1024, clipped at 0": (image + 1024).clip(0, 4095),
        "+1024, padded with 0": padded((image + 1024).astype(np.int16), 0),
        "+1024, padded with -2000": padded((image + 1024).astype(np.int16), -2000),
        "+1024, its padding of -2000 too": padded(image.astype(np.int16), -2000) + 1024,
        "+1024, padded twice": np.concatenate([padded(image + 1024, -500), np.full_like(image, -1000)]),
        "+1024, metal": with_metal(image) + 1024,
        "+32768": image + 32768,
        "-1024": image - 1024,
        "-32768": image - 32768,
        "/ 3000": image / 3000,
        "0 to 1": (image - smallest) / (largest - smallest),
        "-1 to 1": 2 * (image - smallest) / (largest - smallest) - 1,
        "z-score": (image - image.mean()) / image.std(),
        "0 to 255": np.round((image.clip(-160, 240) + 160) / 400 * 255),
        "0 to 200": np.round((image.clip(-160, 240) + 160) / 2),
        "0 to 255, wide": np.round((image.clip(-1000, 1000) + 1000) / 2000 * 255),
        "0 to 255, of 12 bits": np.round((image.clip(-1024, 3071) + 1024) / 4095 * 255),
        "x 10": image * 10,
        "0 to 1000": (image - smallest) / (largest - smallest) * 1000,
    }


@pytest.mark.parametrize("kind", ["trunk", "thigh"])
def test_a_scan_that_lost_its_units_is_refused(request, kind):
    taken = [name for name, image in without_units(request.getfixturevalue(kind)).items() if not finding(image)]
    assert taken == []


def test_other_modalities_are_refused(trunk):
    rng = np.random.default_rng(0)
    signal = np.select([trunk < -300, trunk < 0, trunk < 300], [0, 900, 400], 50) * rng.uniform(0.8, 1.2, trunk.shape)
    magnitude = np.hypot(signal + rng.normal(0, 15, trunk.shape), rng.normal(0, 15, trunk.shape))
    uptake = np.where(trunk > -300, rng.gamma(2, 0.5, trunk.shape), 0.02)
    for name, image in {
        "MR": magnitude,
        "MR with the overshoot of a spline": magnitude - 12,
        "MR with a voxel as dark as air": with_one_voxel(magnitude, -1000),
        "MR of an organ cut out": np.where(trunk > -300, rng.normal(120, 15, trunk.shape), 0),
        "PET in SUV": uptake,
        "PET in Bq/ml": uptake * 5000,
        "labels": (trunk > 0).astype(np.uint8),
        "one value": np.full((20, 20, 20), 7, np.int16),
        "nothing but padding": np.full((20, 20, 20), -2000, np.int16),
    }.items():
        assert finding(image), name


def test_crops_of_tissue_alone_are_taken():
    rng = np.random.default_rng(0)
    shape = (16, 24, 24)
    for name, image in {
        "muscle": rng.normal(55, 12, shape),
        "muscle, of which a slice is no numbers": np.concatenate(
            [rng.normal(55, 12, shape), np.full((1, *shape[1:]), np.nan)]
        ),
        "enhanced liver": rng.normal(120, 15, shape),
        "enhanced liver in thin slices": rng.normal(115, 30, shape),
        "muscle and fat": np.where(rng.random(shape) < 0.3, -100, 50) + rng.normal(0, 15, shape),
        "brain": rng.normal(35, 5, shape),
        "hip": np.where(rng.random(shape) < 0.4, rng.uniform(200, 1500, shape), rng.normal(0, 60, shape)),
        "air": np.full(shape, -1000.0),
    }.items():
        assert finding(image) is None, name
        assert finding(image, intercept=1024), name
    # Nothing tells lung about 170 from another organ.
    assert finding(rng.normal(-850, 60, shape)) is None


def test_a_body_as_dense_as_bone_is_refused_whatever_air_is_around_it(thigh):
    # Air at -400 passes for lung; soft tissue at 650 passes for nothing.
    assert "as bone and metal do" in finding(thigh + np.int16(600))


def test_a_few_voxels_are_no_evidence():
    assert finding(np.ones((9, 10, 11), np.int16)) is None
    assert finding(np.ones((10, 10, 10), np.int16)) is not None


def test_the_message_says_what_was_found():
    voxels = np.linspace(-990, 1470, 20 * 20 * 20).reshape(20, 20, 20)
    assert finding(voxels, slope=1 / 3000) == (
        "CT is not in Hounsfield units: nearly all voxels lie within 20 of 0 (lowest -0.33, highest 0.49)"
    )
    # A negative slope turns lowest and highest about.
    assert finding(voxels, slope=-1 / 3000).endswith("(lowest -0.49, highest 0.33)")


def test_a_mask_is_told_from_other_narrow_images():
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[5:9] = 3
    assert "it looks like a mask: nearly all voxels are whole numbers within 20 of 0" in finding(labels)


def test_a_long_thin_image_is_sampled_too():
    assert finding(np.ones((1, 1, 3_000_000), np.uint8)) is not None


# --- real scans


def real_scans(folder):
    """Yield the name and volume of every scan there is, DICOM slices stacked as they come."""
    sitk = pytest.importorskip("SimpleITK")
    for path in sorted(folder.glob("sts/images/*.nii.gz")):
        yield path.name, read_volume(path)
    yield "abdomen_3mm", read_volume(folder / "ct/abdomen_3mm.nii.gz")
    for name in ("abdomen_jpeg2000", "head_tilted", "liver_metastases_5mm", "three_slices"):
        files = sorted((folder / f"ct/{name}_dicom").iterdir())
        slices = [sitk.GetArrayFromImage(sitk.ReadImage(str(file)))[0] for file in files]
        yield name, Volume.of_array(np.stack(slices), (1.0, 1.0, 1.0))


# Slope and intercept, by what went wrong.
RESCALED = {"+1024": (1, 1024), "+1000": (1, 1000), "/ 3000": (1 / 3000, 0), "x 10": (10, 0), "-1024": (1, -1024)}
# What a scan may be off by, and still be taken: the rule does not cut close.
MARGINS = {"-100": (1, -100), "+100": (1, 100), "x 0.8": (0.8, 0), "x 1.2": (1.2, 0)}


@pytest.mark.shared_data
def test_real_scans_are_taken_and_refused_once_they_lose_their_units(shared_data):
    count = 0
    for name, scan in real_scans(shared_data):
        count += 1
        assert finding(scan) is None, name
        for change, (slope, intercept) in MARGINS.items():
            assert finding(replace(scan, slope=slope, intercept=intercept)) is None, (name, change)
        for change, (slope, intercept) in RESCALED.items():
            assert finding(replace(scan, slope=slope, intercept=intercept)), (name, change)
        check_normalised(scan.voxels[::2, ::2, ::2].astype(np.float32), name)
    assert count == 41


def check_normalised(hounsfield, name):
    assert finding((hounsfield.clip(-160, 240) + 160) * np.float32(255 / 400)), name
    assert finding(hounsfield, 1 / hounsfield.std(), -hounsfield.mean() / hounsfield.std()), name


@pytest.mark.shared_data
def test_a_real_phantom_stored_in_bytes_is_taken(shared_data):
    image = nib.load(shared_data / "ct/head_phantom_sheared.nii.gz")  # which `read_volume` refuses for its shear
    hounsfield = np.asarray(image.dataobj, np.float32).T
    assert finding(hounsfield) is None
    assert finding(hounsfield, 1, 1024)
    assert finding(hounsfield, 1 / 3000)
    check_normalised(hounsfield, "head phantom")


@pytest.mark.shared_data
def test_a_real_image_of_grey_levels_is_refused(shared_data):
    assert "hardly any voxel lies below -20" in finding(read_volume(shared_data / "ct/head_phantom_oblique.nii.gz"))
