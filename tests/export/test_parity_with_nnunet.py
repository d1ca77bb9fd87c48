"""Every kind of model the exporter takes, against nnU-Net's own predictor, on volumes small enough for a CPU."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from flare_export import cli
from flare_export.bundle.conversion import MAX_MARGIN_STEPS, Naming, export_bundle
from flare_export.parity.case_parity import measure_case_parity
from flare_export.source.model_folder import ModelFolder
from flare_runtime.model.bundle import Bundle
from flare_runtime.options import RunOptions
from flare_runtime.segmenter import Segmenter
from tests.model_folders import write_model_folder

pytest.importorskip("nnunetv2")

JOINT = ((40, 44, 48), (2.0, 1.2, 1.2))
SEPARATE_FIRST = ((14, 50, 46), (6.0, 1.2, 1.2))
SEPARATE_LAST = ((46, 50, 14), (1.2, 1.2, 6.0))
THIN = ((5, 50, 46), (2.0, 1.2, 1.2))
TINY = ((6, 8, 7), (2.0, 1.2, 1.2))
REGIONS = {
    "labels": {"background": 0, "whole": (1, 2, 3), "core": (2, 3), "centre": 3},
    "regions_class_order": (1, 2, 3),
}

CASES: dict[str, tuple[tuple[Any, Any], dict[str, Any], dict[str, Any]]] = {
    # name: ((shape, spacing) both (z, y, x), options of the model folder, options of the prediction)
    "joint 3D": (JOINT, {}, {}),
    "separate z, axis first": (SEPARATE_FIRST, {}, {}),
    "separate z, axis last": (SEPARATE_LAST, {}, {}),
    "smaller than the patch in one axis": (THIN, {}, {}),
    "smaller than the patch in all axes": (TINY, {}, {}),
    "three classes": (JOINT, {"labels": {"background": 0, "liver": 1, "lesion": 2}}, {}),
    "regions": (JOINT, REGIONS, {}),
    "two channels": (
        JOINT,
        {"channels": ("CT", "PET"), "normalisation": ("CTNormalization", "ZScoreNormalization")},
        {},
    ),
    "channels counted from 1": (
        JOINT,
        {"channels": {"1": "CT", "2": "PET"}, "normalisation": ("CTNormalization", "ZScoreNormalization")},
        {},
    ),
    "masked z-score": (JOINT, {"normalisation": "ZScoreNormalization", "masked": True}, {}),
    "mirroring": (JOINT, {}, {"tta": True}),
    "mirroring of two axes": (JOINT, {"mirror_axes": (0, 2)}, {"tta": True}),
    "residual encoder": (JOINT, {"residual": True, "features": (4, 8, 16)}, {}),
    "anisotropic patch and spacing": (SEPARATE_FIRST, {"patch": (8, 24, 16), "spacing_mm": (5.0, 1.5, 1.3)}, {}),
    "transposed": (JOINT, {"transpose_forward": (2, 0, 1), "patch": (16, 24, 8)}, {}),
    "transposed, separate z": (SEPARATE_LAST, {"transpose_forward": (1, 2, 0)}, {}),
    "turned by nibabel": (JOINT, {"reader": "NibabelIOWithReorient"}, {}),
    "turned by SimpleITK, transposed": (
        SEPARATE_LAST,
        {"reader": "SimpleITKIOWithReorient", "transpose_forward": (2, 0, 1), "patch": (16, 24, 8)},
        {},
    ),
    "three folds": (JOINT, {"folds": ("0", "1", "2")}, {}),
    "force_separate_z": (JOINT, {"force_separate_z": True}, {}),
}


def write_image(
    path: Path, shape: tuple[int, int, int], spacing: tuple[float, float, float], seed: int, offset: int = 0
) -> Path:
    """A smooth image in HU, unless there is an offset, with a margin of zeros, so that there is something to crop."""
    noise = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 2.0)
    voxels = (400 * noise / noise.std()).astype(np.int16) + np.int16(offset)
    voxels[0], voxels[:, :, -2:] = 0, 0
    image = nib.Nifti1Image(voxels.transpose(), np.diag([-spacing[2], -spacing[1], spacing[0], 1]))
    image.header.set_qform(image.affine, 1)
    nib.save(image, path)
    return path


@pytest.mark.parametrize("name", CASES)
def test_masks_are_those_of_nnunet(name: str, tmp_path: Path) -> None:
    (shape, spacing), options, prediction = CASES[name]
    folder = ModelFolder.read(write_model_folder(tmp_path / "model", **options))
    bundle, _ = export_bundle(folder, tmp_path / "bundle", Naming())
    images = [write_image(tmp_path / f"case_{i:04d}.nii.gz", shape, spacing, seed=i) for i in range(folder.inputs)]
    segmenters = [
        Segmenter.load(bundle.path, RunOptions(backend=backend, precision="fp32", **prediction))
        for backend in ("openvino", "onnxruntime")
    ]

    for result in measure_case_parity(folder, segmenters, [images], **prediction):
        assert 0 < result.agreement.foreground_voxels < np.prod(shape), (
            "the model must find something and not everything"
        )
        assert result.agreement.voxel_agreement >= 0.999, result.row
        assert result.margin_steps <= MAX_MARGIN_STEPS, result.row


def test_mirroring_changes_the_result(tmp_path: Path) -> None:
    """Guards the mirrored cases above: a runtime that ignored `tta` would have to fail them."""
    bundle, _ = export_bundle(ModelFolder.read(write_model_folder(tmp_path / "model")), tmp_path / "bundle", Naming())
    image = np.random.default_rng(0).normal(0, 300, (20, 20, 20)).astype(np.float32)
    masks = [
        Segmenter.load(bundle.path, RunOptions(tta=tta)).segment(image, (2.5, 1.5, 1.5)).mask for tta in (False, True)
    ]
    assert (masks[0] != masks[1]).any()


def test_an_image_of_zeros_has_an_empty_mask(tmp_path: Path) -> None:
    bundle, _ = export_bundle(ModelFolder.read(write_model_folder(tmp_path / "model")), tmp_path / "bundle", Naming())
    result = Segmenter.load(bundle.path).segment(np.zeros((9, 8, 7), np.int16), (2.0, 1.0, 1.0))
    assert result.mask.shape == (9, 8, 7)
    assert not result.mask.any()
    assert [remark.code for remark in result.remarks] == ["all_zero"]


def test_verify_prints_and_records_every_engine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_model_folder(tmp_path / "model")
    # Not in Hounsfield units, which nnU-Net segments all the same.
    image = write_image(tmp_path / "case_0000.nii.gz", *JOINT, seed=0, offset=1024)
    assert cli.main([str(folder), "-o", str(tmp_path / "bundle"), "--verify", str(image)]) == 0
    rows = [line.split()[:3] for line in capsys.readouterr().out.splitlines() if line.startswith("case ")]
    assert ["case", "openvino", "fp32"] in rows
    assert ["case", "onnxruntime", "fp32"] in rows
    records = [r for r in Bundle.open(tmp_path / "bundle").manifest.parity if r.scope == "case"]
    assert [[r.subject, r.backend, r.precision] for r in records] == [row for row in rows if row[1] != "backend"]
    assert all(r.foreground_voxels for r in records)
