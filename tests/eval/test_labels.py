"""What label images hold, by hand."""

import numpy as np
import pytest

from flare_eval.components import label_components
from flare_eval.labels import label_values, read_labels
from flare_eval.show import main
from flare_runtime.errors import CaseError
from flare_runtime.imaging.read import read_volume
from tests.eval.nifti_masks import cube, write
from tests.runtime.nifti_files import write_nifti

STORED = np.array([[[0, 2, 4]]], np.int16)


def test_values_are_as_stored_where_there_is_no_scaling(tmp_path):
    volume = read_volume(write_nifti(tmp_path / "a.nii", STORED))
    assert label_values(volume) is volume.voxels


def test_scaled_labels_are_labels(tmp_path):
    volume, labels = read_labels(write_nifti(tmp_path / "a.nii", STORED, scl_slope=0.5, scl_inter=1))
    assert volume.slope == 0.5
    assert labels.dtype == np.uint8
    assert labels.tolist() == [[[1, 2, 3]]]


@pytest.mark.parametrize("scaling", [{"scl_slope": 0.25}, {"scl_inter": -1}, {"scl_slope": 100}])
def test_what_is_no_whole_number_from_0_to_255_is_no_label(tmp_path, scaling):
    with pytest.raises(CaseError, match=r"a\.nii: holds values that are not whole numbers from 0 to 255") as caught:
        read_labels(write_nifti(tmp_path / "a.nii", STORED, **scaling))
    assert caught.value.reason == "not_labels"


def test_a_ct_is_no_mask_to_look_at(tmp_path, capsys):
    mask = cube((6, 10, 10), (1, 1, 1), (5, 9, 9))
    write(tmp_path / "images" / "a_0000.nii.gz", mask)
    write(tmp_path / "labels" / "a.nii.gz", mask)
    write(tmp_path / "masks" / "a.nii.gz", mask.astype(np.int16) * -1000)
    folders = {"-i": "images", "-r": "labels", "-p": "masks", "-o": "pictures"}
    assert main([part for option, name in folders.items() for part in (option, str(tmp_path / name))]) == 4
    assert "whole numbers from 0 to 255" in capsys.readouterr().err


def test_components_touch_by_corners_too():
    mask = np.zeros((3, 3, 4), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[2, 2, 3] = True
    components, count = label_components(mask)
    assert count == 2
    assert components[0, 0, 0] == components[1, 1, 1] == 1
    assert components[2, 2, 3] == 2
