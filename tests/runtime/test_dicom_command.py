"""From DICOM to masks by the command: which series, what they are called, where they go, and what is refused."""

import json

import nibabel
import numpy as np
import pytest

pytest.importorskip("pydicom")

from pydicom import uid

from flare_runtime import Segmenter, UsageError, cli, read_volume
from flare_runtime.imaging.write import write_mask
from flare_runtime.run.cases import find_cases
from tests.runtime.dicom_files import Series
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


def test_magnetic_resonance_is_no_ct(tmp_path, tiny_bundle):
    folder = Series(sop_class=uid.MRImageStorage, modality="MR").write(tmp_path / "scan")
    assert infer(folder, tmp_path / "masks", tiny_bundle, "--any-intensity") == 4
    record = json.loads((tmp_path / "masks" / "scan.json").read_bytes())
    assert record["reason"] == "not_ct"
    assert "of the modality MR" in record["message"]


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
