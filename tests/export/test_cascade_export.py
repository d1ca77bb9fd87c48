"""A cascade's two trained-model folders become one bundle."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from flare_export import cli
from flare_export.source.model_folder import ModelFolder
from flare_runtime import cli as infer
from flare_runtime.model.bundle import Bundle
from flare_runtime.options import RunOptions
from flare_runtime.pipeline.tiling import TileGrid
from flare_runtime.segmenter import Segmenter
from tests.export.test_parity_with_nnunet import JOINT, write_image
from tests.model_folders import write_cascade, write_model_folder

LOWRES = {"spacing_mm": (4.0, 3.0, 3.0)}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As nnUNet_results/DatasetXXX: a cascade of two folds."""
    folder = tmp_path_factory.mktemp("results")
    write_cascade(folder, lowres=LOWRES, folds=("0", "1"), mirror_axes=None)
    return folder


@pytest.fixture(scope="module")
def cascade(results: Path) -> Path:
    return results / "nnUNetTrainer__nnUNetPlans__3d_cascade_fullres"


@pytest.fixture(scope="module")
def bundle(cascade: Path) -> Path:
    assert cli.main([str(cascade), "-o", str(cascade.parent / "bundle"), "--folds", "1"]) == 0
    return cascade.parent / "bundle"


def refusal(arguments: list[str | Path], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = cli.main([str(word) for word in arguments])
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return code, error


def test_the_previous_stage_is_found_and_both_are_in_the_bundle(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    first, last = opened.stages
    assert last is opened
    assert [stage.manifest.provenance.configuration for stage in opened.stages] == ["3d_lowres", "3d_cascade_fullres"]
    assert [tuple(stage.manifest.provenance.checkpoints) for stage in opened.stages] == [("1",), ("1",)]
    assert [stage.manifest.inputs for stage in opened.stages] == [1, 2]
    assert first.manifest.spacing_mm == (4.0, 3.0, 3.0)
    assert all(stage.manifest.parity for stage in opened.stages)
    assert {path.name for path in bundle.iterdir()} == {
        "manifest.json",
        *(f"{prefix}network{middle}.onnx" for prefix in ("", "previous_stage.") for middle in ("", ".fp16")),
    }


def test_it_is_exported_anew_over_itself_and_says_what_it_takes(
    bundle: Path, cascade: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([str(cascade), "-o", str(bundle), "--folds", "1"]) == 0
    said = capsys.readouterr().out.splitlines()
    lowres = cascade.with_name("nnUNetTrainer__nnUNetPlans__3d_lowres")
    assert said[:2] == [
        f"{lowres}: 3d_lowres, checkpoint_final.pth of fold 1; left out: 0",
        f"{cascade}: 3d_cascade_fullres, checkpoint_final.pth of fold 1; left out: 0",
    ]
    assert sum("openvino fp32 against torch" in line for line in said) == 2


def test_flare_infer_runs_a_zipped_cascade_like_any_model(bundle: Path, tmp_path: Path) -> None:
    image = write_image(tmp_path / "case_0000.nii.gz", *JOINT, seed=0)
    archive = shutil.make_archive(str(tmp_path / "model"), "zip", bundle)
    command = ["-i", str(image), "-m", archive, "-o", str(tmp_path / "out" / "mask.nii.gz"), "--device", "cpu"]
    assert infer.main(command) == 0
    model = json.loads((tmp_path / "out" / "mask.json").read_text(encoding="utf-8"))["model"]
    assert (model["configuration"], model["previous_stage"]) == ("3d_cascade_fullres", "3d_lowres")
    assert model["bundle_sha256"] == Bundle.open(bundle).sha256
    mask = np.asarray(nib.load(tmp_path / "out" / "mask.nii.gz").dataobj)
    segmenter = Segmenter.load(bundle, RunOptions(device="cpu"))
    np.testing.assert_array_equal(mask.transpose(), segmenter.segment(image).mask)
    changed = bytearray((bundle / "previous_stage.network.onnx").read_bytes())
    changed[-5] ^= 1
    broken = shutil.copytree(bundle, tmp_path / "broken")
    (broken / "previous_stage.network.onnx").write_bytes(changed)
    assert infer.main(["-i", str(image), "-m", str(broken), "-o", str(tmp_path / "x.nii.gz")]) == 7


def test_the_masks_are_those_of_nnunets_own_commands(bundle: Path, results: Path, tmp_path: Path) -> None:
    """Both stages through files, as `nnUNetv2_predict -prev_stage_predictions` runs them."""
    module = pytest.importorskip("nnunetv2.inference.predict_from_raw_data")
    import torch

    (tmp_path / "in").mkdir()
    write_image(tmp_path / "in" / "case_0000.nii.gz", *JOINT, seed=0)
    before, masks = None, []
    for name in ("3d_lowres", "3d_cascade_fullres"):
        predictor = module.nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
        model = results / f"nnUNetTrainer__nnUNetPlans__{name}"
        predictor.initialize_from_trained_model_folder(str(model), (1,), "checkpoint_final.pth")
        out = tmp_path / name
        out.mkdir()
        predictor.predict_from_files_sequential(
            str(tmp_path / "in"), str(out), folder_with_segs_from_prev_stage=before and str(before)
        )
        masks.append(np.asarray(nib.load(out / "case.nii.gz").dataobj).transpose())
        before = out
    first, expected = masks
    segmenter = Segmenter.load(bundle, RunOptions(device="cpu", precision="fp32"))
    case = segmenter.prepare(tmp_path / "in" / "case_0000.nii.gz")
    assert case.previous is not None
    assert 0 < expected.mean() < 1
    assert (case.previous.mask == first).mean() >= 0.998
    assert (segmenter.finish(case).mask == expected).mean() >= 0.995


def test_the_low_resolution_is_a_model_by_itself(bundle: Path, results: Path, tmp_path: Path) -> None:
    image = write_image(tmp_path / "case_0000.nii.gz", *JOINT, seed=0)
    model = results / "nnUNetTrainer__nnUNetPlans__3d_lowres"
    assert cli.main([str(model), "-o", str(tmp_path / "lowres"), "--folds", "1"]) == 0
    alone, whole = (
        Segmenter.load(one, RunOptions(device="cpu", precision="fp32")) for one in (tmp_path / "lowres", bundle)
    )
    case = whole.prepare(image)
    assert case.previous is not None
    np.testing.assert_array_equal(alone.segment(image).mask, case.previous.mask)
    assert alone.bundle.manifest.provenance.configuration == "3d_lowres"


def test_what_a_run_would_do_counts_both_stages(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = write_image(tmp_path / "case_0000.nii.gz", *JOINT, seed=0)
    assert infer.main(["check", str(image), "-m", str(bundle)]) == 0
    said = capsys.readouterr().out
    tiles: list[int] = []

    def counted(grid: TileGrid) -> TileGrid:
        tiles.append(len(grid))
        return grid

    Segmenter.load(bundle, RunOptions(device="cpu")).segment(image, progress=counted)
    assert len(tiles) == 2
    assert f"{sum(tiles)} tile(s)" in said
    assert infer.main(["info", str(bundle)]) == 0
    assert "behind 3d_lowres, whose mask it sees" in capsys.readouterr().out


def test_the_second_stage_depends_on_the_first(bundle: Path, tmp_path: Path) -> None:
    """Guards the comparisons above: a runtime without the labels would have to fail them."""
    image = write_image(tmp_path / "case_0000.nii.gz", *JOINT, seed=0)
    segmenter = Segmenter.load(bundle, RunOptions(device="cpu", precision="fp32"))
    case = segmenter.prepare(image)
    assert case.prepared is not None
    with_labels = segmenter.finish(case).mask
    assert set(np.unique(case.prepared.image[1])) == {0, 1}
    case.prepared.image[1] = 0
    assert (segmenter.finish(case).mask != with_labels).mean() > 0.02


def test_what_is_no_cascade_of_these_two_is_refused(
    cascade: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = shutil.copytree(cascade, tmp_path / "alone")
    output = ["-o", tmp_path / "bundle"]
    code, error = refusal([alone, *output], capsys)
    assert code == 3
    assert "is a cascade behind 3d_lowres" in error
    assert "--previous-stage" in error
    lowres = cascade.with_name("nnUNetTrainer__nnUNetPlans__3d_lowres")
    assert cli.main([str(alone), *map(str, output), "--previous-stage", str(lowres)]) == 0
    capsys.readouterr()
    other = write_model_folder(tmp_path / "other")
    two = {"background": 0, "a": 1, "b": 2}
    labels = write_cascade(tmp_path / "labels", lowres=LOWRES, labels=two, folds=("0", "1"))
    for model, previous, says in (
        (alone, other, "holds 3d_fullres; 3d_cascade_fullres comes behind 3d_lowres"),
        (alone, alone, "is a cascade behind 3d_lowres"),
        (alone, labels.with_name(lowres.name), "have other labels"),
        (other, lowres, "3d_fullres is no cascade"),
    ):
        code, error = refusal([model, *output, "--previous-stage", previous, "--force"], capsys)
        assert code == 3, error
        assert says in error
    code, error = refusal([alone, *output, "--previous-stage", tmp_path / "nowhere"], capsys)
    assert code == 2


def test_a_mask_that_is_resampled_otherwise_is_refused(cascade: Path, tmp_path: Path) -> None:
    from flare_export.errors import ModelError
    from flare_export.source.plans import mask_resampling, resolve_configuration

    plans = json.loads((cascade / "plans.json").read_text(encoding="utf-8"))
    configuration = resolve_configuration(plans, "3d_cascade_fullres")
    for changes in ({"order": 3}, {"order_z": 1}, {"is_seg": False}, {"separate_z_anisotropy_threshold": 2}):
        rule = configuration["resampling_fn_seg_kwargs"] | changes
        with pytest.raises(ModelError, match=r"masks are resampled|are not supported"):
            mask_resampling(configuration | {"resampling_fn_seg_kwargs": rule})
    plans["configurations"]["3d_fullres"]["resampling_fn_seg"] = "resample_torch_fornnunet"
    with pytest.raises(ModelError, match="mask resampling 'resample_torch_fornnunet'"):
        resolve_configuration(plans, "3d_cascade_fullres")


def test_int8_is_refused(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = write_image(tmp_path / "case_0000.nii.gz", *JOINT, seed=0)
    code, error = refusal(["int8", bundle, "--calibrate", image], capsys)
    assert code == 2
    assert "is a cascade" in error


def test_folds_of_both_stages_are_the_same(cascade: Path) -> None:
    folder = ModelFolder.read(cascade)
    assert [[one.fold for one in stage.checkpoints] for stage in folder.stages] == [["0", "1"], ["0", "1"]]
