"""`--official` is the challenge's script to the digit, whatever the headers say: with its own surface distances."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import surface_distance
from hypothesis import given, settings
from hypothesis import strategies as st

from flare_eval.accuracy.scores import Pair, Rules, score_case
from flare_eval.cli import main
from tests.eval.nifti_masks import ball
from tests.runtime.nifti_files import nifti_bytes, sform_fields, write_nifti

SHAPE = (14, 16, 18)
TRUTH = ball(SHAPE, (6, 8, 8), 5)
FOUND = ball(SHAPE, (7, 8, 9), 5)
OFFICIAL = Rules(official=True)
NAN = float("nan")


def script(reference: Path, prediction: Path) -> tuple[float, float]:
    """What FLARE24's script for task 1 computes of two files, an axis of 1 at the end left out."""
    truth = nib.load(reference)
    spacing = truth.header.get_zooms()[:3]
    with np.errstate(invalid="ignore"):
        a, b = (np.uint8(image.get_fdata()) for image in (truth, nib.load(prediction)))
    a, b = (mask[..., 0] if mask.ndim == 4 else mask for mask in (a, b))
    if b.max() > 1:
        return 0, 0
    if not a.any() or not b.any():
        return (1, 1) if a.any() == b.any() else (0, 0)
    dsc = surface_distance.compute_dice_coefficient(a.astype(bool), b.astype(bool))
    if dsc < 0.2:
        return round(dsc, 4), 0
    distances = surface_distance.compute_surface_distances(a.astype(bool), b.astype(bool), spacing)
    return round(dsc, 4), round(surface_distance.compute_surface_dice_at_tolerance(distances, 2), 4)


def ours(reference: Path, prediction: Path) -> tuple[float, float]:
    result = score_case(Pair("case", reference, prediction), OFFICIAL)
    assert result.status == "scored", result.message
    return result.dsc, result.nsd["2"]


SHEAR = sform_fields([[1.5, 0, 0], [0, 2.0, 0.5], [0, 0, 2.9]])
HEADERS = {
    "plain": {},
    "identity": sform_fields(np.eye(3), (0, 0, 0)),
    "sheared": SHEAR,
    "other pixdim": {"pixdim": [1, 0.7, 0.7, 5, 0, 0, 0, 0]},
    "fine": {"pixdim": [1, 0.05, 0.05, 0.05, 0, 0, 0, 0]},
    "vast": {"pixdim": [1, 1e30, 1e30, 1, 0, 0, 0, 0]},
    "coarse": {"pixdim": [1, 3, 3, 30, 0, 0, 0, 0]},
    "negative pixdim": {"pixdim": [-1, -1.5, 2, -3, 0, 0, 0, 0]},
    "no pixdim": {"pixdim": [1, 0, 0, 0, 0, 0, 0, 0]},
    "no orientation": {"sform_code": 0, "qform_code": 0},
    "qform alone": {"sform_code": 0, "quatern_b": 0.3},
    "no sform numbers": {"srow_x": [NAN] * 4, "srow_y": [NAN] * 4, "srow_z": [NAN] * 4},
    "no quaternion numbers": {"sform_code": 0, "quatern_b": NAN},
    "singular": {"srow_x": [0] * 4, "srow_y": [0] * 4, "srow_z": [0] * 4},
    "no scaling numbers": {"scl_slope": NAN, "scl_inter": NAN},
    "metres": {"xyzt_units": 1},
    "micrometres": {"xyzt_units": 3},
    "one volume": {"dim": [4, *SHAPE[::-1], 1, 1, 1, 1]},
}
VOXELS = {
    "u1": lambda mask: mask,
    "i2": lambda mask: mask.astype(np.int16),
    "u4": lambda mask: mask.astype(np.uint32),
    "i8": lambda mask: mask.astype(np.int64),
    "f4": lambda mask: mask.astype(np.float32),
    "f8 below one": lambda mask: np.where(mask, 1.9, 0.4),
    "f4 with NaN": lambda mask: np.where(mask, 1, np.where(TRUTH, 0, NAN)).astype(np.float32),
}


@pytest.mark.parametrize("of_truth", HEADERS)
def test_a_header_of_the_reference_changes_nothing_but_the_spacing(tmp_path, of_truth):
    truth = write_nifti(tmp_path / "truth.nii.gz", TRUTH, **HEADERS[of_truth])
    found = write_nifti(tmp_path / "found.nii.gz", FOUND)
    assert ours(truth, found) == script(truth, found)


@settings(max_examples=40)
@given(data=st.data(), suffix=st.sampled_from([".nii", ".nii.gz"]), version=st.sampled_from([1, 2]))
def test_any_two_headers_and_types_give_what_the_script_gives(tmp_path_factory, data, suffix, version):
    folder = tmp_path_factory.mktemp("pair")
    files = []
    for name, mask in (("truth", TRUTH), ("found", FOUND)):
        voxels = VOXELS[data.draw(st.sampled_from(sorted(VOXELS)))](mask)
        fields = HEADERS[data.draw(st.sampled_from(sorted(HEADERS)))]
        options = {"version": version, "endianness": data.draw(st.sampled_from("<>")), **fields}
        files.append(write_nifti(folder / f"{name}{suffix}", voxels, **options))
    assert ours(*files) == script(*files)


@pytest.mark.parametrize("slope", [0.5, 1 / 255, 1 / 3, 2.0])
def test_a_scaled_mask_is_cut_off_as_by_the_script(tmp_path, slope):
    stored = np.round(FOUND / slope).astype(np.uint8)
    truth, found = write_nifti(tmp_path / "a.nii.gz", TRUTH), write_nifti(tmp_path / "b.nii", stored, scl_slope=slope)
    assert ours(truth, found) == script(truth, found)


@pytest.mark.parametrize("truth", [TRUTH, TRUTH * 0])
@pytest.mark.parametrize("found", [FOUND, FOUND * 0, FOUND * 3, np.roll(FOUND, 6, axis=1)])
def test_empty_overfull_and_distant_masks(tmp_path, truth, found):
    files = write_nifti(tmp_path / "a.nii.gz", truth), write_nifti(tmp_path / "b.nii.gz", found)
    assert ours(*files) == script(*files)


def test_other_shapes_count_as_0_where_the_script_fails_and_as_it_says_where_both_are_empty(tmp_path):
    truth, short = write_nifti(tmp_path / "a.nii.gz", TRUTH), write_nifti(tmp_path / "b.nii.gz", FOUND[:-1])
    result = score_case(Pair("case", truth, short), OFFICIAL)
    assert (result.status, result.dsc) == ("bad_prediction", 0.0)
    assert "measures (13, 16, 18) voxels (z, y, x), not (14, 16, 18)" in result.message
    empty = write_nifti(tmp_path / "c.nii.gz", TRUTH * 0), write_nifti(tmp_path / "d.nii.gz", FOUND[:-1] * 0)
    assert ours(*empty) == script(*empty) == (1, 1)


@pytest.mark.parametrize("side", [NAN, np.inf])
def test_without_a_spacing_there_is_a_dsc_and_no_nsd(tmp_path, side):
    truth = write_nifti(tmp_path / "a.nii.gz", TRUTH, pixdim=[1, side, side, 1, 0, 0, 0, 0])
    found = write_nifti(tmp_path / "b.nii.gz", FOUND)
    with np.errstate(all="ignore"):
        dsc, nsd = script(truth, found)
    assert np.isnan(nsd)
    result = score_case(Pair("case", truth, found), OFFICIAL)
    assert (result.dsc, result.nsd, result.reference_ml) == (dsc, {"2": 0.0}, None)
    assert "no spacing" in result.message


@pytest.mark.parametrize(
    "fields", [{"xyzt_units": 7}, {"srow_x": [1e38] * 4}, {"pixdim": [NAN, 1, 1, 1, NAN, NAN, NAN, NAN]}]
)
@pytest.mark.parametrize("rules", [Rules(), OFFICIAL])
def test_fields_that_do_not_matter_stop_nothing(tmp_path, fields, rules):
    truth, found = write_nifti(tmp_path / "a.nii", TRUTH), write_nifti(tmp_path / "b.nii", FOUND, **fields)
    result = score_case(Pair("case", truth, found), rules)
    plain = write_nifti(tmp_path / "c.nii", FOUND)
    assert (result.status, result.dsc, result.nsd["2"]) == ("scored", *script(truth, plain))


def test_damaged_files_are_named(tmp_path):
    good, data = write_nifti(tmp_path / "a.nii.gz", TRUTH), nifti_bytes(TRUTH)
    header = bytearray(data)
    header[40:56] = np.array([3, 30000, 30000, 30000, 1, 1, 1, 1], np.int16).tobytes()
    nowhere = nifti_bytes(TRUTH, vox_offset=NAN)
    for content in (data[:-5], data[:100], b"", gzip.compress(data)[:-9], bytes(header), nowhere):
        bad = tmp_path / "bad.nii.gz"
        bad.write_bytes(content)
        for rules in (Rules(), OFFICIAL):
            result = score_case(Pair("case", good, bad), rules)
            assert (result.status, result.dsc) == ("bad_prediction", 0.0)
            assert result.message.startswith("bad.nii.gz: ")


def test_the_csv_of_the_challenge_holds_the_scripts_numbers(tmp_path):
    """The right values are 0.8677 and 0.9781 of a prediction that was saved with an identity affine."""
    grid = np.indices((40, 40, 30))
    for folder, centre, affine in (
        ("labels", (20, 20, 15), np.diag([-0.8, -0.8, 2.5, 1.0])),
        ("masks", (20, 21, 16), np.eye(4)),
    ):
        (tmp_path / folder).mkdir()
        mask = sum((axis - c) ** 2 for axis, c in zip(grid, centre, strict=True)) <= 64
        nib.save(nib.Nifti1Image(mask.astype(np.uint8), affine), tmp_path / folder / "a.nii.gz")
    options = ["--reference", tmp_path / "labels", "--prediction", tmp_path / "masks", "-o", tmp_path / "out"]
    assert main(["accuracy", *map(str, options), "--official", "--workers", "1"]) == 0
    assert (tmp_path / "out" / "masks" / "accuracy.csv").read_text(encoding="utf-8").splitlines() == [
        "Name,Lesion_DSC,Lesion_NSD",
        "a.nii.gz,0.8677,0.9781",
    ]
