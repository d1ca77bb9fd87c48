"""Masks as DICOM segmentations and structure sets: read back by highdicom and by rules of our own, voxel for voxel."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays

pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom")
pytest.importorskip("contourpy")

from pydicom import dcmread, uid  # noqa: E402
from pydicom.dataset import Dataset  # noqa: E402

from flare_runtime.errors import CaseError, UsageError  # noqa: E402
from flare_runtime.imaging.dicom.contours import outlines  # noqa: E402
from flare_runtime.imaging.dicom.patient_modules import PATIENT_AND_STUDY  # noqa: E402
from flare_runtime.imaging.dicom.terminology import property_of  # noqa: E402
from flare_runtime.imaging.labelling import Labelling  # noqa: E402
from flare_runtime.imaging.read import read_volume  # noqa: E402
from flare_runtime.imaging.write import write_mask  # noqa: E402
from flare_runtime.model.manifest import Label  # noqa: E402
from tests.runtime.dicom_files import Series, enhanced  # noqa: E402

TILTED_AXES = (1, 0, 0, 0, np.cos(0.3), np.sin(0.3))
EXCLUSIVE = (Label(name="liver", values=(1,)), Label(name="läsion", values=(2,)))
OVERLAPPING = (Label(name="whole tumour", values=(1, 2)), Label(name="core", values=(2,)))


def ring_and_blocks(shape):
    """Return a mask with a ring, which has a hole, blocks at the border, and slices of nothing."""
    z, y, x = np.indices(shape)
    radius = (y - 20) ** 2 + (x - 22) ** 2
    mask = np.where((radius < 140) & (radius > 40) & (z > 1), 1, 0).astype(np.uint8)
    mask[3:7, 15:18, 30:33] = 2
    mask[4, :2, :3] = 2
    mask[-2:] = 0
    return mask


def write(source, target: Path, mask=None, labels=EXCLUSIVE) -> tuple[Dataset, np.ndarray]:
    """Write the mask of a series, and return the file as pydicom reads it, and the mask."""
    volume = read_volume(source)
    mask = ring_and_blocks(volume.shape) if mask is None else mask
    template = replace(volume.template, labelling=Labelling(labels, "a model", "0123abcd" * 8, "1.2.3"))
    write_mask(target, mask, template)
    return dcmread(target), mask


def segments_by_position(dataset: Dataset, affine, shape) -> np.ndarray:
    """Return segments (number, z, y, x) as dcmqi puts them together: every frame goes where its position says."""
    found = np.zeros((len(dataset.SegmentSequence), *shape), np.uint8)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    frames = dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns)
    to_index = np.linalg.inv(np.diag([-1, -1, 1, 1]) @ affine)
    for frame, groups in zip(frames, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        place = np.array([*map(float, groups.PlanePositionSequence[0].ImagePositionPatient), 1.0])
        column, row, index = (to_index @ place)[:3]
        assert np.allclose([column, row, index - round(index)], 0, atol=1e-3)
        number = (groups if "SegmentIdentificationSequence" in groups else shared).SegmentIdentificationSequence[0]
        found[number.ReferencedSegmentNumber - 1, round(index)] = frame
    return found


def numbered_backwards(dataset, index):
    dataset.InstanceNumber = 100 - index


SOURCES = {
    "axial": Series(),
    "oblique": Series(orientation=TILTED_AXES),
    "coronal": Series(orientation=(1, 0, 0, 0, 0, -1)),
    "files against the normal": Series(step_mm=-3.0, change=numbered_backwards),
    "compressed": Series(change=lambda d, i: d.compress(uid.JPEG2000Lossless)),
    "magnetic resonance": Series(sop_class=uid.MRImageStorage, modality="MR"),
}


@pytest.mark.parametrize(("kind", "labels"), [*((kind, EXCLUSIVE) for kind in SOURCES), ("oblique", OVERLAPPING)])
def test_a_segmentation_comes_back_voxel_for_voxel(kind, labels, tmp_path):
    folder = SOURCES[kind].write(tmp_path / "scan")
    dataset, mask = write(folder, tmp_path / "scan.seg.dcm", labels=labels)
    volume = read_volume(folder)
    expected = np.stack([np.isin(mask, label.values) for label in labels]).astype(np.uint8)
    assert np.array_equal(segments_by_position(dataset, volume.geometry.affine, volume.shape), expected)
    check_highdicom_reads(tmp_path / "scan.seg.dcm", volume, expected)


def check_highdicom_reads(path, volume, expected):
    """Compare what highdicom gives for the source's images, one by one and in the order of their slices."""
    seg = highdicom.seg.segread(path)
    series = volume.source
    headers = {one.file: dcmread(one.file.path, stop_before_pixels=True) for one in series.slices}
    normal = np.cross(series.slices[0].orientation[:3], series.slices[0].orientation[3:])
    ordered = sorted(series.slices, key=lambda one: np.dot(one.position_mm, normal))
    uids = [headers[one.file].SOPInstanceUID for one in ordered]
    segments = seg.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)
    assert np.array_equal(np.moveaxis(segments, -1, 0), expected)
    assert {ref.ReferencedSOPInstanceUID for ref in seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence} == set(
        uids
    )


def per_frame_axes(dataset: Dataset) -> None:
    """Let every frame say what all share."""
    shared = dataset.SharedFunctionalGroupsSequence[0]
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        groups.PixelMeasuresSequence = shared.PixelMeasuresSequence
        groups.PlaneOrientationSequence = shared.PlaneOrientationSequence
    dataset.SharedFunctionalGroupsSequence = [Dataset()]


@pytest.mark.parametrize("change", [None, per_frame_axes])
def test_frames_of_an_enhanced_file_are_referred_to(change, tmp_path):
    source = enhanced(Series(orientation=TILTED_AXES), tmp_path / "many.dcm")
    if change is not None:
        dataset = dcmread(source)
        change(dataset)
        dataset.save_as(source)
    dataset, mask = write(source, tmp_path / "many.seg.dcm")
    volume = read_volume(source)
    expected = np.stack([mask == 1, mask == 2]).astype(np.uint8)
    assert np.array_equal(segments_by_position(dataset, volume.geometry.affine, volume.shape), expected)
    seg = highdicom.seg.segread(tmp_path / "many.seg.dcm")
    frames = [volume.shape[0] - index for index in range(volume.shape[0])]  # the last slice is frame 1
    (reference,) = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    segments = seg.get_pixels_by_source_frame(
        reference.ReferencedSOPInstanceUID, frames, assert_missing_frames_are_empty=True
    )
    assert np.array_equal(np.moveaxis(segments, -1, 0), expected)
    structures, _ = write(source, tmp_path / "many.rtstruct.dcm")
    assert np.array_equal(rasterised(structures, volume), expected)


@pytest.mark.parametrize("labels", [EXCLUSIVE, OVERLAPPING])
def test_an_empty_mask_is_an_empty_frame_for_each_segment(labels, tmp_path):
    folder = Series().write(tmp_path / "scan")
    dataset, _ = write(folder, tmp_path / "scan.seg.dcm", np.zeros((12, 40, 44), np.uint8), labels)
    assert (dataset.NumberOfFrames, len(dataset.SegmentSequence)) == (2, 2)
    assert not dataset.pixel_array.any()
    assert len(dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 12
    structures, _ = write(folder, tmp_path / "scan.rtstruct.dcm", np.zeros((12, 40, 44), np.uint8), labels)
    assert [item.get("ContourSequence") for item in structures.ROIContourSequence] == [None, None]


def japanese(dataset, index):
    dataset.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
    dataset.PatientName = "Yamada^Tarou=山田^太郎"
    dataset.PatientSex, dataset.PatientBirthDate, dataset.StudyDate = "unknown", "19xx0101", "20240229"
    dataset.AccessionNumber = "A7"
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "1", "99X", "頭部"
    for place in (dataset, code):
        place.private_block(0x0011, "SCANNER", create=True).add_new(1, "LO", "private words")
    dataset.ProcedureCodeSequence = [code]


@pytest.mark.parametrize("suffix", ["seg", "rtstruct"])
def test_it_says_whose_it_is_and_what_made_it(suffix, tmp_path):
    folder = Series(change=japanese).write(tmp_path / "scan")
    dataset, _ = write(folder, tmp_path / f"scan.{suffix}.dcm")
    source = dcmread(folder / "IM0000")
    assert dataset.ProcedureCodeSequence[0].CodeMeaning == "頭部"
    assert b"private words" not in (tmp_path / f"scan.{suffix}.dcm").read_bytes()
    for keyword in ("PatientID", "StudyInstanceUID", "StudyDate", "AccessionNumber", "FrameOfReferenceUID"):
        assert dataset[keyword].value == source[keyword].value
    assert str(dataset.PatientName) == "Yamada^Tarou=山田^太郎"
    assert dataset.SeriesInstanceUID != source.SeriesInstanceUID
    assert (dataset.Manufacturer, dataset.DeviceSerialNumber) == ("flare-lite", "0123abcd" * 8)
    assert dataset.SoftwareVersions == "1.2.3"
    if suffix == "seg":
        segment = dataset.SegmentSequence[1]
        assert (segment.SegmentLabel, segment.SegmentAlgorithmType) == ("läsion", "AUTOMATIC")
        (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
        assert (algorithm.AlgorithmName, algorithm.AlgorithmParameters) == (
            "a model",
            f"bundle_sha256={'0123abcd' * 8}",
        )
        assert dataset.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Liver"
    else:
        assert [roi.ROIName for roi in dataset.StructureSetROISequence] == ["liver", "läsion"]


def test_a_structure_set_takes_of_patient_and_study_what_highdicom_takes():
    from highdicom._standard_utils import get_module_attribute_map

    modules = ("patient", "clinical-trial-subject", "general-study", "patient-study", "clinical-trial-study")
    attributes = get_module_attribute_map()
    theirs = {one["keyword"] for module in modules for one in attributes[module] if not one["path"]}
    assert set(PATIENT_AND_STUDY) == theirs


@pytest.mark.parametrize(
    ("name", "category", "code"),
    [
        ("liver", "Anatomical Structure", "10200004"),
        ("kidney_left", "Anatomical Structure", "64033007"),
        ("Lungs", "Anatomical Structure", "39607008"),
        ("urinary bladder", "Anatomical Structure", "89837001"),
        ("lesion", "Morphologically Abnormal Structure", "52988006"),
        ("pancreatic tumour", "Morphologically Abnormal Structure", "108369006"),
        ("edema", "Morphologically Abnormal Structure", "79654002"),
        ("structure 7", "Tissue", "85756007"),
        ("", "Tissue", "85756007"),
    ],
)
def test_names_have_codes(name, category, code):
    found = property_of(name)
    assert (found.category.meaning, found.type.value, found.type.scheme_designator) == (category, code, "SCT")


def rasterised(dataset: Dataset, volume) -> np.ndarray:
    """Return the structures (number, z, y, x) whose contours hold a voxel's centre, by the even-odd rule."""
    found = np.zeros((len(dataset.ROIContourSequence), *volume.shape), np.uint8)
    to_index = np.linalg.inv(np.diag([-1, -1, 1, 1]) @ volume.geometry.affine)
    for structure, item in zip(found, dataset.ROIContourSequence, strict=True):
        for contour in item.get("ContourSequence", []):
            points = np.reshape(np.array(contour.ContourData, float), (-1, 3))
            assert len(points) == contour.NumberOfContourPoints
            indices = points @ to_index[:3, :3].T + to_index[:3, 3]
            assert np.ptp(indices[:, 2]) < 1e-3
            structure[round(indices[0, 2])] ^= inside(indices[:, :2], volume.shape[1:])
    return found


def inside(polygon: np.ndarray, shape) -> np.ndarray:
    """Return whether the centres of pixels (row, column) are in a polygon of (column, row) by the even-odd rule."""
    rows = np.arange(shape[0])[:, None]
    columns = np.arange(shape[1])[None]
    odd = np.zeros(shape, bool)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if y0 != y1:
            crosses = (y0 > rows) != (y1 > rows)
            odd ^= crosses & (columns < (x1 - x0) * (rows - y0) / (y1 - y0) + x0)
    return odd


@pytest.mark.parametrize("kind", ["axial", "oblique", "coronal"])
def test_the_contours_of_a_structure_set_hold_the_masks_voxels_and_no_others(kind, tmp_path):
    folder = SOURCES[kind].write(tmp_path / "scan")
    dataset, mask = write(folder, tmp_path / "scan.rtstruct.dcm")
    assert np.array_equal(rasterised(dataset, read_volume(folder)), [mask == 1, mask == 2])
    planes = dataset.ROIContourSequence[0].ContourSequence
    assert {plane.ContourGeometricType for plane in planes} == {"CLOSED_PLANAR"}
    # A ring is one contour, its hole joined to it.
    assert len(planes) == mask.any(axis=(1, 2)).sum() == 8


@given(arrays(np.bool_, (9, 11)))
def test_outlines_hold_the_pixels_of_any_mask(plane):
    odd = np.zeros(plane.shape, bool)
    for polygon in outlines(plane):
        odd ^= inside(polygon, plane.shape)
    assert np.array_equal(odd, plane)


def test_straight_borders_have_corners_alone():
    plane = np.zeros((20, 20), bool)
    plane[3:10, 4:15] = True
    (polygon,) = outlines(plane)
    assert len(polygon) == 8


@pytest.mark.parametrize("suffix", ["seg", "rtstruct"])
def test_what_is_of_no_series_is_refused(suffix, tmp_path):
    mask = np.zeros((12, 40, 44), np.uint8)
    volume = read_volume(Series().write(tmp_path / "scan"))
    labelling = Labelling(EXCLUSIVE, "a model", "0" * 64, "1.2.3")
    for template in (volume.template, replace(volume.template, source=None, labelling=labelling)):
        with pytest.raises(UsageError, match=r"save this as \.nii\.gz"):
            write_mask(tmp_path / f"a.{suffix}.dcm", mask, template)


def test_nothing_refers_to_a_series_that_came_in_place_of_the_one_that_was_read(tmp_path):
    folder = Series(count=4).write(tmp_path / "scan")
    volume = read_volume(folder)
    Series(count=4, change=lambda dataset, index: setattr(dataset, "PatientName", "Other")).write(folder)
    template = replace(volume.template, labelling=Labelling(EXCLUSIVE, "a model", "0123abcd" * 8, "1.2.3"))
    with pytest.raises(CaseError, match="IM0000 holds another slice") as caught:
        write_mask(tmp_path / "mask.seg.dcm", np.ones(volume.shape, np.uint8), template)
    assert caught.value.reason == "changed"


def test_a_series_without_uids_cannot_be_referred_to(tmp_path):
    folder = Series(change=lambda d, i: delattr(d, "StudyInstanceUID")).write(tmp_path / "scan")
    with pytest.raises(CaseError, match="IM0000 has no StudyInstanceUID") as caught:
        write(folder, tmp_path / "scan.seg.dcm")
    assert caught.value.reason == "unreferable"
    assert not (tmp_path / "scan.seg.dcm").exists()


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy of dicom3tools is not installed")
@pytest.mark.parametrize("suffix", ["seg", "rtstruct"])
@pytest.mark.parametrize("labels", [EXCLUSIVE, OVERLAPPING])
def test_dciodvfy_finds_no_error(suffix, labels, tmp_path):
    folder = Series().write(tmp_path / "scan")
    mask = np.zeros((12, 40, 44), np.uint8) if labels is OVERLAPPING else None
    write(folder, tmp_path / f"scan.{suffix}.dcm", mask, labels)
    done = subprocess.run(["dciodvfy", tmp_path / f"scan.{suffix}.dcm"], capture_output=True, text=True, check=False)
    assert [line for line in done.stderr.splitlines() if "Error" in line] == []
    assert done.returncode == 0
