"""Finding cases and telling their sources by the challenge's layouts and names."""

import os

import pytest

from flare_eval.sources import OTHER, PSEUDO_LABELLED, source_of
from flare_runtime.errors import UsageError
from flare_train.data.cases import find_cases


@pytest.mark.parametrize(
    ("stem", "source"),
    [
        ("000001_01_01_103-115", PSEUDO_LABELLED),
        ("Chest_000001_01_01_103-115", PSEUDO_LABELLED),
        ("LIDC-IDRI-0001", "LIDC"),
        ("Chest_LIDC-IDRI-0001", "LIDC"),
        ("KiTS23_case_00012", "KiTS23"),
        ("PETCT_0011f3deaf-0", "autoPET"),
        ("WholeBody_autoPET_fdg_x", "autoPET"),
        ("psma_95b833d65be26d2f_2018-04-23", "PSMA"),
        ("NSCLC-Radiomics_001", "NSCLC"),
        ("NSCLC-Radiogenomics_R01-005", "NSCLC"),
        ("NSCLCPleuralEffusion_012", "NSCLC"),
        ("MSD_hepaticvessel_001", "MSD hepatic vessel"),
        ("Liver_MSD_liver_12", "MSD liver"),
        ("NIH-LYMPH-MED-001", "NIH lymph nodes"),
        ("Adrenal_Ki67_Seg_001", "ACC-Ki67"),
        ("volume-covid19-A-0001", "COVID"),
        ("FLARE23Ts_0001", "FLARE23 validation"),
        ("STS_005", "STS"),
        ("000001_01_01_103", OTHER),
        ("xLIDC-IDRI-0001", OTHER),
    ],
)
def test_a_name_tells_the_source(stem, source):
    assert source_of(stem) == source


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("imagesTr/STS_005_0000.nii.gz", "labelsTr/STS_005.nii.gz"),
        ("images/STS_005_0000.nii.gz", "labels/STS_005.nii.gz"),
        ("train_label/x_part1/images/STS_005_0000.nii.gz", "train_label/x_part1/labels/STS_005.nii.gz"),
        ("imagesTr_part2/STS_005_0000.nii.gz", "labelsTr/STS_005.nii.gz"),
    ],
)
def test_images_and_labels_meet_in_every_layout(tmp_path, image, label):
    (case,) = find_cases(touch(tmp_path, image, label))
    assert (case.stem, case.source, case.image, case.label) == ("STS_005", "STS", tmp_path / image, tmp_path / label)


def test_stems_may_end_in_a_number_like_a_channel(tmp_path):
    touch(tmp_path, "imagesTr/FLARE23Ts_0000_0000.nii.gz", "labelsTr/FLARE23Ts_0000.nii.gz")
    touch(
        tmp_path,
        "imagesTr/FLARE23Ts_0001_0000.nii.gz",
        "imagesTr/FLARE23Ts_0001_0001.nii.gz",
        "labelsTr/FLARE23Ts_0001.nii.gz",
    )
    cases = find_cases(tmp_path)
    assert [(case.stem, case.label) for case in cases] == [
        (stem, tmp_path / "labelsTr" / f"{stem}.nii.gz") for stem in ("FLARE23Ts_0000", "FLARE23Ts_0001")
    ]


def test_what_has_no_partner_is_still_a_case(tmp_path):
    first, second = find_cases(touch(tmp_path, "images/a_0000.nii.gz", "labels/b.nii.gz", "images/.hidden_0000.nii.gz"))
    assert (first.stem, first.label) == ("a", None)
    assert (second.stem, second.image) == ("b", None)


def test_of_two_labels_the_nearer_one_counts(tmp_path):
    touch(tmp_path, "one/images/a_0000.nii.gz", "one/labels/a.nii.gz", "two/labels/a.nii.gz")
    assert find_cases(tmp_path)[0].label == tmp_path / "one/labels/a.nii.gz"


def test_a_folder_tells_pseudo_labels_whatever_the_name(tmp_path):
    touch(tmp_path, "DeepLesion5K_part1/images/LIDC-IDRI-0001_0000.nii.gz")
    assert find_cases(tmp_path)[0].source == PSEUDO_LABELLED


def test_two_images_of_one_case_and_none_at_all_are_usage_errors(tmp_path):
    with pytest.raises(UsageError, match=r"no <case>_0000\.nii\.gz there"):
        find_cases(tmp_path)
    with pytest.raises(UsageError, match="of one case"):
        find_cases(touch(tmp_path, "a/x_0000.nii.gz", "b/x_0000.nii.gz"))


# --- links


def test_links_to_folders_are_followed(tmp_path):
    touch(tmp_path / "elsewhere", "scans/a_0000.nii.gz", "drawn/a.nii.gz")
    root = tmp_path / "set"
    root.mkdir()
    (root / "imagesTr").symlink_to(tmp_path / "elsewhere" / "scans")
    (root / "labelsTr").symlink_to("../elsewhere/drawn")
    (case,) = find_cases(root)
    assert (case.image, case.label) == (root / "imagesTr/a_0000.nii.gz", root / "labelsTr/a.nii.gz")
    (case,) = find_cases(root / "imagesTr", root / "labelsTr")
    assert case.label == root / "labelsTr/a.nii.gz"


def test_links_in_a_circle_end(tmp_path):
    root = touch(tmp_path / "outer" / "set", "a/images/x_0000.nii.gz", "a/labels/x.nii.gz")
    touch(tmp_path / "outer", "other/y_0000.nii.gz")
    (root / "a" / "again").symlink_to(root)
    (root / "a" / "itself").symlink_to("itself")
    (root / "b").symlink_to("a")
    (root / "0_first").symlink_to("a")
    (root / "around").symlink_to(tmp_path)
    (case,) = find_cases(root)
    assert case.image == root / "a/images/x_0000.nii.gz"
    # The same under the name of a link.
    (tmp_path / "link").symlink_to(root)
    (case,) = find_cases(tmp_path / "link")
    assert case.image == tmp_path / "link/a/images/x_0000.nii.gz"


def test_every_folder_given_has_to_hold_a_case(tmp_path):
    one = touch(tmp_path / "one", "images/a_0000.nii.gz")
    empty = touch(tmp_path / "empty", "notes.txt")
    labels = touch(tmp_path / "labels", "a.nii.gz")
    assert len(find_cases(one, labels)) == 1
    with pytest.raises(UsageError, match=r"empty: no image and no label of any case there"):
        find_cases(one, empty)
    with pytest.raises(UsageError, match=r"one/images/a_0001: no image"):
        find_cases(one, touch(tmp_path / "one/images/a_0001", "a_0001.nii.gz"))


def test_folders_that_cannot_be_read_are_usage_errors(tmp_path, monkeypatch):
    one = touch(tmp_path / "one", "images/a_0000.nii.gz", "images/part2/b_0000.nii.gz")
    (tmp_path / "loop").symlink_to("loop")
    for root in (tmp_path / "nowhere", tmp_path / "loop", one / "images/a_0000.nii.gz"):
        with pytest.raises(UsageError, match=rf"{root.name}: cannot be read"):
            find_cases(one, root)
    real = os.scandir

    def scandir(path):
        if str(path).endswith(("part2", "lost+found")):
            raise PermissionError(13, "Permission denied", path)  # root reads everything
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UsageError, match=r"part2: cannot be read \(Permission denied\)"):
        find_cases(one)
    disk = touch(tmp_path / "disk", "images/a_0000.nii.gz", "lost+found/x_0000.nii.gz")
    assert [case.stem for case in find_cases(disk)] == ["a"]
