"""Real CT through a network of random weights, against nnU-Net's predictor."""

from pathlib import Path

import pytest

from flare_export.bundle.conversion import MAX_MARGIN_STEPS, Naming, export_bundle
from flare_export.parity.case_parity import measure_case_parity
from flare_export.source.model_folder import ModelFolder
from flare_runtime.options import RunOptions
from flare_runtime.segmenter import Segmenter
from tests.model_folders import write_model_folder

pytest.importorskip("nnunetv2")

VOLUMES = (
    "ct/abdomen_3mm.nii.gz",  # isotropic, int32, sform alone
    "ct/liver_metastases_5mm_dicom",  # thick slices: separate z
    "ct/three_slices_dicom",  # far thinner than the patch
    "sts/images/STS_005_0000.nii.gz",  # float32, qform alone, separate z
)


def as_nifti(source: Path, target: Path) -> Path:
    """The volume itself, or its DICOM series converted by SimpleITK."""
    if source.is_file():
        return source
    import SimpleITK as sitk

    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(source)))
    sitk.WriteImage(reader.Execute(), str(target))
    return target


@pytest.mark.shared_data
@pytest.mark.parametrize("volume", VOLUMES)
def test_masks_are_those_of_nnunet(volume: str, shared_data: Path, tmp_path: Path) -> None:
    folder = ModelFolder.read(write_model_folder(tmp_path / "model", patch=(32, 64, 64), spacing_mm=(5.0, 3.0, 3.0)))
    bundle, _ = export_bundle(folder, tmp_path / "bundle", Naming())
    image = as_nifti(shared_data / volume, tmp_path / "series.nii.gz")
    (result,) = measure_case_parity(folder, [Segmenter.load(bundle.path, RunOptions(precision="fp32"))], [[image]])
    assert result.agreement.foreground_voxels
    assert result.agreement.voxel_agreement >= 0.999, result.row
    assert result.margin_steps <= MAX_MARGIN_STEPS, result.row
