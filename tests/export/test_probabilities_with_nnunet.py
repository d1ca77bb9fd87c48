"""The probabilities that `flare-infer --probabilities` writes, against those of nnU-Net's own --save_probabilities."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flare_export import cli
from flare_runtime.cli import main as infer
from tests.export.test_parity_with_nnunet import REGIONS, write_image
from tests.model_folders import write_model_folder

# nnU-Net sums tiles in float16: of a hundred voxels two, near edges and corners, are off by more than this.
OFF_BY, IN_MEAN = 0.005, 5e-4


@pytest.mark.parametrize(
    "options",
    [
        {"background_bias": 1.0},
        {"labels": {"background": 0, "liver": 1, "vessel": 2, "lesion": 3}, "transpose_forward": (2, 0, 1)},
        REGIONS,
    ],
    ids=["two classes", "four classes", "regions"],
)
def test_probabilities_are_those_of_nnunet(options: dict[str, Any], tmp_path: Path) -> None:
    predict = pytest.importorskip("nnunetv2.inference.predict_from_raw_data")
    model = write_model_folder(tmp_path / "model", **options)
    image = write_image(tmp_path / "case_0000.nii.gz", (26, 30, 34), (2.0, 1.2, 1.2), seed=1)
    predictor = predict.nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), ("0",))
    predictor.predict_from_files_sequential([[str(image)]], [str(tmp_path / "expected")], save_probabilities=True)
    expected = np.load(tmp_path / "expected.npz")["probabilities"]

    bundle = str(tmp_path / "bundle")
    assert cli.main([str(model), "-o", bundle]) == 0
    arguments = ["-i", str(image), "-o", f"{tmp_path}/masks/", "-m", bundle, "--device", "cpu", "--quiet"]
    assert infer([*arguments, "--precision", "fp32", "--probabilities"]) == 0
    got = np.load(tmp_path / "masks" / "case.probabilities.npz")["probabilities"]
    assert (got.dtype, got.shape) == (np.float16, expected.shape)
    difference = np.abs(got.astype(np.float32) - expected)
    assert np.quantile(difference, 0.98) < OFF_BY
    assert difference.mean() < IN_MEAN
    assert expected[-1].max() > 0.1
