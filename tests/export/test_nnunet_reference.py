"""nnU-Net's own predictor, made of a model folder that nobody vouches for."""

import json
import sys

import pytest

from flare_export.parity.nnunet_reference import NnunetReference
from flare_export.source.model_folder import ModelFolder
from flare_runtime.errors import UsageError
from tests.model_folders import CONFIGURATION, write_model_folder

pytest.importorskip("nnunetv2")
PRIMUS = "nnunetv2.training.nnUNetTrainer.primus.primus_trainers"


@pytest.mark.parametrize("trainer", ["nnUNetTrainer", "nnUNetTrainerNoMirroring", "FlareTrainer"])
def test_trainers_of_nnunet_and_of_this_project_are_loaded(tmp_path, trainer):
    NnunetReference(ModelFolder.read(write_model_folder(tmp_path / "model", trainer=trainer)))


def test_a_torchvision_of_another_build_is_named_with_what_to_install(tmp_path, monkeypatch):
    package = tmp_path / "packages" / "torchvision"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('raise RuntimeError("operator torchvision::nms does not exist")')
    monkeypatch.syspath_prepend(package.parent)
    for name in [name for name in sys.modules if name == PRIMUS or name.partition(".")[0] in ("timm", "torchvision")]:
        monkeypatch.delitem(sys.modules, name)
    folder = ModelFolder.read(write_model_folder(tmp_path / "model", trainer="nnUNetTrainerNoMirroring"))
    message = (
        r"^nnU-Net does not load the model of nnUNetTrainerNoMirroring: operator torchvision::nms does not exist, "
        r"as torchvision [\d.+a-z]+ was made for another build than torch .*; install the torchvision of that build"
    )
    with pytest.raises(UsageError, match=message):
        NnunetReference(folder)


def test_nothing_that_a_plan_names_is_imported(tmp_path, monkeypatch):
    """nnU-Net imports the paths of an `architecture` block; the class's name alone says what is meant."""
    monkeypatch.syspath_prepend(tmp_path / "model")
    path = write_model_folder(tmp_path / "model")
    (path / "evil.py").write_text("raise SystemExit('ran')")
    plans = json.loads((path / "plans.json").read_text())
    block = plans["configurations"][CONFIGURATION]["architecture"]
    block["network_class_name"] = "evil.PlainConvUNet"
    block["arch_kwargs"]["conv_op"] = "evil.Conv3d"
    (path / "plans.json").write_text(json.dumps(plans))
    NnunetReference(ModelFolder.read(path))
    assert "evil" not in sys.modules
