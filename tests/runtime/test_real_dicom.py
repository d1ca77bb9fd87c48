"""DICOM that others have made: real series, and the files that pydicom brings."""

import re
from pathlib import Path

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")
sitk = pytest.importorskip("SimpleITK")

from flare_runtime.errors import CaseError, UsageError  # noqa: E402
from flare_runtime.imaging.read import read_volume  # noqa: E402
from tests.runtime.dicom_files import check_as_simpleitk  # noqa: E402


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["abdomen_jpeg2000_dicom", "liver_metastases_5mm_dicom", "three_slices_dicom"])
def test_real_series_are_read_as_simpleitk_reads_them(name, shared_data):
    check_as_simpleitk(shared_data / "ct" / name, read_volume(shared_data / "ct" / name))


@pytest.mark.shared_data
def test_a_real_tilted_gantry_is_refused(shared_data):
    with pytest.raises(CaseError, match=r"18\.5 degrees"):
        read_volume(shared_data / "ct" / "head_tilted_dicom")


PYDICOM = Path(pydicom.__file__).parent / "data" / "test_files"


# Every other is of another modality, colour, or damaged.
IMAGES = {
    *("693_J2KI.dcm", "CT_small.dcm", "J2K_pixelrep_mismatch.dcm", "MR_small.dcm", "MR_small_RLE.dcm"),
    *("MR_small_bigendian.dcm", "MR_small_expb.dcm", "MR_small_implicit.dcm", "MR_small_jp2klossless.dcm"),
    *("MR_small_jpeg_ls_lossless.dcm", "MR_small_padded.dcm", "examples_overlay.dcm"),
}


@pytest.mark.filterwarnings("ignore")
def test_each_of_pydicoms_own_files_is_read_as_simpleitk_reads_it_or_refused():
    files = [file for file in PYDICOM.iterdir() if file.is_file()]
    images = set()
    for file in files:
        try:
            volume = read_volume(file)
        except (CaseError, UsageError):
            continue
        images.add(file.name)
        expected = sitk.GetArrayFromImage(sitk.ReadImage(str(file)))
        assert np.array_equal(volume.intensities(volume.voxels), expected), file
    assert len(files) > 50
    assert images >= IMAGES


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("77654033/CT2", "161 slice(s) are missing"),
        ("98892001/CT2N", "2 localizer(s)"),
        ("98892003/MR1", "holds 3 series"),
        ("98892003/MR2", "holds 7 series"),
        ("98892003/MR700", "holds 7 series"),
        ("77654033/CR1", "none of them a slice"),
    ],
)
def test_pydicoms_own_study_is_read_series_by_series(source, found):
    with pytest.raises((CaseError, UsageError), match=re.escape(found)):
        read_volume(PYDICOM / "dicomdirtests" / source)
    assert read_volume(PYDICOM / "dicomdirtests" / "98892001" / "CT5N").shape == (5, 16, 16)


def test_pydicoms_own_truncated_file_is_refused():
    with pytest.raises(CaseError) as caught:
        read_volume(PYDICOM / "MR_truncated.dcm")
    assert caught.value.reason == "truncated"
