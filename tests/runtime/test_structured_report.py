"""Structured reports: read back by highdicom, with the numbers of the record, and each lesion where it is."""

import json
import shutil
import subprocess
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom")
pytest.importorskip("contourpy")

from pydicom import dcmread  # noqa: E402
from pydicom.sr.codedict import codes  # noqa: E402
from pydicom.uid import MRImageStorage  # noqa: E402

from flare_runtime.cases.case import Case  # noqa: E402
from flare_runtime.cases.finding import find_cases  # noqa: E402
from flare_runtime.cases.fingerprints import sha256_of  # noqa: E402
from flare_runtime.files.output import staged  # noqa: E402
from flare_runtime.imaging.labelling import Labelling  # noqa: E402
from flare_runtime.imaging.read import read_volume  # noqa: E402
from flare_runtime.imaging.write import encode_mask  # noqa: E402
from flare_runtime.pipeline.lesions import measure_lesions  # noqa: E402
from flare_runtime.run.record import CaseRecord  # noqa: E402
from flare_runtime.run.structured_report import draw_up_report  # noqa: E402
from flare_runtime.segmentation import Segmentation  # noqa: E402
from tests.runtime.dicom_files import Series, enhanced  # noqa: E402
from tests.runtime.test_dicom_command import anonymous, files, infer  # noqa: E402
from tests.runtime.test_dicom_segmentation import EXCLUSIVE, OVERLAPPING, inside, japanese  # noqa: E402

TILTED_AXES = (1, 0, 0, 0, np.cos(0.3), np.sin(0.3))


def three_lesions(shape):
    """Return a mask with a ring, and beside it, partly in the same slices, two lesions of another label."""
    z, y, x = np.indices(shape)
    radius = (y - 20) ** 2 + (x - 22) ** 2
    mask = np.where((radius < 140) & (radius > 40) & (z > 1) & (z < 9), 1, 0).astype(np.uint8)
    mask[3:7, 15:18, 36:40] = 2
    mask[4, 15:19, 36:41] = 2
    mask[4:6, :2, :3] = 2
    return mask


def segmented(source, mask=None, labels=EXCLUSIVE, **reading) -> Segmentation:
    """Return the mask of a series with its lesions measured."""
    volume = read_volume(source, **reading)
    mask = three_lesions(volume.shape) if mask is None else mask(volume.shape)
    template = replace(volume.template, labelling=Labelling(labels, "a model", "0123abcd" * 8, "1.2.3"))
    names = {value: label.name for label in sorted(labels, key=lambda one: -len(one.values)) for value in label.values}
    found = measure_lesions(mask, volume.geometry, names, scan=lambda _wanted: volume)
    return Segmentation(mask, found.lesions, {}, template, totals=found.totals)


def report(result: Segmentation, folder: Path, *, with_segmentation: bool):
    """Return the report of a mask as highdicom reads it, the segmentation that it is beside, and the record."""
    record = CaseRecord(case="scan", status="done")
    mask = folder / f"scan.{'seg.dcm' if with_segmentation else 'nii.gz'}"
    with ExitStack() as held:
        new = held.enter_context(staged(mask))
        encode_mask(new.file, mask.name, result.mask, result.template)
        new.settle()
        content = draw_up_report(Case("scan", {}, mask, reports=True), result, record, [new])
        new.take_name()
    (folder / "scan.sr.dcm").write_bytes(content)
    return highdicom.sr.srread(folder / "scan.sr.dcm"), dcmread(mask) if with_segmentation else None, record


def numbers(group) -> dict[str, float]:
    """Return what a group measured, by the name of the measurement, or of how it was derived."""
    return {(one.derivation or one.name).meaning: (one.value, one.unit.value) for one in group.get_measurements()}


def expected(lesion) -> dict[str, tuple[float, str]]:
    return {
        "Volume": (lesion.volume_ml, "cm3"),
        "Long axis": (lesion.diameter_mm, "mm"),
        "Short axis": (lesion.perpendicular_mm, "mm"),
        "Mean": (lesion.mean_intensity, "[hnsf'U]"),
        "Standard Deviation": (lesion.sd_intensity, "[hnsf'U]"),
    }


SOURCES = {
    "axial": Series(),
    "oblique": Series(orientation=TILTED_AXES),
    "coronal": Series(orientation=(1, 0, 0, 0, 0, -1)),
    "sagittal": Series(orientation=(0, 1, 0, 0, 0, -1)),
}


@pytest.mark.parametrize("kind", [*SOURCES, "enhanced"])
def test_the_measurements_are_the_records_and_refer_to_the_segment(kind, tmp_path):
    source = enhanced(Series(), tmp_path / "many.dcm") if kind == "enhanced" else SOURCES[kind].write(tmp_path / "scan")
    result = segmented(source)
    document, segmentation, _ = report(result, tmp_path, with_segmentation=True)
    groups = document.content.get_volumetric_roi_measurement_groups()
    assert [group.tracking_identifier for group in groups] == ["1", "2", "3"]
    assert len({group.tracking_uid for group in groups}) == 3
    assert [numbers(group) for group in groups] == [expected(lesion) for lesion in result.lesions]
    assert [group.finding_type.meaning for group in groups] == ["Liver", "Tissue", "Tissue"]
    slices = result.template.source.ordered()
    for group, lesion, planes in zip(groups, result.lesions, [range(2, 9), range(3, 7), range(4, 6)], strict=True):
        segment = group.referenced_segment
        (item,) = [one for one in segment if one.name == codes.DCM.ReferencedSegment]
        (reference,) = item.ReferencedSOPSequence
        assert reference.ReferencedSOPInstanceUID == segmentation.SOPInstanceUID
        assert reference.ReferencedSegmentNumber == lesion.label
        images = [one.ReferencedSOPSequence[0] for one in segment if one.name == codes.DCM.SourceImageForSegmentation]
        if kind == "enhanced":
            (image,) = images
            assert list(image.ReferencedFrameNumber) == [slices[z].frame + 1 for z in planes]
        else:
            assert [image.ReferencedSOPInstanceUID for image in images] == [slices[z].instance for z in planes]


@pytest.mark.parametrize("kind", [*SOURCES, "enhanced"])
def test_without_a_segmentation_the_largest_slice_is_outlined(kind, tmp_path):
    source = enhanced(Series(), tmp_path / "many.dcm") if kind == "enhanced" else SOURCES[kind].write(tmp_path / "scan")
    result = segmented(source)
    document, _, _ = report(result, tmp_path, with_segmentation=False)
    slices = result.template.source.ordered()
    for group, lesion, z, box in zip(
        document.content.get_volumetric_roi_measurement_groups(),
        result.lesions,
        [2, 4, 4],
        [np.s_[5:35, 7:35], np.s_[10:25, 35:], np.s_[:5, :5]],
        strict=True,
    ):
        assert numbers(group) == expected(lesion)
        found = np.zeros(result.mask.shape[1:], bool)
        for region in group.roi:
            found ^= inside(region.value[:-1] - 0.5, found.shape)  # of pixels' corners
            assert np.array_equal(region.value[0], region.value[-1])
            (image,) = [one.ReferencedSOPSequence[0] for one in region.ContentSequence]
            assert image.ReferencedSOPInstanceUID == slices[z].instance
            if kind == "enhanced":
                assert image.ReferencedFrameNumber == slices[z].frame + 1
        alone = np.zeros_like(found)
        alone[box] = result.mask[z][box] > 0
        assert np.array_equal(found, alone)


def test_regions_of_a_tilted_gantry_are_on_the_slices_as_they_were_taken(tmp_path):
    source = Series(way=(0, np.sin(0.3), np.cos(0.3))).write(tmp_path / "scan")
    result = segmented(source, straighten_tilt=True)
    on_slices = result.template.source.on_slices(result.mask)
    document, _, _ = report(result, tmp_path, with_segmentation=False)
    ring, *_ = document.content.get_volumetric_roi_measurement_groups()
    (region,) = ring.roi
    instances = [one.instance for one in result.template.source.ordered()]
    z = instances.index(region.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
    assert np.array_equal(inside(region.value[:-1] - 0.5, on_slices.shape[1:]), on_slices[z] == 1)
    _, segmentation, _ = report(result, tmp_path, with_segmentation=True)
    assert segmentation.Rows == on_slices.shape[1]


def totals(document) -> dict[str, tuple[float, float]]:
    """Return the number of lesions and the volume of each label."""
    groups = document.content.get_image_measurement_groups()
    return {one.tracking_identifier: tuple(m.value for m in one.get_measurements()) for one in groups}


def test_a_report_of_no_lesion_says_so_of_every_label(tmp_path):
    result = segmented(Series().write(tmp_path / "scan"), mask=lambda shape: np.zeros(shape, np.uint8))
    document, _, _ = report(result, tmp_path, with_segmentation=True)
    assert document.content.get_volumetric_roi_measurement_groups() == []
    assert totals(document) == {"liver": (0, 0), "läsion": (0, 0)}
    assert document.CompletionFlag == "COMPLETE"


def test_lesions_of_labels_that_overlap_are_of_the_smallest(tmp_path):
    result = segmented(Series().write(tmp_path / "scan"), labels=OVERLAPPING)
    document, _, _ = report(result, tmp_path, with_segmentation=True)
    groups = document.content.get_volumetric_roi_measurement_groups()
    numbers_of_segments = [
        next(one for one in group.referenced_segment if one.name == codes.DCM.ReferencedSegment)
        .ReferencedSOPSequence[0]
        .ReferencedSegmentNumber
        for group in groups
    ]
    assert numbers_of_segments == [1, 2, 2]
    assert {name: count for name, (count, _) in totals(document).items()} == {"whole tumour": 1, "core": 2}


def test_many_lesions_are_capped_and_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("flare_runtime.run.structured_report.MAX_REPORTED", 9)

    def dust(shape):
        mask = np.zeros(shape, np.uint8)
        mask[0, ::4, ::4] = 1
        return mask

    result = segmented(Series().write(tmp_path / "scan"), mask=dust)
    document, _, record = report(result, tmp_path, with_segmentation=False)
    assert len(result.lesions) == 110
    assert len(document.content.get_volumetric_roi_measurement_groups()) == 9
    assert totals(document)["liver"] == (110, result.totals[0].volume_ml)
    assert document.CompletionFlag == "PARTIAL"
    assert [(one.code, one.text) for one in record.remarks] == [
        ("many_lesions", "the structured report holds the 9 largest of 110 lesions")
    ]


def test_magnetic_resonance_has_no_hounsfield_units(tmp_path):
    series = Series(sop_class=MRImageStorage, modality="MR")
    document, _, _ = report(segmented(series.write(tmp_path / "scan")), tmp_path, with_segmentation=True)
    group, *_ = document.content.get_volumetric_roi_measurement_groups()
    names = {one.name.meaning for one in group.get_measurements()}
    assert names == {"Volume", "Long axis", "Short axis", "MR signal intensity"}
    assert numbers(group)["Mean"][1] == "1"


def test_it_says_what_made_it_and_of_whom_no_more_than_a_segmentation_does(tmp_path):
    folder = Series(change=japanese).write(tmp_path / "scan")
    result = segmented(folder)
    document, segmentation, _ = report(result, tmp_path, with_segmentation=True)
    assert b"private words" not in (tmp_path / "scan.sr.dcm").read_bytes()
    assert str(document.PatientName) == "Yamada^Tarou=山田^太郎"
    own = {"PatientID", "PatientName", "StudyInstanceUID", "StudyDate", "AccessionNumber"}
    assert {name: document[name].value for name in own} == {name: segmentation[name].value for name in own}
    device = {one.name.meaning: one.value for one in document.content[0].ContentSequence if hasattr(one, "value")}
    assert device["Device Observer Name"] == "flare-lite 1.2.3"
    assert device["Device Observer Serial Number"] == "0123abcd" * 8
    assert (document.Modality, document.VerificationFlag, document.PreliminaryFlag) == (
        *("SR", "UNVERIFIED", "PRELIMINARY"),
    )
    study = document.CurrentRequestedProcedureEvidenceSequence[0]
    referred = {
        item.ReferencedSOPInstanceUID
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    assert segmentation.SOPInstanceUID in referred


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy of dicom3tools is not installed")
@pytest.mark.parametrize("mask", [three_lesions, lambda shape: np.zeros(shape, np.uint8)])
@pytest.mark.parametrize("with_segmentation", [True, False])
def test_dciodvfy_finds_no_error(mask, with_segmentation, tmp_path):
    result = segmented(Series().write(tmp_path / "scan"), mask=mask)
    report(result, tmp_path, with_segmentation=with_segmentation)
    done = subprocess.run(["dciodvfy", tmp_path / "scan.sr.dcm"], capture_output=True, text=True, check=False)
    assert [line for line in done.stderr.splitlines() if "Error" in line] == []
    assert done.returncode == 0


def test_the_command_writes_it_beside_the_masks(tmp_path, tiny_bundle):
    folder = Series().write(tmp_path / "scan")
    out = tmp_path / "masks"
    for _ in range(2):
        assert infer(folder, f"{out}/", tiny_bundle, "--output-type", "dicom-sr,nifti,dicom-seg") == 0
        assert files(out) == ["scan.json", "scan.nii.gz", "scan.seg.dcm", "scan.sr.dcm"]
    record = json.loads((out / "scan.json").read_bytes())
    assert record["structured_report"] == str(out / "scan.sr.dcm")
    document = highdicom.sr.srread(out / "scan.sr.dcm")
    groups = document.content.get_volumetric_roi_measurement_groups()
    found = [(group.tracking_identifier, numbers(group)["Volume"][0]) for group in groups]
    assert found == [(str(lesion["id"]), lesion["volume_ml"]) for lesion in record["lesions"]]
    assert found
    assert record["structured_report_sha256"] == sha256_of(out / "scan.sr.dcm")
    assert infer(folder, f"{out}/", tiny_bundle) == 0  # which is of another mask
    assert "scan.sr.dcm" not in files(out)


def test_a_run_that_resumes_leaves_a_result_in_several_formats_that_is_whole(tmp_path, tiny_bundle):
    folder, out = Series(count=5).write(tmp_path / "scan"), tmp_path / "masks"
    types = ("--output-type", "nifti,dicom-seg,dicom-sr", "--resume")
    instances = []
    for change in (lambda: None, lambda: None, (out / "scan.sr.dcm").unlink, (out / "scan.seg.dcm").unlink):
        change()
        assert infer(folder, f"{out}/", tiny_bundle, *types) == 0
        instances.append(dcmread(out / "scan.seg.dcm").SOPInstanceUID)
    assert (instances[0] == instances[1], len(set(instances))) == (True, 3)


def test_a_report_of_before_is_set_aside_and_a_strangers_stays(tmp_path, tiny_bundle):
    folder, out = Series(count=5).write(tmp_path / "scan"), tmp_path / "masks"
    assert infer(folder, f"{out}/", tiny_bundle, "--output-type", "dicom-seg,dicom-sr") == 0
    Series(count=5, change=anonymous).write(folder)
    assert infer(folder, out, tiny_bundle, "--output-type", "dicom-seg,dicom-sr") == 4
    assert files(out) == ["scan.json", "scan.stale.seg.dcm", "scan.stale.sr.dcm"]
    assert json.loads((out / "scan.json").read_bytes())["reason"] == "unreferable"
    other = dcmread(out / "scan.stale.sr.dcm")
    other.Manufacturer = "Somebody"
    other.save_as(out / "scan.sr.dcm")
    Series(count=5).write(folder)
    assert infer(folder, out, tiny_bundle, "--output-type", "nifti,dicom-sr") == 6
    assert dcmread(out / "scan.sr.dcm").Manufacturer == "Somebody"


@pytest.mark.parametrize(
    ("target", "types", "says"),
    [
        ("out/", "dicom-sr", "dicom-sr is a report beside a mask; add nifti, dicom-seg or rtstruct"),
        ("a.sr.dcm", "nifti,dicom-sr", "a structured report goes beside a mask, by its name; name the mask"),
    ],
)
def test_a_report_without_a_mask_is_a_usage_error(target, types, says, tmp_path, tiny_bundle, capsys):
    folder = Series(count=5).write(tmp_path / "scan")
    assert infer(folder, f"{tmp_path}/{target}", tiny_bundle, "--output-type", types) == 2
    assert says in capsys.readouterr().err
    assert files(tmp_path) == ["scan"]


def test_a_mask_that_is_named_names_the_report(tmp_path):
    folder = Series(count=5).write(tmp_path / "scan")
    (case,) = find_cases(folder, tmp_path / "b.seg.dcm", 1, output_types=("dicom-seg", "dicom-sr"))
    assert (case.masks, case.structured_report) == ((tmp_path / "b.seg.dcm",), tmp_path / "b.sr.dcm")
