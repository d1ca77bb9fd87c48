"""Zip archives of DICOM: read as the folders that they were, or refused before they unpack to anything."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")

from flare_runtime.errors import CaseError, UsageError  # noqa: E402
from flare_runtime.imaging.dicom.series import find_series  # noqa: E402
from flare_runtime.imaging.read import read_volume  # noqa: E402
from tests.processes import memory_bytes, reset_peak_memory  # noqa: E402
from tests.runtime.dicom_files import Series  # noqa: E402

MAX_VOXELS = 1 << 30


def only(source):
    (series,) = find_series(source)
    return series


def pack(folder: Path, target: Path, method: int = zipfile.ZIP_DEFLATED) -> Path:
    """Pack the files of a folder."""
    with zipfile.ZipFile(target, "w", method) as archive:
        for file in folder.iterdir():
            archive.write(file, f"scan/{file.name}")
    return target


def test_a_zip_is_the_folder_that_it_was(tmp_path):
    folder = Series().write(tmp_path / "in" / "scan")
    (folder / "notes.txt").write_text("no image")
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        for file in folder.iterdir():
            archive.write(file, f"scan/{file.name}")
    series = only(tmp_path / "study.zip")
    assert (series.name, series.files) == ("study_scan", (tmp_path / "study.zip",))
    assert np.array_equal(series.read_volume(MAX_VOXELS).voxels, read_volume(folder).voxels)


def test_the_list_of_an_archive_is_read_once_and_not_for_every_member(tmp_path, monkeypatch):
    """2,000 slices took two minutes when it was."""
    study = pack(Series().write(tmp_path / "scan"), tmp_path / "study.zip")
    opened = []
    real = zipfile.ZipFile.__init__
    monkeypatch.setattr(zipfile.ZipFile, "__init__", lambda *args: (opened.append(1), real(*args))[1])
    only(study).read_volume(MAX_VOXELS)
    assert len(opened) == 3  # for the names, the headers and the voxels


def test_a_header_is_read_without_what_follows_it(tmp_path):
    file = Series(count=1).write(tmp_path / "scan") / "IM0000"
    with zipfile.ZipFile(tmp_path / "study.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("IM0000", file.read_bytes() + bytes(100 << 20))
    only(tmp_path / "study.zip")  # imports what it needs
    reset_peak_memory()
    before = memory_bytes("VmRSS")
    only(tmp_path / "study.zip")
    assert memory_bytes("VmHWM") - before < 50 << 20


def test_a_flipped_bit_in_an_archive_is_refused(tmp_path):
    study = pack(Series().write(tmp_path / "scan"), tmp_path / "study.zip", zipfile.ZIP_STORED)
    content = bytearray(study.read_bytes())
    content[3000] ^= 1  # of the pixels of the first file
    study.write_bytes(content)
    with pytest.raises(CaseError, match="Bad CRC-32") as caught:
        read_volume(study)
    assert caught.value.reason == "corrupt"


def test_an_archive_that_would_unpack_to_too_much_is_refused(tmp_path):
    target = tmp_path / "bomb.zip"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", b"x")
    content = bytearray(target.read_bytes())
    place = content.index(b"PK\x01\x02")
    content[place + 24 : place + 28] = (1 << 30).to_bytes(4, "little")
    target.write_bytes(content)
    with pytest.raises(UsageError, match="would unpack to 1,073,741,824 bytes"):
        find_series(target)


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_archives_of_other_methods_are_refused_even_where_they_are_damaged(method, tmp_path):
    study = pack(Series().write(tmp_path / "scan"), tmp_path / "study.zip", method)
    content = bytearray(study.read_bytes())
    content[60:90] = bytes(30)
    study.write_bytes(content)
    with pytest.raises(UsageError, match=r"'scan/IM00.*encrypted or not packed by deflate"):
        find_series(study)


def test_an_encrypted_archive_is_refused(tmp_path):
    study = pack(Series(count=1).write(tmp_path / "scan"), tmp_path / "study.zip")
    content = bytearray(study.read_bytes())
    for place in (6, content.index(b"PK\x01\x02") + 8):
        content[place] |= 1
    study.write_bytes(content)
    with pytest.raises(UsageError, match="encrypted"):
        find_series(study)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_with_two_files_of_one_name_is_refused(tmp_path):
    folder = Series(count=3).write(tmp_path / "scan")
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        for file in folder.iterdir():
            archive.write(file, "same")
    with pytest.raises(UsageError, match="holds 3 files of the name 'same'"):
        find_series(tmp_path / "study.zip")
