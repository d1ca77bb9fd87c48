"""DICOM series: read as SimpleITK reads them, or refused by a reason."""

import pickle
import shutil
import sys
from importlib.machinery import PathFinder

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")
sitk = pytest.importorskip("SimpleITK")

from pydicom import uid  # noqa: E402

from flare_runtime.errors import CaseError, UsageError  # noqa: E402
from flare_runtime.files import looking  # noqa: E402
from flare_runtime.imaging.dicom.series import find_series  # noqa: E402
from flare_runtime.imaging.read import read_grid, read_volume  # noqa: E402
from tests.runtime.dicom_files import Series, check_as_simpleitk, enhanced  # noqa: E402

MAX_VOXELS = 1 << 30


def only(source):
    (series,) = find_series(source)
    return series


def turned(degrees: float) -> tuple[float, ...]:
    """Return the directions of rows and columns that are turned about the patient's left-right axis."""
    angle = np.radians(degrees)
    return (1, 0, 0, 0, np.cos(angle), np.sin(angle))


def compress(syntax):
    return lambda dataset, index: dataset.compress(syntax, encoding_plugin="")


def as_stored(stored: int, *, high: int | None = None, signed: bool = False, above: int = 0, bits: int = 16):
    """Keep so many bits of every pixel, up to a high one, and fill those above it with something else."""

    def change(dataset, index):
        high_bit = stored - 1 if high is None else high
        values = np.frombuffer(dataset.PixelData, np.int16).clip(0, 1400).astype(np.int64) - 700 * signed
        values = (values >> max(11 - stored, 0)) & ((1 << stored) - 1)
        pixels = (values << (high_bit + 1 - stored)) | above
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, stored, high_bit
        dataset.PixelRepresentation = int(signed)
        dataset.PixelData = pixels.astype(f"u{bits // 8}").tobytes()

    return change


SOUND = {
    "axial": Series(),
    "feet first": Series(orientation=(-1, 0, 0, 0, 1, 0)),
    "prone": Series(orientation=(-1, 0, 0, 0, -1, 0)),
    "coronal": Series(orientation=(1, 0, 0, 0, 0, -1)),
    "sagittal": Series(orientation=(0, 1, 0, 0, 0, -1)),
    "oblique": Series(orientation=turned(17)),
    "files against the normal": Series(step_mm=-3.0),
    "a slope of 2": Series(slope=2.0, intercept=-1000),
    "a slope of 0": Series(slope=1.0, change=lambda d, i: setattr(d, "RescaleSlope", 0)),
    "positions rounded to a tenth": Series(step_mm=0.625, change=lambda d, i: round_position(d, 1)),
    "run-length encoded": Series(change=compress(uid.RLELossless)),
    "JPEG 2000": Series(change=compress(uid.JPEG2000Lossless)),
    "JPEG-LS": Series(change=compress(uid.JPEGLSLossless)),
    "files without a mark": Series(change=lambda d, i: None),
    "overlapping slices": Series(change=lambda d, i: setattr(d, "SliceThickness", 9.0)),
    "three slices": Series(count=3),
    "12 bits, others above them": Series(change=as_stored(12, above=0xA000)),
    "12 bits, signed": Series(change=as_stored(12, signed=True)),
    "12 bits that end at the highest": Series(change=as_stored(12, high=15)),
    "8 bits": Series(change=as_stored(8, bits=8)),
    "32 bits, signed": Series(change=as_stored(32, signed=True, bits=32)),
    "one slice of unsigned pixels": Series(change=lambda d, i: i == 1 and setattr(d, "PixelRepresentation", 0)),
    "acquisitions that follow each other": Series(change=lambda d, i: setattr(d, "AcquisitionNumber", 1 + i // 6)),
}


def round_position(dataset, digits):
    dataset.ImagePositionPatient = [round(float(one), digits) for one in dataset.ImagePositionPatient]


@pytest.mark.parametrize("kind", SOUND)
def test_a_series_is_read_as_simpleitk_reads_it(kind, tmp_path):
    folder = SOUND[kind].write(tmp_path / "scan")
    series = only(folder)
    volume = series.read_volume(MAX_VOXELS)
    check_as_simpleitk(folder, volume)
    assert series.read_grid(MAX_VOXELS) == volume.grid
    assert (series.name, series.modality, volume.modality) == ("scan", "CT", "CT")
    assert not volume.remarks
    assert pickle.loads(pickle.dumps(series)) == series


def test_an_enhanced_file_is_the_volume_of_its_frames(tmp_path):
    one = enhanced(Series(orientation=turned(17)), tmp_path / "many")
    volume = read_volume(one)
    slices = read_volume(Series(orientation=turned(17)).write(tmp_path / "scan"))
    assert np.array_equal(volume.voxels, slices.voxels)
    assert np.allclose(volume.geometry.affine, slices.geometry.affine)
    assert (volume.slope, volume.intercept) == (slices.slope, slices.intercept)


def test_files_are_told_by_their_content(tmp_path):
    folder = Series().write(tmp_path / "scan", names="{:d}.txt")
    for name in ("README", "b.dcm"):
        (folder / name).write_bytes(b"DICM" * 100)
    (folder / ".hidden").write_bytes((folder / "0.txt").read_bytes())
    assert len(only(folder).slices) == 12


def test_headers_that_were_read_are_counted(tmp_path, monkeypatch):
    counted = []

    def counting(results, total):
        for result in looking.looking_at(results, total):
            counted.append(looking.looked_at())
            yield result

    monkeypatch.setattr("flare_runtime.imaging.dicom.series.looking_at", counting)
    only(Series().write(tmp_path / "scan"))
    assert (counted[0], counted[-1], looking.looked_at()) == (" 1 of 12 files", " 12 of 12 files", "")


def missing(dataset, index):
    if index > 5:
        z = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [z[0], z[1], z[2] + 3.0]


def uneven(dataset, index):
    place = list(dataset.ImagePositionPatient)
    dataset.ImagePositionPatient = [*place[:2], place[2] + (1.4 if index == 4 else 0)]


def doubled(dataset, index):
    if index == 7:
        dataset.ImagePositionPatient = Series().datasets()[6].ImagePositionPatient


def other_spacing(dataset, index):
    dataset.PixelSpacing = [2.0, 1.6] if index == 3 else [2.0, 1.5]


def other_size(dataset, index):
    if index == 3:
        dataset.set_pixel_data(np.zeros((8, 8), np.int16), "MONOCHROME2", 16)


def without(keyword, of=2):
    return lambda dataset, index: index == of and delattr(dataset, keyword)


def cut_pixels(dataset, index):
    if index == 5:
        dataset.PixelData = dataset.PixelData[:100]


def colour(dataset, index):
    dataset.set_pixel_data(np.zeros((8, 8, 3), np.uint8), "RGB", 8)


def broken_codestream(dataset, index):
    dataset.compress(uid.JPEG2000Lossless)
    if index == 4:
        dataset.PixelData = dataset.PixelData[:40] + bytes(len(dataset.PixelData) - 40)


REFUSED = {
    "a slice is missing": (
        Series(change=missing),
        "missing_slices",
        r"1 slice\(s\) are .* 6 mm, elsewhere 3 mm",
    ),
    "steps are uneven": (Series(change=uneven), "uneven_slices", "at least 1.6 mm apart"),
    "two slices in one place": (Series(change=doubled), "duplicate_slices", "IM0006 and IM0007 lie in one place"),
    "a tilted gantry": (Series(way=(0, np.sin(0.3), np.cos(0.3))), "gantry_tilt", "17.2 degrees"),
    "two pixel spacings": (Series(change=other_spacing), "mixed_slices", "2 x 1.6 mm"),
    "two sizes": (Series(change=other_size), "mixed_slices", "8 x 8 pixels"),
    "no position": (
        Series(change=without("ImagePositionPatient")),
        "no_position",
        r"\(no ImagePositionPatient\); export",
    ),
    "no spacing": (Series(change=without("PixelSpacing")), "no_position", r"\(no PixelSpacing\); export"),
    "half a slice": (Series(change=cut_pixels), "truncated", "IM0005: its pixels cannot be read"),
    "a broken code stream": (Series(change=broken_codestream), "corrupt", "IM0004: its pixels cannot be read"),
    "more pixels than the files can hold": (
        Series(change=lambda d, i: (d.compress(uid.RLELossless), setattr(d, "Rows", 60000))),
        "truncated",
        "the headers promise 63360000 bytes",
    ),
    "a scale of its own that makes a slice infinite": (
        Series(change=lambda d, i: i == 3 and setattr(d, "RescaleSlope", "1e300")),
        "nonfinite",
        "IM0003: the slope 1e.300",
    ),
    "slices of 25 mm": (Series(step_mm=25.0), "bad_spacing", "25 mm"),
    "skewed rows": (Series(orientation=(1, 0, 0, 0.6, 0.8, 0)), "bad_orientation", "not at right angles"),
    "one slice of no thickness": (
        Series(count=1, change=lambda d, i: delattr(d, "SliceThickness")),
        "bad_spacing",
        "thick",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_an_odd_series_is_refused(kind, tmp_path):
    series, reason, says = REFUSED[kind]
    folder = series.write(tmp_path / "scan")
    with pytest.raises(CaseError, match=says) as caught:
        read_volume(folder)
    assert caught.value.reason == reason


def test_a_slice_whose_header_is_damaged_is_remarked_upon_and_missed(tmp_path):
    folder = Series().write(tmp_path / "scan")
    for name, kept in (("IM0011", 300), ("IM0004", 300)):
        file = folder / name
        file.write_bytes(file.read_bytes()[:kept])
    assert [remark.code for remark in only(folder).remarks] == ["damaged_files"]
    with pytest.raises(CaseError, match="1 slice"):
        read_volume(folder)


def unopenable(file, target):
    file.unlink()
    file.symlink_to(target)


@pytest.mark.parametrize(
    ("target", "why"), [("not-fetched", "No such file or directory"), ("IM0011", "Too many levels of symbolic links")]
)
def test_a_slice_that_cannot_be_opened_is_remarked_upon(target, why, tmp_path):
    folder = Series().write(tmp_path / "scan")
    unopenable(folder / "IM0011", target)
    series = only(folder)
    assert len(series.slices) == 11
    text = f"1 file(s) could not be read, whose slices are missing (IM0011: {why})"
    assert [remark.text for remark in series.remarks] == [text]


def test_a_folder_of_slices_that_cannot_be_opened_is_refused_with_the_reason(tmp_path):
    folder = Series(count=3).write(tmp_path / "scan")
    for file in folder.iterdir():
        unopenable(file, "not-fetched")
    with pytest.raises(UsageError, match=r"3 file\(s\) could not be read.*No such file or directory"):
        find_series(folder)


def test_the_index_of_a_disc_leads_to_its_folder(tmp_path):
    folder = Series(count=3).write(tmp_path / "disc")
    Series(count=1, change=lambda d, i: setattr(d, "SOPClassUID", uid.MediaStorageDirectoryStorage)).write(
        folder, names="DICOMDIR"
    )
    with pytest.raises(UsageError, match="none of them a slice of CT, MR or PET; give the folder that it lies in"):
        find_series(folder / "DICOMDIR")
    assert len(only(folder).slices) == 3


def test_a_file_of_no_grey_values_is_damaged(tmp_path):
    folder = Series().write(tmp_path / "scan")
    Series(count=1, change=colour).write(folder, names="colour{}")
    (remark,) = only(folder).remarks
    assert "3 x 8 bits (RGB)" in remark.text


def scout(dataset, index):
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]


def test_localizers_are_left_out_with_a_remark(tmp_path):
    series = Series()
    folder = series.write(tmp_path / "scan")
    Series(count=1, uid=series.uid, orientation=(1, 0, 0, 0, 0, -1), change=scout).write(folder, names="scout{}")
    volume = read_volume(folder)
    assert volume.shape[0] == 12
    assert [(remark.code, remark.text[:1]) for remark in volume.remarks] == [("localizers", "1")]


def test_every_series_of_a_study_is_a_volume(tmp_path):
    Series(count=5).write(tmp_path / "study" / "thin")
    folder = Series(count=7, number=4).write(tmp_path / "study" / "both", names="a{}")
    Series(count=6, number=9).write(folder, names="b{}")
    found = {one.name: len(one.slices) for one in find_series(tmp_path / "study")}
    assert found == {"study_thin": 5, "study_both_series4": 7, "study_both_series9": 6}
    with pytest.raises(CaseError, match=r"holds 3 series \(") as caught:
        read_grid(tmp_path / "study")
    assert caught.value.reason == "several_series"


def test_series_of_one_number_have_names_of_their_own(tmp_path):
    folder = Series().write(tmp_path / "scan", names="a{}")
    Series().write(folder, names="b{}")
    assert [one.name for one in find_series(folder)] == ["scan_series3", "scan_series3_2"]


def test_copies_of_files_are_left_out_with_a_remark(tmp_path):
    folder = Series().write(tmp_path / "scan")
    shutil.copytree(folder, folder / "backup")
    (folder / "link").symlink_to("IM0003")
    series = only(folder)
    assert (series.name, len(series.slices)) == ("scan", 12)
    assert [(remark.code, remark.text[:2]) for remark in series.remarks] == [("copies", "13")]


def test_files_of_one_uid_and_other_content_are_no_copies(tmp_path):
    folder = Series().write(tmp_path / "scan")
    other = pydicom.dcmread(folder / "IM0003")
    other.PixelData = bytes(len(other.PixelData))
    other.save_as(folder / "other")
    with pytest.raises(CaseError, match="IM0003 and other lie in one place"):
        read_volume(folder)


def cut_header(dataset, index):
    del dataset.Rows


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (scout, r"3 localizer\(s\)"),
        (cut_header, r"3 file\(s\) could not be read, whose slices are missing \(IM000. has 0 x 44 pixels"),
        (lambda d, i: setattr(d, "SOPClassUID", uid.SecondaryCaptureImageStorage), "CT, MR or PET$"),
        (lambda d, i: setattr(d.file_meta, "TransferSyntaxUID", uid.DeflatedExplicitVRLittleEndian), "deflated"),
    ],
)
def test_dicom_without_a_slice_is_refused_with_the_reason(change, says, tmp_path):
    folder = Series(count=3, change=change).write(tmp_path / "scan")
    for source in (folder, folder / "IM0001"):
        with pytest.raises(UsageError, match=says.replace("3", "1" if source.is_file() else "3")):
            read_volume(source)


@pytest.mark.parametrize("keyword", ["EchoNumbers", "AcquisitionNumber", "TemporalPositionIdentifier"])
def test_images_of_one_place_are_told_apart(keyword, tmp_path):
    series = Series()
    folder = series.write(tmp_path / "scan", names="a{}")
    Series(uid=series.uid, change=lambda d, i: setattr(d, keyword, 2)).write(folder, names="b{}")
    assert [len(one.slices) for one in find_series(folder)] == [12, 12]


def test_directions_of_one_series_are_told_apart(tmp_path):
    series = Series()
    folder = series.write(tmp_path / "scan", names="a{}")
    Series(uid=series.uid, count=5, orientation=(1, 0, 0, 0, 0, -1)).write(folder, names="b{}")
    assert sorted(len(one.slices) for one in find_series(folder)) == [5, 12]


def test_other_modalities_beside_ct_are_left_out(tmp_path):
    Series().write(tmp_path / "study" / "ct")
    pet = Series(sop_class=uid.PositronEmissionTomographyImageStorage, modality="PT")
    pet.write(tmp_path / "study" / "pet")
    (one,) = find_series(tmp_path / "study")
    assert one.name == "study_ct"
    assert [remark.text for remark in one.remarks] == ["images of PT beside it were left out"]
    assert only(tmp_path / "study" / "pet").modality == "PT"


def test_objects_that_are_no_slices_are_left_alone(tmp_path):
    folder = Series().write(tmp_path / "scan")
    Series(count=2, sop_class=uid.SecondaryCaptureImageStorage).write(folder, names="capture{}")
    Series(count=1, sop_class=uid.SegmentationStorage).write(folder, names="seg{}")
    assert len(only(folder).slices) == 12
    assert not only(folder).remarks


def test_a_patients_name_goes_nowhere(tmp_path):
    folder = Series().write(tmp_path / "scan")
    assert b"Secret" in (folder / "IM0000").read_bytes()
    assert b"Secret" not in pickle.dumps(only(folder).read_volume(MAX_VOXELS))


def test_without_pydicom_the_extra_is_named(tmp_path, monkeypatch):
    folder = Series().write(tmp_path / "scan")
    monkeypatch.delitem(sys.modules, "pydicom")
    monkeypatch.setattr(sys, "meta_path", [finder for finder in sys.meta_path if finder is not PathFinder])
    with pytest.raises(UsageError, match=r"holds 12 DICOM file\(s\).*pip install '\.\[dicom\]' in the folder"):
        find_series(folder)


def test_too_large_a_series_is_refused_by_its_headers(tmp_path):
    folder = Series().write(tmp_path / "scan")
    with pytest.raises(CaseError, match="21120 voxels; at most 100 are allowed") as caught:
        read_grid(folder, 100)
    assert caught.value.reason == "too_large"
