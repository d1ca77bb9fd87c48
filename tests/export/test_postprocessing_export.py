"""What nnU-Net's postprocessing.json says goes into the bundle, and masks are then what nnU-Net would make of them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import nibabel as nib
import numpy as np
import pytest

from flare_export import cli
from flare_export.errors import ModelError
from flare_export.source.postprocessing import find_postprocessing
from flare_runtime.cli import main as infer
from flare_runtime.model.bundle import Bundle
from flare_runtime.options import RunOptions
from flare_runtime.segmenter import Segmenter
from tests.export.test_parity_with_nnunet import write_image
from tests.model_folders import write_model_folder

FUNCTION = "remove_all_but_largest_component_from_segmentation"


def written(folder: Path, *labels_or_regions: Any, name: str = "postprocessing.json", **changes: Any) -> Path:
    """Write what nnU-Net writes beside its pickle."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "input_folder": {"foreground_mean": {}, "mean": {}},
        "postprocessed": {"foreground_mean": {}, "mean": {}},
        "postprocessing_fns": [FUNCTION] * len(labels_or_regions),
        "postprocessing_kwargs": [{"labels_or_regions": value} for value in labels_or_regions],
    }
    (folder / name).write_text(json.dumps(content | changes))
    (folder / "postprocessing.pkl").write_bytes(b"cos\nsystem\n(S'touch executed'\ntR.")
    return folder


def test_masks_are_postprocessed_as_nnunet_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = pytest.importorskip("nnunetv2.postprocessing.remove_connected_components")
    monkeypatch.chdir(tmp_path)
    labels = {"background": 0, "liver": 1, "tumour": 2}
    model = write_model_folder(tmp_path / "model", labels=labels, transpose_forward=(2, 0, 1), background_bias=2.0)
    written(model / "crossval_results_folds_0", [1, 2], 2)
    image = write_image(tmp_path / "case.nii.gz", (20, 24, 28), (2.5, 1.4, 1.4), seed=1)
    assert cli.main(["model", "-o", "bundle", "--verify", str(image)]) == 0  # nnU-Net's predictor does not do it
    said = "model/crossval_results_folds_0/postprocessing.json says"
    assert f"postprocessing: largest component of 1, 2; largest component of 2, as {said}" in capsys.readouterr().out
    assert not (tmp_path / "executed").exists()

    bundle = Bundle.open("bundle")
    plain = replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, postprocessing=()))
    raw = Segmenter.load(plain, RunOptions("cpu")).segment(image).mask
    function = theirs.remove_all_but_largest_component_from_segmentation
    kwargs = [{"labels_or_regions": [1, 2]}, {"labels_or_regions": 2}]
    expected = theirs.apply_postprocessing(raw, [function] * 2, kwargs)
    assert 0 < np.count_nonzero(expected) < np.count_nonzero(raw)

    assert infer(["-i", str(image), "-o", "masks/", "-m", "bundle", "--device", "cpu", "--quiet"]) == 0
    written_mask = np.asarray(nib.load("masks/case.nii.gz").dataobj).T  # type: ignore[attr-defined]
    np.testing.assert_array_equal(written_mask, expected)
    record = json.loads(Path("masks/case.json").read_text())
    assert record["model"]["postprocessing"] == "largest component of 1, 2; largest component of 2"
    assert [lesion["label"] for lesion in record["lesions"]].count(2) == 1

    options = ["--keep-largest", "foreground", "--min-volume-mm3", "1e5"]
    assert infer(["-i", str(image), "-o", "masks/", "-m", "bundle", "--device", "cpu", "--quiet", *options]) == 0
    record = json.loads(Path("masks/case.json").read_text())
    added = "; largest component of 1, 2; components of at least 100000 mm3"
    assert record["model"]["postprocessing"] == f"largest component of 1, 2; largest component of 2{added}"
    assert record["lesions"] == []


def test_it_can_be_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    written(write_model_folder(tmp_path / "model"), "of another program")
    assert cli.main(["model", "-o", "bundle"]) == 3
    assert "--no-postprocessing exports the model without it" in capsys.readouterr().err
    assert cli.main(["model", "-o", "bundle", "--no-postprocessing"]) == 0
    assert "postprocessing" not in Path("bundle", "manifest.json").read_text()


def test_it_is_taken_for_the_exported_folds_alone(tmp_path: Path) -> None:
    written(tmp_path / "crossval_results_folds_0_1_2_3_4", [1, 2, 3])
    written(tmp_path / "fold_0" / "validation", 1)
    written(tmp_path / "fold_2" / "validation", [2, 3])
    for folds, steps in (
        (["0", "1", "2", "3", "4"], [(1, 2, 3)]),
        (["4", "3", "2", "1", "0"], [(1, 2, 3)]),
        (["0"], [(1,)]),
        (["2"], [(2, 3)]),
        (["0", "1"], []),
        (["1"], []),
    ):
        found = find_postprocessing(tmp_path, folds)
        assert [step.keep_largest for step in found.steps] == steps
        assert steps or found.line == "postprocessing: none, as crossval_results_folds_0_1_2_3_4 is of other folds"


def test_that_of_one_fold_alone_is_pointed_out(tmp_path: Path) -> None:
    written(tmp_path / "fold_0" / "validation", 1)
    found = find_postprocessing(tmp_path, ["0", "1"])
    assert (found.steps, found.line) == ((), "postprocessing: none, as fold_0/validation is of other folds")


def test_what_was_copied_beside_the_plans_is_taken_and_a_pickle_alone_is_not(tmp_path: Path) -> None:
    assert find_postprocessing(tmp_path, ["0"]) == find_postprocessing(tmp_path, ["all"])
    assert not find_postprocessing(tmp_path, ["0"]).line
    written(tmp_path, name="of_another_name.json")
    found = find_postprocessing(tmp_path, ["0"])
    file = tmp_path / "postprocessing.json"
    assert not found.steps
    assert found.line == f"postprocessing: none, as there is postprocessing.pkl without {file}; no pickle is read"
    written(tmp_path)
    assert find_postprocessing(tmp_path, ["0"]).line == f"postprocessing: none, as {file} says"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"postprocessing_fns": ["os.system"]}, 'the function "os.system" is not supported; only remove_all_but'),
        ({"postprocessing_fns": None}, "postprocessing_fns is null and postprocessing_kwargs"),
        ({"postprocessing_kwargs": [{}, {}]}, "two lists of one length"),
        ({"postprocessing_kwargs": [{"labels_or_regions": "1"}]}, "labels of 1 to 255"),
        ({"postprocessing_kwargs": [{"labels_or_regions": []}]}, "labels of 1 to 255"),
        ({"postprocessing_kwargs": [{"labels_or_regions": [0, 1]}]}, "labels of 1 to 255"),
        ({"postprocessing_kwargs": [{"labels_or_regions": [{}, "a"]}]}, "labels of 1 to 255"),
        ({"postprocessing_kwargs": [{"labels_or_regions": 1, "background_label": 2}]}, "labels of 1 to 255"),
        ({"postprocessing_kwargs": [[1]]}, "labels of 1 to 255"),
    ],
)
def test_anything_else_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    written(tmp_path, 1, **changes)
    with pytest.raises(ModelError) as error:
        find_postprocessing(tmp_path, ["0"])
    assert said in str(error.value)
    assert str(error.value).endswith("--no-postprocessing exports the model without it")


def test_values_that_no_label_has_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = written(write_model_folder(tmp_path / "model"), 3)
    assert cli.main([str(model), "-o", str(tmp_path / "bundle")]) == 3
    assert "the postprocessing names the value 3, which no label has" in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()


@pytest.mark.slow
def test_what_nnunet_writes_is_read(tmp_path: Path) -> None:
    theirs = pytest.importorskip("nnunetv2.postprocessing.remove_connected_components")
    predicted, reference = tmp_path / "predicted", tmp_path / "reference"
    for folder in (predicted, reference):
        folder.mkdir()
        mask = np.zeros((12, 12, 12), np.uint8)
        mask[2:6, 2:6, 2:6], mask[2:6, 2:6, 6:8] = 1, 2
        if folder is predicted:
            mask[10, 10, 10] = 2
        nib.save(nib.Nifti1Image(mask, np.eye(4)), folder / "case.nii.gz")
    model = write_model_folder(tmp_path / "model", labels={"background": 0, "liver": 1, "tumour": 2})
    files = (str(model / "plans.json"), str(model / "dataset.json"))
    theirs.determine_postprocessing(str(predicted), str(reference), *files, num_processes=1)
    (found,) = find_postprocessing(predicted, ["0"]).steps
    assert found.keep_largest == (1, 2)
