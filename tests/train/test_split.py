"""Which split a fold is taken from: the user's choice, a split that is there, or nnU-Net's own."""

import json

import pytest

from flare_runtime.errors import UsageError
from flare_train.data.nnunet_folders import SPLITS, DatasetFolders
from flare_train.data.split import read_split, stems_of

STEMS = [f"case_{number}" for number in range(6)]
CHOSEN = [{"train": STEMS[:4], "val": STEMS[4:]}]


@pytest.fixture
def dataset(tmp_path):
    raw, preprocessed = tmp_path / "raw", tmp_path / "preprocessed"
    (raw / "labelsTr").mkdir(parents=True)
    preprocessed.mkdir()
    for stem in STEMS:
        (raw / "labelsTr" / f"{stem}.nii.gz").touch()
    return DatasetFolders("Dataset001_Test", 1, raw, preprocessed)


def write(folder, splits):
    (folder / SPLITS).write_text(json.dumps(splits), encoding="utf-8")


def test_stems_are_those_of_the_labels(dataset):
    assert stems_of(dataset) == STEMS


def test_the_split_of_select_replaces_what_nnunet_would_use(dataset):
    write(dataset.raw, CHOSEN)
    write(dataset.preprocessed, [{"train": STEMS[1:], "val": STEMS[:1]}] * 5)
    assert read_split(dataset, 0) == CHOSEN[0]
    assert json.loads((dataset.preprocessed / SPLITS).read_text(encoding="utf-8")) == CHOSEN


def test_a_split_that_is_there_is_kept(dataset):
    write(dataset.preprocessed, CHOSEN)
    assert read_split(dataset, 0) == CHOSEN[0]


def test_without_any_nnunets_own_five_folds_are_made(dataset):
    pytest.importorskip("nnunetv2")
    folds = [read_split(dataset, fold) for fold in range(5)]
    assert sorted(stem for fold in folds for stem in fold["val"]) == STEMS
    assert all(sorted(fold["train"] + fold["val"]) == STEMS for fold in folds)


def test_a_split_of_cases_that_are_gone_is_refused_and_kept(dataset):
    write(dataset.preprocessed, [{"train": STEMS, "val": ["gone"]}])
    with pytest.raises(UsageError, match="names gone"):
        read_split(dataset, 0)
    assert (dataset.preprocessed / SPLITS).is_file()


def test_a_fold_that_is_not_there_and_too_few_cases_are_refused(dataset):
    write(dataset.raw, CHOSEN)
    with pytest.raises(UsageError, match="has 1, counted from 0"):
        read_split(dataset, 1)
    (dataset.raw / SPLITS).unlink()
    (dataset.preprocessed / SPLITS).unlink()
    for stem in STEMS[2:]:
        (dataset.raw / "labelsTr" / f"{stem}.nii.gz").unlink()
    pytest.importorskip("nnunetv2")
    with pytest.raises(UsageError, match="2 cases make no 5 folds"):
        read_split(dataset, 0)
