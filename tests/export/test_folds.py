"""Which folds of a model folder, and which of their checkpoints, become a bundle."""

import shutil
from pathlib import Path

import pytest

from flare_export import cli
from flare_export.source.model_folder import ModelFolder
from flare_runtime.model.bundle import Bundle
from tests.model_folders import write_model_folder


def test_the_numbered_folds_are_taken_before_fold_all(tmp_path: Path) -> None:
    folder = write_model_folder(tmp_path / "model", folds=("0", "3", "all"))
    assert [c.fold for c in ModelFolder.read(folder).checkpoints] == ["0", "3"]
    assert [c.fold for c in ModelFolder.read(folder, ["all"]).checkpoints] == ["all"]


def test_what_only_begins_like_a_fold_is_named_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_model_folder(tmp_path / "model", folds=("0", "2", "10"))
    for other in ("fold_0_old", "fold_2 (copy)", "fold_all_but_mine", "fold_x\n1", "fold_01"):
        shutil.copytree(folder / "fold_0", folder / other)
    assert [c.fold for c in ModelFolder.read(folder).checkpoints] == ["0", "2", "10"]
    command = [str(folder), "-o", str(tmp_path / "bundle"), "--checkpoint", "checkpoint_final.pth"]
    assert cli.main(command) == 0
    first = capsys.readouterr().out.splitlines()[0]
    left_out = r"01, 0_old, 2 (copy), all_but_mine, x\n1"
    assert first == f"{folder}: 3d_fullres, checkpoint_final.pth of fold 0, 2, 10; left out: {left_out}"
    for spelling in ("--folds", "--fold"):
        assert cli.main([*command, spelling, "0", "2"]) == 0
        assert set(Bundle.open(tmp_path / "bundle").manifest.provenance.checkpoints) == {"0", "2"}


def test_the_best_checkpoint_is_taken_where_it_is_named(tmp_path: Path) -> None:
    folder = write_model_folder(tmp_path / "model", folds=("0", "1"))
    write_model_folder(folder, folds=("1",), checkpoint="checkpoint_best.pth", seed=5)
    command = [str(folder), "-o", str(tmp_path / "bundle"), "--checkpoint", "checkpoint_best.pth"]
    assert cli.main(command) == 0
    assert set(Bundle.open(tmp_path / "bundle").manifest.provenance.checkpoints) == {"1"}
