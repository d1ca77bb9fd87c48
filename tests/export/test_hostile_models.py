"""What is wrong with a model folder is said in one line, soon, without running, taking or leaving anything."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from time import process_time

import pytest
import torch

from flare_export import cli
from flare_export.bundle.conversion import Naming, make_manifest
from flare_export.errors import DisagreementError, ModelError
from flare_export.source import checkpoint
from flare_export.source.architecture import describe
from flare_export.source.model_folder import ModelFolder
from tests.export.hostile_models import FAULTS, ODDITIES
from tests.export.model_faults import CHECKPOINT
from tests.model_folders import write_model_folder
from tests.processes import memory_bytes, reset_peak_memory

_REFUSED = 3


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model_folder(tmp_path_factory.mktemp("sound") / "model")


@pytest.mark.filterwarnings("ignore")  # quantised and sparse tensors are deprecated
@pytest.mark.parametrize("fault", FAULTS)
def test_a_hostile_model_is_refused(
    fault: str, sound: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(sound, tmp_path / "model"))
    FAULTS[fault](folder)
    monkeypatch.chdir(tmp_path)
    reset_peak_memory()
    before = memory_bytes("VmRSS")
    started = process_time()
    code = cli.main(["model", "-o", "bundle"])
    taken_s = process_time() - started
    grown = memory_bytes("VmHWM") - before
    out, err = capfd.readouterr()
    assert code == _REFUSED, err
    assert re.fullmatch(r"flare-export: [^\n]+\n", err)
    assert len(err) < 1000
    assert re.fullmatch(r"(model: 3d_fullres, checkpoint_final\.pth of fold 0\n)?", out)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert taken_s < 5
    assert grown < 2 << 30


def test_the_program_refuses_a_hostile_checkpoint(sound: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sound, tmp_path / "model"))
    FAULTS["os.system as a whole"](folder)
    command = [sys.executable, "-m", "flare_export.cli", "model", "-o", "bundle"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=300)
    assert done.returncode == _REFUSED
    assert done.stderr.count(b"\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_pickle_of_too_many_instructions_is_refused(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_MAX_OPCODES", 1000)
    with pytest.raises(ModelError, match="more than 1,000 instructions"):
        checkpoint.read_checkpoint(sound / CHECKPOINT)


@pytest.mark.parametrize("oddity", ODDITIES)
def test_what_nnunet_takes_is_taken(oddity: str, sound: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sound, tmp_path / "model"))
    ODDITIES[oddity](folder)
    model = ModelFolder.read(folder)
    info = describe(model.configuration["architecture"], model.inputs, model.outputs, model.patch)
    make_manifest(model, info, Naming())
    network = model.network(model.checkpoints[0])
    assert sum(parameter.numel() for parameter in network.parameters()) == info.parameters
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--fold", "0", "0"], "--folds 0: is given twice"),
        (["--fold", "../model/fold_0"], "--folds ../model/fold_0"),
        (["--folds", "0", "fold_1"], "--folds fold_1: give numbers, or all"),
        (["--checkpoint", "../checkpoint_final.pth"], "--checkpoint"),
        (["--model-card", "nowhere.md"], "--model-card nowhere.md"),
        (["--verify", "nowhere.nii.gz"], "nowhere.nii.gz"),
    ],
)
def test_options_that_cannot_be_meant_are_a_usage_error(
    options: list[str], said: str, sound: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([str(sound), "-o", str(tmp_path / "bundle"), *options]) == 2
    err = capfd.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_result_that_disagrees_has_the_exit_code_of_a_refused_model() -> None:
    assert (ModelError.exit_code, DisagreementError.exit_code) == (_REFUSED, _REFUSED)
