"""The benchmark beside TotalSegmentator: one mask for both, and every step of ours."""

import numpy as np
import pytest

pytest.importorskip("highdicom")
pytest.importorskip("contourpy")

from benchmarks.dicom import step_of_ours, with_uids
from benchmarks.totalsegmentator_dicom import STEPS, ellipsoids

from tests.runtime.dicom_files import Series


def test_the_mask_is_the_same_in_the_patient_however_the_axes_point():
    affine, shape = np.diag([1.5, 2.0, 3.0, 1.0]), (40, 36, 20)
    turned = affine.copy()
    turned[:3, 3] += affine[:3, 0] * 39
    turned[:3, 0] *= -1
    mask = ellipsoids(affine, shape)
    assert set(np.unique(mask)) == {0, 1, 2}
    assert np.array_equal(ellipsoids(turned, shape), mask[::-1])


def test_a_series_without_uids_is_read_and_written(tmp_path):
    def change(dataset, _index):
        del dataset.StudyInstanceUID, dataset.FrameOfReferenceUID

    series = with_uids(Series(change=change).write(tmp_path / "scan"), tmp_path / "copy")
    for step in STEPS:
        assert step_of_ours(step, series, tmp_path)["s"] > 0
    assert {"flare-lite.seg.dcm", "flare-lite.rtstruct.dcm"} <= {file.name for file in tmp_path.iterdir()}
