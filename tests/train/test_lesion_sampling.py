"""Every lesion of a case is drawn as often by nnU-Net's own loader, and found once."""

import os
import pickle

import numpy as np
import pytest

pytest.importorskip("nnunetv2")

from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class, nnUNetDatasetBlosc2
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from flare_train.training import lesion_sampling
from flare_train.training.lesion_sampling import LesionDataset, equal_sample
from tests.eval.nifti_masks import cube
from tests.train.preprocessed_cases import write_case

SHAPE = (24, 24, 24)
LARGE = cube(SHAPE, (1, 1, 1), (11, 11, 11))  # 1000 voxels
SMALL = cube(SHAPE, (20, 20, 20), (21, 22, 22))  # 4 voxels
PATCH = (3, 3, 3)
DRAWN = 300


@pytest.fixture
def folder(tmp_path):
    write_case(tmp_path / "plans_3d_fullres", "case", LARGE | SMALL)
    return tmp_path / "plans_3d_fullres"


def dataset(folder):
    return LesionDataset(nnUNetDatasetBlosc2(str(folder)))


def locations(cases, identifier="case"):
    return cases.load_case(identifier)[3]["class_locations"]


def test_components_get_equally_many_voxels_and_small_ones_repeat():
    mask = np.zeros((1, 2, 7), bool)
    mask[0, 0, 0] = mask[0, 1, 1] = True  # neighbours by a corner: one component
    mask[0, 0, 3:7] = True
    sample = equal_sample(mask)
    assert sample.shape == (8, 3)
    assert sorted(map(tuple, sample[:4].tolist())) == [(0, 0, 0), (0, 0, 0), (0, 1, 1), (0, 1, 1)]
    assert sorted(map(tuple, sample[4:].tolist())) == [(0, 0, x) for x in range(3, 7)]
    assert equal_sample(mask, most=6).shape == (6, 3)
    assert equal_sample(mask, most=1).shape == (2, 3), "one voxel of each at least"


def test_a_sample_is_the_same_every_time_and_leaves_the_global_generator_alone():
    np.random.seed(0)  # noqa: NPY002  # as the trainer does for every epoch
    undisturbed = np.random.random()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    np.testing.assert_array_equal(equal_sample(LARGE | SMALL, 50), equal_sample(LARGE | SMALL, 50))
    assert np.random.random() == undisturbed  # noqa: NPY002


def test_locations_are_as_nnunet_has_them(folder):
    theirs, ours = (locations(cases)[1] for cases in (nnUNetDatasetBlosc2(str(folder)), dataset(folder)))
    assert (ours.dtype, ours.shape[1]) == (theirs.dtype, 4)
    assert {tuple(voxel) for voxel in ours.tolist()} == {tuple(voxel) for voxel in theirs.tolist()}
    in_small = SMALL[tuple(ours[:, 1:].T)] == 1
    assert in_small.sum() == len(ours) / 2 == 1000


def share_of_small(cases):
    """How many of the patches that nnU-Net's loader centres on a lesion hold the small one."""
    loader = nnUNetDataLoader(
        cases, 2, PATCH, PATCH, LabelManager({"background": 0, "lesion": 1}, None), oversample_foreground_percent=1.0
    )
    np.random.seed(0)  # noqa: NPY002  # nnU-Net draws from the global generator
    targets = np.concatenate([np.asarray(next(loader)["target"]) for _ in range(DRAWN // 2)])
    lesion_voxels = (targets == 1).sum(axis=(1, 2, 3, 4))
    assert (lesion_voxels > 0).all()
    return (lesion_voxels <= 4).mean()


def test_nnunets_loader_draws_a_small_lesion_as_often_as_a_large_one(folder):
    assert share_of_small(nnUNetDatasetBlosc2(str(folder))) < 0.05
    assert share_of_small(dataset(folder)) == pytest.approx(0.5, abs=3.5 * 0.5 / np.sqrt(DRAWN))


def test_lesions_are_found_once_and_again_only_for_another_case(folder, monkeypatch):
    first = locations(dataset(folder))[1]
    found = []
    monkeypatch.setattr(lesion_sampling, "equal_sample", lambda mask: found.append(mask) or equal_sample(mask))
    np.testing.assert_array_equal(locations(dataset(folder))[1], first)
    assert not found
    write_case(folder, "case", SMALL)
    os.utime(folder / "case.pkl", ns=(0, 0))  # older, and still another one
    assert len(locations(dataset(folder))[1]) == 4
    assert len(found) == 1


def test_nnunet_lists_nothing_new(folder):
    locations(dataset(folder))
    assert nnUNetDatasetBlosc2.get_identifiers(str(folder)) == ["case"]
    assert infer_dataset_class(str(folder)) is nnUNetDatasetBlosc2
    assert [path.name for path in (folder.parent / "plans_3d_fullres.lesions").iterdir()] == ["case.npz"]


def test_other_entries_stay_and_a_case_without_a_lesion_too(folder):
    annotated = (-1, 0, 1)
    write_case(folder, "bare", np.zeros(SHAPE), ignore=True)
    write_case(folder, "partial", SMALL, ignore=True)
    theirs, ours = nnUNetDatasetBlosc2(str(folder)), dataset(folder)
    assert ours.identifiers == ["bare", "case", "partial"]
    assert len(locations(ours, "bare")[1]) == 0
    for identifier in ("bare", "partial"):
        assert list(locations(ours, identifier)) == [1, annotated]
        np.testing.assert_array_equal(locations(ours, identifier)[annotated], locations(theirs, identifier)[annotated])


def test_it_goes_to_augmentation_processes(folder):
    copy = pickle.loads(pickle.dumps(dataset(folder)))
    np.testing.assert_array_equal(locations(copy)[1], locations(dataset(folder))[1])
