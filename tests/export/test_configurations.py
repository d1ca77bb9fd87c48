"""nnU-Net's configurations beside 3d_fullres, against its own predictor."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flare_export import cli
from flare_export.bundle.conversion import MAX_MARGIN_STEPS
from flare_export.errors import ModelError
from flare_export.parity.case_parity import measure_case_parity
from flare_export.source.model_folder import ModelFolder
from flare_runtime.options import RunOptions
from flare_runtime.segmenter import Segmenter
from tests.export.test_parity_with_nnunet import JOINT, REGIONS, SEPARATE_FIRST, SEPARATE_LAST, TINY, write_image
from tests.model_folders import write_cascade, write_model_folder

pytest.importorskip("nnunetv2")

TWO_D = {"patch": (24, 16), "spacing_mm": (1.5, 1.3), "mirror_axes": (0, 1), "features": (4, 8)}
TWO_CHANNELS = {"channels": ("CT", "PET"), "normalisation": "ZScoreNormalization"}
SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("grid", "options", "tta"),
    [
        pytest.param(SEPARATE_FIRST, {"transpose_forward": (0, 2, 1), "folds": ("0", "1")}, True, id="thick slices"),
        pytest.param(JOINT, TWO_CHANNELS, False, id="joint, two channels", marks=SLOW),
        pytest.param(SEPARATE_LAST, {"transpose_forward": (2, 1, 0)}, True, id="transposed", marks=SLOW),
        pytest.param(SEPARATE_LAST, {}, True, id="thick in plane", marks=SLOW),
        pytest.param(TINY, {}, False, id="smaller than the patch", marks=SLOW),
        pytest.param(JOINT, REGIONS | {"mirror_axes": (1,)}, True, id="regions", marks=SLOW),
        pytest.param(JOINT, {"residual": True, "features": (4, 8, 16)}, False, id="residual", marks=SLOW),
        pytest.param(JOINT, {"spacing_mm": (4.5, 1.2)}, False, id="anisotropic in plane", marks=SLOW),
        pytest.param(JOINT, {"force_separate_z": False}, False, id="never separate", marks=SLOW),
        pytest.param(
            SEPARATE_FIRST,
            {"normalisation": "ZScoreNormalization", "masked": True, "labels": {"background": 0, "a": 1, "b": 2}},
            True,
            id="three classes, masked",
            marks=SLOW,
        ),
    ],
)
def test_slice_by_slice_as_nnunet(grid: tuple[Any, Any], options: dict[str, Any], tta: bool, tmp_path: Path) -> None:
    folder = write_model_folder(tmp_path / "model", **(TWO_D | options))
    _compare(folder, grid, tmp_path, tta=tta, least=0.9999)


CASCADE = {"lowres": {"spacing_mm": (4.0, 3.0, 3.0), "features": (4, 8)}, "mirror_axes": (0, 1, 2)}


@pytest.mark.parametrize(
    ("grid", "options", "tta"),
    [
        pytest.param(JOINT, {"labels": {"background": 0, "organ": 1, "lesion": 2}}, False, id="joint", marks=SLOW),
        pytest.param(
            SEPARATE_FIRST,
            {"spacing_mm": (5.0, 1.5, 1.3), "patch": (8, 24, 16), "transpose_forward": (0, 2, 1), "folds": ("0", "1")},
            True,
            id="thick slices, transposed, two folds",
            marks=SLOW,
        ),
        pytest.param(JOINT, REGIONS, True, id="regions", marks=SLOW),
        pytest.param(
            SEPARATE_LAST,
            {"transpose_forward": (2, 0, 1), "patch": (16, 24, 8), "channels": ("CT", "PET"), "folds": ("all",)},
            False,
            id="two channels, transposed",
            marks=SLOW,
        ),
        pytest.param(JOINT, {"normalisation": "ZScoreNormalization", "masked": True}, False, id="masked", marks=SLOW),
        pytest.param(TINY, {"residual": True}, False, id="smaller than the patch, residual", marks=SLOW),
        pytest.param(
            JOINT,
            {"spacing_mm": (2.0, 1.2, 1.2), "lowres": {"spacing_mm": (4.0, 2.4, 2.4)}},
            True,
            id="the scan's own grid",
            marks=SLOW,
        ),
    ],
)
def test_cascades_as_nnunet(grid: tuple[Any, Any], options: dict[str, Any], tta: bool, tmp_path: Path) -> None:
    folder = write_cascade(tmp_path / "Dataset999_Tiny", **(CASCADE | options))
    # Some voxels of the first stage are undecided, of a random network more than of a trained one. Each of them is
    # another input of the second, and its margin there is compared with nnU-Net's on the same mask.
    _compare(folder, grid, tmp_path, tta=tta, least=0.995)


def _compare(
    model: Path,
    grid: tuple[Any, Any],
    tmp_path: Path,
    *,
    tta: bool,
    least: float,
) -> None:
    assert cli.main([str(model), "-o", str(tmp_path / "bundle")]) == 0
    folder = ModelFolder.read(model)
    images = [write_image(tmp_path / f"case_{i:04d}.nii.gz", *grid, seed=i) for i in range(folder.image_channels)]
    segmenter = Segmenter.load(tmp_path / "bundle", RunOptions(device="cpu", precision="fp32", tta=tta))
    for result in measure_case_parity(folder, [segmenter], [images], tta=tta):
        assert 0 < result.agreement.foreground_voxels < np.prod(grid[0])
        assert result.agreement.voxel_agreement >= least, result.row
        assert result.margin_steps <= MAX_MARGIN_STEPS, result.row


def test_slices_stay_where_they_are(tmp_path: Path) -> None:
    """Whatever the plan says of the training's slices, the network sees each one of the scan's."""
    model = write_model_folder(tmp_path / "model", **TWO_D)
    assert cli.main([str(model), "-o", str(tmp_path / "bundle")]) == 0
    segmenter = Segmenter.load(tmp_path / "bundle", RunOptions(device="cpu"))
    manifest = segmenter.bundle.manifest
    assert (manifest.dimensions, manifest.patch, manifest.mirror_axes) == (2, (1, 24, 16), (1, 2))
    assert manifest.spacing_mm == (5.0, 1.5, 1.3)
    assert manifest.grid_spacing_mm((0.7, 0.5, 0.5)) == (0.7, 1.5, 1.3)
    image = np.random.default_rng(0).normal(0, 300, (7, 40, 30)).astype(np.float32)
    one, thick = (segmenter.prepare(image, (z, 1.0, 1.0)).prepared for z in (0.7, 9.0))
    assert one is not None
    assert thick is not None
    assert one.image.shape[1] == thick.image.shape[1] == 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mirror_axes": (0, 1, 2)}, "no axes .* to mirror"),
        ({"spacing_mm": (1.5, 1.3, 1.3)}, "the patch .* and the spacing"),
    ],
)
def test_what_contradicts_a_2d_network_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    model = write_model_folder(tmp_path / "model", **(TWO_D | options))
    with pytest.raises(ModelError, match=message):
        ModelFolder.read(model)
