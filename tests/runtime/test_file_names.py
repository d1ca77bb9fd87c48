"""Names of images and masks, by one rule for all commands."""

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flare_runtime.files.naming import fitted
from flare_runtime.imaging.file_names import (
    case_name,
    find_image,
    image_name,
    is_image_name,
    is_mask_name,
    is_stale,
    mask_name,
    record_name,
    split_channel,
    stale_name,
    strip_suffix,
)

CASES = st.text(st.characters(exclude_characters="/\0~", exclude_categories=["Cs"]), min_size=1, max_size=300)


@pytest.mark.parametrize(
    ("name", "stem"),
    [("a.nii.gz", "a"), ("a.nii", "a"), ("A.NII.GZ", "A"), ("a.b.nii.gz", "a.b"), ("a.gz", "a.gz"), ("a", "a")],
)
def test_suffixes(name, stem):
    assert strip_suffix(name) == stem


@given(case=CASES, channel=st.integers(0, 9999))
def test_the_name_of_an_image_says_its_case_and_channel(case, channel):
    assert split_channel(image_name(case, channel)) == (case, channel)
    assert strip_suffix(mask_name(case)) == case


@pytest.mark.parametrize(
    ("name", "case", "channel"),
    [
        ("a_0000.nii.gz", "a", 0),
        ("a_0012.NII", "a", 12),
        ("a_0000_0001.nii.gz", "a_0000", 1),
        ("a_000.nii.gz", "a_000", None),
        ("a_00000.nii.gz", "a_00000", None),
        ("_0000.nii.gz", "_0000", None),
        ("a\nb_0000.nii.gz", "a\nb", 0),
        ("a.nii.gz", "a", None),
    ],
)
def test_four_digits_at_the_end_are_the_channel(name, case, channel):
    assert split_channel(name) == (case, channel)


@pytest.mark.parametrize(
    ("name", "shown"),
    [("a_0000.nii.gz", "a"), ("a.nii", "a"), ("a_0001.nii.gz", "a_0001"), ("a\x1b_0000.nii.gz", r"a\x1b")],
)
def test_a_case_is_called_after_its_channel_0_alone(name, shown):
    assert case_name(Path("folder", name)) == shown


@given(stem=CASES, end=st.sampled_from([".json", ".stale.nii.gz", ".probabilities.npz"]))
def test_every_name_fits_the_file_system(stem, end):
    name = fitted(stem, end)
    assert len(os.fsencode(name)) <= 255
    assert name.endswith(end)
    if len(os.fsencode(stem + end)) <= 255:
        assert name == stem + end
    else:
        assert name != fitted(stem + "x", end)
        assert name.split("~")[0] == stem[: len(name.split("~")[0])]


def test_names_that_are_too_long_end_in_a_digest():
    stem = "é" * 124  # two bytes each
    assert stale_name(f"{stem}.nii.gz") == f"{'é' * 114}~{hashlib.sha256(stem.encode()).hexdigest()[:12]}.stale.nii.gz"
    assert record_name(f"{'x' * 250}.nii.gz") == f"{'x' * 250}.json"
    assert len(record_name(f"{'x' * 251}.nii")) == 255
    assert is_stale(stale_name(f"{stem}.nii.gz"))


@pytest.mark.parametrize(
    ("name", "image", "mask", "stale"),
    [
        ("a.nii.gz", True, True, False),
        ("A.NII", True, False, False),
        (".a.nii", False, True, False),
        ("a.stale.nii.gz", False, True, True),
        ("a.STALE.NII", False, False, True),
        ("a.stale", False, False, False),
        ("a.mgz", False, False, False),
    ],
)
def test_names_of_images_of_masks_and_of_masks_set_aside(name, image, mask, stale):
    assert (is_image_name(name), is_mask_name(name), is_stale(name)) == (image, mask, stale)


def test_an_image_is_found_with_and_without_its_number(tmp_path):
    for name in ("a.nii.gz", "b.nii", "b_0000.nii", "c_0001.nii.gz"):
        (tmp_path / name).touch()
    found = {case: find_image(tmp_path, case) for case in "abc"}
    assert found == {"a": tmp_path / "a.nii.gz", "b": tmp_path / "b_0000.nii", "c": None}
