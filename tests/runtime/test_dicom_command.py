"""From DICOM to masks by the command: which series, what they are called, where they go, and what is refused."""

import json

import nibabel
import numpy as np
import pytest

pytest.importorskip("pydicom")

from pydicom import dcmread, uid

from flare_runtime import Segmenter, UsageError, cli, read_volume
from flare_runtime.cases.finding import find_cases
from flare_runtime.cases.fingerprints import sha256_of
from flare_runtime.imaging.read import find_series
from flare_runtime.imaging.write import write_mask
from tests.runtime.command_runs import spawn
from tests.runtime.dicom_files import Series, enhanced
from tests.runtime.nifti_files import write_nifti

CPU = ["--device", "cpu", "--precision", "fp32", "--threads", "1"]


def infer(source, target, bundle, *options):
    return cli.main(["-i", str(source), "-o", str(target), "-m", str(bundle), *CPU, *options])


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_series_gives_the_mask_of_the_same_scan_in_nifti(tmp_path, tiny_bundle):
    folder = Series().write(tmp_path / "scan")
    scan = read_volume(folder)
    hounsfield = scan.intensities(scan.voxels).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(hounsfield.T, scan.geometry.affine), tmp_path / "same_0000.nii")
    assert infer(folder, tmp_path / "masks" / "scan.nii.gz", tiny_bundle) == 0
    assert infer(tmp_path / "same_0000.nii", tmp_path / "masks" / "same.nii.gz", tiny_bundle) == 0
    of_series, of_file = (read_volume(tmp_path / "masks" / f"{name}.nii.gz") for name in ("scan", "same"))
    assert of_file.voxels.any()
    assert np.array_equal(of_series.voxels, of_file.voxels)
    assert np.allclose(of_series.geometry.affine, scan.geometry.affine, atol=1e-4)
    record = json.loads((tmp_path / "masks" / "scan.json").read_bytes())
    assert (record["case"], record["inputs"], len(record["inputs_sha256"])) == ("scan", [str(folder)], 1)
    assert "Secret" not in json.dumps(record)


def test_what_is_hashed_are_the_slices(tmp_path, tiny_bundle):
    hashes = []
    for value in (0, 1):
        folder = Series(change=lambda d, i, value=value: setattr(d, "InstanceNumber", value)).write(
            tmp_path / f"{value}"
        )
        assert infer(folder, tmp_path / "masks" / "", tiny_bundle) == 0
        hashes += json.loads((tmp_path / "masks" / f"{value}.json").read_bytes())["inputs_sha256"]
    assert hashes[0] != hashes[1]


def test_every_series_of_a_study_gets_a_mask_and_one_bad_series_costs_no_other(tmp_path, tiny_bundle):
    Series(count=5).write(tmp_path / "study" / "a")
    Series(way=(0, 0.3, 0.95)).write(tmp_path / "study" / "b")
    Series(count=6).write(tmp_path / "study" / "deeper" / "c")
    assert infer(tmp_path / "study", tmp_path / "masks", tiny_bundle) == 4
    assert files(tmp_path / "masks") == [
        *("study_a.json", "study_a.nii.gz", "study_b.json", "study_deeper_c.json", "study_deeper_c.nii.gz")
    ]
    assert json.loads((tmp_path / "masks" / "study_b.json").read_bytes())["reason"] == "gantry_tilt"


def test_masks_may_go_into_the_folder_of_the_series_again_and_again(tmp_path, tiny_bundle):
    folder = Series(count=5).write(tmp_path / "scan")
    for _ in range(2):
        assert infer(folder, folder, tiny_bundle) == 0
        assert {"scan.json", "scan.nii.gz"} <= set(files(folder))


@pytest.mark.parametrize(
    ("series", "reason", "says"),
    [
        (Series(sop_class=uid.MRImageStorage, modality="MR"), "not_ct", "of the modality MR"),
        (Series(sop_class=uid.PositronEmissionTomographyImageStorage, modality="PT"), "not_ct", "of the modality PT"),
        (
            Series(change=lambda d, i: setattr(d, "RescaleIntercept", 0)),
            "not_hounsfield",
            "not in Hounsfield units",
        ),
    ],
)
def test_what_is_no_ct_in_hounsfield_units_is_refused(series, reason, says, tmp_path, tiny_bundle):
    options = ["--any-intensity"] if reason == "not_ct" else []
    assert infer(series.write(tmp_path / "scan"), tmp_path / "masks", tiny_bundle, *options) == 4
    record = json.loads((tmp_path / "masks" / "scan.json").read_bytes())
    assert record["reason"] == reason
    assert says in record["message"]


def test_several_series_do_not_fit_into_one_file(tmp_path):
    Series(count=5).write(tmp_path / "study" / "a")
    Series(count=5).write(tmp_path / "study" / "b")
    with pytest.raises(UsageError, match="the output for 2 series is a folder"):
        find_cases(tmp_path / "study", tmp_path / "mask.nii.gz", 1)


def test_nifti_goes_before_dicom_in_one_folder(tmp_path, caplog):
    caplog.set_level("WARNING", "flare_runtime")
    folder = Series(count=5).write(tmp_path / "in", names="{}.dcm")
    write_nifti(folder / "a.nii", np.zeros((4, 4, 4), np.int16))
    (case,) = find_cases(folder, tmp_path / "out", 1)
    assert case.name == "a"
    assert "left out 5 files of other formats (.dcm); convert them to NIfTI, or give a DICOM series" in caplog.text


def test_python_takes_a_folder(tmp_path, tiny_bundle):
    folder = Series(count=5).write(tmp_path / "scan")
    result = Segmenter.load(tiny_bundle).segment(folder)
    assert result.mask.shape == read_volume(folder).shape
    write_mask(tmp_path / "mask.nii.gz", result.mask, result.template)


def test_one_file_is_one_slice(tmp_path, tiny_bundle):
    file = Series().write(tmp_path / "scan", names="{}.dcm") / "3.dcm"
    assert infer(file, tmp_path / "masks", tiny_bundle) == 0
    assert files(tmp_path / "masks") == ["3.json", "3.nii.gz"]


ALL_TYPES = ("--output-type", "nifti,rtstruct, dicom-seg")


def segmented(path):
    """Return a mask (z, y, x) from a segmentation of one segment; frames of all slices, where it has them."""
    dataset = dcmread(path)
    places = [float(one.PlanePositionSequence[0].ImagePositionPatient[2]) for one in frames_of(dataset)]
    return dict(zip(places, dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns), strict=True))


def frames_of(dataset):
    return dataset.PerFrameFunctionalGroupsSequence


def test_every_format_holds_the_same_mask(tmp_path, tiny_bundle):
    pytest.importorskip("highdicom")
    folder = Series().write(tmp_path / "scan")
    out = tmp_path / "masks"
    assert infer(folder, f"{out}/", tiny_bundle, *ALL_TYPES) == 0
    assert files(out) == ["scan.json", "scan.nii.gz", "scan.rtstruct.dcm", "scan.seg.dcm"]
    record = json.loads((out / "scan.json").read_bytes())
    hashes = {str(out / name): sha256_of(out / name) for name in ("scan.seg.dcm", "scan.rtstruct.dcm")}
    assert (record["mask"], record["other_masks"]) == (str(out / "scan.nii.gz"), hashes)
    assert "Secret" not in json.dumps(record)
    mask = read_volume(out / "scan.nii.gz").voxels
    assert mask.any()
    frames = segmented(out / "scan.seg.dcm")
    for z, plane in zip(np.arange(12) * 3.0 + 100, mask, strict=True):
        assert np.array_equal(frames.get(z, np.zeros_like(plane)), plane)
    assert dcmread(out / "scan.seg.dcm").PatientName == "Secret^Patient"


def test_the_program_writes_every_format_which_keeps_pydicom_out_until_then(tmp_path, tiny_bundle):
    pytest.importorskip("highdicom")
    folder = Series(count=5).write(tmp_path / "scan")
    types = ("--output-type", "nifti,dicom-seg,rtstruct,dicom-sr")
    process = spawn("-i", folder, "-o", tmp_path / "masks/", "-m", tiny_bundle, *CPU, *types)
    assert process.wait() == 0, process.communicate()[1]
    assert files(tmp_path / "masks") == [
        *("scan.json", "scan.nii.gz", "scan.rtstruct.dcm", "scan.seg.dcm", "scan.sr.dcm")
    ]


def test_results_beside_the_images_are_no_images_and_are_replaced(tmp_path, tiny_bundle):
    folder = Series(count=5).write(tmp_path / "scan")
    for _ in range(2):
        assert infer(folder, folder, tiny_bundle, "--output-type", "dicom-seg,rtstruct") == 0
        record = json.loads((folder / "scan.json").read_bytes())
        assert (record["mask"], record["shape"][0]) == (str(folder / "scan.seg.dcm"), 5)
        assert record["mask_sha256"] == sha256_of(folder / "scan.seg.dcm")
    (series,) = find_series(folder)
    assert len(series.files) == 5
    dataset = dcmread(folder / "scan.rtstruct.dcm")
    dataset.Manufacturer = "Somebody"
    dataset.save_as(folder / "scan.rtstruct.dcm")
    assert infer(folder, folder, tiny_bundle, "--output-type", "rtstruct") == 6
    assert dcmread(folder / "scan.rtstruct.dcm").Manufacturer == "Somebody"


@pytest.mark.parametrize("reason", ["unreferable", "gantry_tilt"])
def test_a_series_that_is_refused_has_no_result_and_those_of_before_are_set_aside(reason, tmp_path, tiny_bundle):
    sound = Series(count=5)
    folder = sound.write(tmp_path / "scan")
    assert infer(folder, tmp_path / "masks/", tiny_bundle, *ALL_TYPES) == 0
    bad = Series(count=5, way=(0, 0.3, 0.95)) if reason == "gantry_tilt" else Series(count=5, change=anonymous)
    bad.write(folder)
    assert infer(folder, tmp_path / "masks", tiny_bundle, *ALL_TYPES) == 4
    assert files(tmp_path / "masks") == [
        *("scan.json", "scan.stale.nii.gz", "scan.stale.rtstruct.dcm", "scan.stale.seg.dcm")
    ]
    assert json.loads((tmp_path / "masks" / "scan.json").read_bytes())["reason"] == reason


def test_formats_that_a_later_run_does_not_write_go_with_their_mask(tmp_path, tiny_bundle, capsys):
    folder, masks = Series(count=5).write(tmp_path / "scan"), tmp_path / "masks"
    assert infer(folder, f"{masks}/", tiny_bundle, *ALL_TYPES) == 0
    edited = dcmread(masks / "scan.rtstruct.dcm")
    edited.StructureSetLabel = "edited"
    edited.save_as(masks / "scan.rtstruct.dcm")
    content, text = (masks / "scan.rtstruct.dcm").read_bytes(), "scan.rtstruct.dcm is of an earlier run and stays, as"
    for why in ("it was changed since", "no record describes it"):
        capsys.readouterr()
        assert infer(folder, masks, tiny_bundle) == 0
        assert files(masks) == ["scan.json", "scan.nii.gz", "scan.rtstruct.dcm"]
        assert json.loads((masks / "scan.json").read_bytes())["remarks"][-1]["text"] == f"{text} {why}"
        assert f"; note: {text} {why}" in capsys.readouterr().err
    assert (masks / "scan.rtstruct.dcm").read_bytes() == content


def test_where_one_format_cannot_be_written_none_is(tmp_path, tiny_bundle):
    pytest.importorskip("highdicom")
    (tmp_path / "scan").mkdir()
    first = Series(count=5)
    enhanced(first, tmp_path / "scan" / "a")
    enhanced(Series(count=5, uid=first.uid, origin_mm=(-20.0, -30.0, 115.0)), tmp_path / "scan" / "b")
    assert infer(tmp_path / "scan", tmp_path / "masks", tiny_bundle, *ALL_TYPES) == 4
    assert files(tmp_path / "masks") == ["scan.json"]
    record = json.loads((tmp_path / "masks" / "scan.json").read_bytes())
    assert (record["reason"], record["status"]) == ("unreferable", "refused")
    assert infer(tmp_path / "scan", tmp_path / "masks", tiny_bundle, "--output-type", "nifti,rtstruct") == 0
    assert read_volume(tmp_path / "masks" / "scan.nii.gz").shape[0] == 10


def anonymous(dataset, index):
    dataset.StudyInstanceUID = ""


def test_formats_that_do_not_fit_are_usage_errors(tmp_path, tiny_bundle, capsys):
    write_nifti(tmp_path / "a.nii", np.zeros((4, 4, 4), np.int16))
    folder = Series(count=5).write(tmp_path / "scan")
    for source, target, types, says in (
        (tmp_path / "a.nii", f"{tmp_path}/out/", "dicom-seg", "a.nii: is no DICOM"),
        (tmp_path / "a.nii", tmp_path / "a.seg.dcm", "nifti", "is a name for --output-type dicom-seg, not for nifti"),
        (folder, tmp_path / "a.nii.gz", "rtstruct", "is a name for --output-type nifti, not for rtstruct"),
        (folder, f"{tmp_path}/out/", "nifti,png", "output type 'png' is not known"),
        (folder, f"{tmp_path}/out/", "", "output type '' is not known"),
    ):
        assert infer(source, target, tiny_bundle, "--output-type", types) == 2
        assert says in capsys.readouterr().err
    assert files(tmp_path) == ["a.nii", "scan"]


def test_a_file_that_is_named_is_one_of_the_formats(tmp_path):
    folder = Series(count=5).write(tmp_path / "scan")
    (case,) = find_cases(folder, tmp_path / "b.seg.dcm", 1, output_types=("nifti", "dicom-seg"))
    assert case.masks == (tmp_path / "b.nii.gz", tmp_path / "b.seg.dcm")
    (case,) = find_cases(folder, tmp_path / "b.nii", 1, output_types=("nifti", "dicom-seg"))
    assert (case.masks, case.record) == ((tmp_path / "b.nii", tmp_path / "b.seg.dcm"), tmp_path / "b.json")


def test_without_the_libraries_that_write_dicom_they_are_named(tmp_path, monkeypatch):
    folder = Series(count=5).write(tmp_path / "scan")
    monkeypatch.setattr("flare_runtime.imaging.dicom.references.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="writing DICOM needs pydicom and highdicom and contourpy: pip install"):
        find_cases(folder, tmp_path / "out", 1, output_types=("dicom-seg",))


def test_python_saves_what_it_segmented_as_dicom(tmp_path, tiny_bundle):
    pytest.importorskip("highdicom")
    folder = Series(count=5).write(tmp_path / "scan")
    result = Segmenter.load(tiny_bundle).segment(folder)
    for name in ("a.seg.dcm", "a.rtstruct.dcm"):
        assert result.save(tmp_path / name) == tmp_path / name
        result.save(tmp_path / name)
    assert dcmread(tmp_path / "a.seg.dcm").SegmentSequence[0].SegmentLabel == "lesion"
    array = Segmenter.load(tiny_bundle).segment(np.full((5, 9, 9), -50, np.int16), spacing_mm=(3.0, 1.0, 1.0))
    with pytest.raises(UsageError, match=r"save this as \.nii\.gz"):
        array.save(tmp_path / "b.seg.dcm")
