"""Lossless JPEG, whose one decoder may end its process: decoded in another one."""

import numpy as np
import pytest

pytest.importorskip("pydicom")
sitk = pytest.importorskip("SimpleITK")
gdcm = pytest.importorskip("gdcm")

from flare_runtime.errors import CaseError  # noqa: E402
from flare_runtime.imaging.dicom import apart  # noqa: E402
from flare_runtime.imaging.read import read_volume  # noqa: E402
from tests.runtime.dicom_files import Series  # noqa: E402


@pytest.fixture
def lossless(tmp_path):
    """A series in lossless JPEG, as archives keep it."""
    folder = Series(count=4).write(tmp_path / "scan")
    for path in folder.iterdir():
        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(str(path))
        assert reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFileName(str(path))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
    return folder


def test_it_is_read_as_simpleitk_reads_it(lossless):
    volume = read_volume(lossless)
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(lossless)))
    assert np.array_equal(volume.intensities(volume.voxels), sitk.GetArrayFromImage(image))
    assert np.array_equal(volume.voxels, Series(count=4).pixels())


def test_slices_that_are_not_wanted_are_not_decoded(lossless):
    data = (lossless / "IM0000").read_bytes()
    (lossless / "IM0000").write_bytes(data[: data.index(b"\xff\xd8") + 2] + bytes(50))
    volume = read_volume(lossless, wanted=slice(1, 3))
    expected = Series(count=4).pixels()
    expected[[0, 3]] = 0
    assert np.array_equal(volume.voxels, expected)


def test_pixels_that_cannot_be_decoded_are_refused(lossless):
    path = lossless / "IM0002"
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"\xff\xd8") + 2] + bytes(len(data) - data.index(b"\xff\xd8") - 2))
    with pytest.raises(CaseError, match="IM0002") as caught:
        read_volume(lossless)
    assert caught.value.reason == "corrupt"


@pytest.mark.parametrize("end", ["import os; os.abort()", "raise SystemExit", "import os; os.close(0); os.abort()"])
def test_a_decoder_that_ends_its_process_costs_the_series_alone(end, lossless, monkeypatch):
    monkeypatch.setattr(apart, "_PROGRAM", end)
    with pytest.raises(CaseError, match="ended at damaged pixels") as caught:
        read_volume(lossless)
    assert caught.value.reason == "corrupt"


def test_nothing_is_imported_from_the_current_folder(lossless, tmp_path, monkeypatch):
    trap = tmp_path / "trap"
    trap.mkdir()
    (trap / "json.py").write_text("raise SystemExit")
    monkeypatch.chdir(trap)
    assert read_volume(lossless).shape[0] == 4
