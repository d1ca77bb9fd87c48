"""The grey values of a series: decoded where they are wanted, scaled slice by slice, refused where they do not fit."""

import os

import numpy as np
import pytest

pytest.importorskip("pydicom")

from pydicom import uid

from flare_runtime.errors import CaseError
from flare_runtime.imaging.dicom.series import find_series
from flare_runtime.imaging.read import read_volume
from tests.runtime.dicom_files import Series


def compress(syntax):
    return lambda dataset, index: dataset.compress(syntax, encoding_plugin="")


def test_slices_of_their_own_scales_are_intensities(tmp_path):
    def change(dataset, index):
        dataset.RescaleSlope, dataset.RescaleIntercept = 1 + index / 8, -1024.0 + index

    folder = Series(change=change).write(tmp_path / "scan")
    volume = read_volume(folder)
    stored = Series().pixels().astype(np.float32)
    index = np.arange(len(stored), dtype=np.float32)[:, None, None]
    assert np.array_equal(volume.voxels, stored * (1 + index / 8) + (index - 1024))
    assert (volume.slope, volume.intercept, volume.voxels.dtype) == (1.0, 0.0, np.float32)


KINDS = {
    "plain": Series(),
    "files against the normal": Series(step_mm=-3.0),
    "run-length encoded": Series(change=compress(uid.RLELossless)),
    "JPEG 2000": Series(change=compress(uid.JPEG2000Lossless)),
    # Those that are wanted have one scale, and the others another.
    "two scales": Series(change=lambda dataset, index: setattr(dataset, "RescaleSlope", 1 + index // 6)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_slices_that_are_not_wanted_are_not_decoded(kind, tmp_path):
    (series,) = find_series(KINDS[kind].write(tmp_path / "scan"))
    whole, wanted = read_volume(series), slice(6, 10)
    first = series.ordered()[0].file.path
    first.write_bytes(first.read_bytes()[:-80])
    with pytest.raises(CaseError, match=first.name):
        read_volume(series)
    part = read_volume(series, wanted=wanted)
    assert np.array_equal(part.voxels[wanted], whole.voxels[wanted])
    assert np.count_nonzero(part.voxels) == np.count_nonzero(whole.voxels[wanted]) > 0
    assert (part.grid, part.slope, part.intercept) == (whole.grid, whole.slope, whole.intercept)


def test_files_that_became_other_slices_since_they_were_found_are_refused(tmp_path):
    (series,) = find_series(Series(count=4).write(tmp_path / "scan"))
    expected, contents = read_volume(series).voxels, [path.read_bytes() for path in series.files]
    for path, content in zip(series.files, contents, strict=True):
        path.write_bytes(content)
    os.utime(series.files[0], (1, 1))
    assert np.array_equal(read_volume(series).voxels, expected)  # as they say the same
    for path, content in zip(series.files, reversed(contents), strict=True):
        path.write_bytes(content)
    with pytest.raises(CaseError, match=r"^scan: IM000\d holds another slice") as caught:
        read_volume(series)
    assert caught.value.reason == "changed"
    with pytest.raises(CaseError, match="IM0002 holds another slice"):
        read_volume(series, wanted=slice(2, 3))


@pytest.mark.parametrize("syntax", [uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.RLELossless])
def test_a_header_that_does_not_fit_the_code_stream_is_refused(syntax, tmp_path):
    """GDCM's decoder of JPEG-LS ends the whole process here."""

    def change(dataset, index):
        dataset.compress(syntax, encoding_plugin="")
        dataset.Rows *= 2

    with pytest.raises(CaseError) as caught:
        read_volume(Series(change=change).write(tmp_path / "scan"))
    assert caught.value.reason in ("corrupt", "truncated")


@pytest.mark.parametrize(
    ("syntax", "mark", "at"),
    [(uid.JPEGLSLossless, b"\xff\xf7", 5), (uid.JPEG2000Lossless, b"\xff\x51", 10)],
)
def test_a_code_stream_of_another_size_is_refused_before_it_is_decoded(syntax, mark, at, tmp_path):
    folder = Series(count=3, change=compress(syntax)).write(tmp_path / "scan")
    content = bytearray((folder / "IM0001").read_bytes())
    content[content.index(mark) + at] = 0xF0
    (folder / "IM0001").write_bytes(content)
    with pytest.raises(CaseError, match=r"IM0001: its pixels are coded as \(\d{5,}, 44\) rows") as caught:
        read_volume(folder)
    assert caught.value.reason == "corrupt"
