"""Series of a tilted gantry, straightened: voxels stay where they are in the patient, and masks go back to slices."""

import json

import numpy as np
import pytest

pytest.importorskip("pydicom")

from pydicom import dcmread

from flare_runtime import Segmenter, cli
from flare_runtime.errors import CaseError
from flare_runtime.imaging.read import read_grid, read_volume
from flare_runtime.options import RunOptions
from tests.runtime.dicom_files import Series

DEGREES = 12.0
AXES = (1, 0, 0, 0, np.cos(np.radians(DEGREES)), np.sin(np.radians(DEGREES)))


def ramp(dataset, index):
    """Let intensity say the place: 2 HU for a mm along x + y, 1 HU along z."""
    rows, columns = np.reshape(AXES, (2, 3))
    row, column = np.indices((dataset.Rows, dataset.Columns))
    place = np.array(dataset.ImagePositionPatient, float)[:, None, None]
    x, y, z = place + rows[:, None, None] * column * 1.5 + columns[:, None, None] * row * 2.0
    dataset.set_pixel_data(np.rint(10 * (2 * x + 2 * y + z) + 3000).astype(np.int16), "MONOCHROME2", 16)


TILTED = Series(orientation=AXES, way=(0, 0, 1), change=ramp)


def test_voxels_stay_where_they_are_in_the_patient(tmp_path):
    folder = TILTED.write(tmp_path / "scan")
    with pytest.raises(CaseError, match=r"12\.0 degrees .*--straighten-tilt"):
        read_volume(folder)
    volume = read_volume(folder, straighten_tilt=True)
    assert read_grid(volume.source) == volume.grid
    # 11 steps of 3 mm, of which the tilt takes a share along rows of 2 mm.
    assert volume.shape == (12, 40 + 4, 44)
    assert np.allclose(volume.spacing_mm, (3 * np.cos(np.radians(DEGREES)), 2.0, 1.5))
    index = np.stack(np.meshgrid(*map(np.arange, volume.shape[::-1]), (1,), indexing="ij"), -1)[..., 0, :]
    x, y, z, _ = np.moveaxis(index @ (np.diag([-1, -1, 1, 1]) @ volume.geometry.affine).T, -1, 0)
    expected = (10 * (2 * x + 2 * y + z) + 3000).T
    inner = np.zeros(volume.shape, bool)
    inner[:, 5:-5] = True
    # Rounded when they were stored, and after they were interpolated.
    assert np.abs(volume.voxels - expected)[inner].max() <= 1.0 + 1e-3
    (remark,) = volume.remarks
    assert (remark.code, remark.text) == ("straightened", "slices of a tilted gantry were moved by up to 6.9 mm")


def test_a_mask_lies_on_the_slices_again_within_half_a_pixel(tmp_path):
    volume = read_volume(TILTED.write(tmp_path / "scan"), straighten_tilt=True)
    row = np.broadcast_to(np.arange(volume.shape[1], dtype=np.uint8)[None, :, None], volume.shape)
    back = volume.source.on_slices(row)
    assert back.shape == (12, 40, 44)
    starts = np.sin(np.radians(DEGREES)) * 3.0 * np.arange(12) / 2.0
    assert np.abs(back - (np.arange(40)[:, None] + starts[:, None, None])).max() <= 0.5 + 1e-6


def test_a_series_at_right_angles_is_as_it_was(tmp_path):
    folder = Series().write(tmp_path / "scan")
    volume = read_volume(folder, straighten_tilt=True)
    assert np.array_equal(volume.voxels, read_volume(folder).voxels)
    assert not volume.remarks
    mask = np.zeros(volume.shape, np.uint8)
    assert volume.source.on_slices(mask) is mask


def test_by_command_the_segmentation_is_of_the_slices_as_they_were_taken(tmp_path, tiny_bundle):
    pytest.importorskip("highdicom")
    folder = Series(count=6, orientation=AXES, way=(0, 0, 1)).write(tmp_path / "scan")
    options = ["--straighten-tilt", "--output-type", "nifti,dicom-seg", "--device", "cpu", "--precision", "fp32"]
    assert cli.main(["-i", str(folder), "-o", f"{tmp_path}/masks/", "-m", str(tiny_bundle), *options]) == 0
    record = json.loads((tmp_path / "masks" / "scan.json").read_bytes())
    assert [remark["code"] for remark in record["remarks"]] == ["straightened"]
    mask = read_volume(tmp_path / "masks" / "scan.nii.gz")
    assert mask.voxels.any()
    assert mask.shape == tuple(record["shape"])
    segmentation = dcmread(tmp_path / "masks" / "scan.seg.dcm")
    assert (segmentation.Rows, segmentation.Columns) == (40, 44)
    source = {tuple(dcmread(file).ImagePositionPatient) for file in folder.iterdir()}
    frames = segmentation.PerFrameFunctionalGroupsSequence
    assert {tuple(one.PlanePositionSequence[0].ImagePositionPatient) for one in frames} <= source
    result = Segmenter.load(tiny_bundle, RunOptions(straighten_tilt=True, device="cpu")).segment(folder)
    assert result.mask.shape == mask.shape
