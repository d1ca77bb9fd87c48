"""Which network a checkpoint's trainer builds: nnU-Net's own by name, others by their class, none by trust."""

import ast
from pathlib import Path

import pytest
import torch
from torch import nn

from flare_export import cli
from flare_export.bundle.conversion import Naming, export_bundle
from flare_export.errors import ModelError
from flare_export.source.known_trainers import BATCH_NORM_TRAINER, FLARE_TRAINER, PLAIN_TRAINERS, PRIMUS_TRAINERS
from flare_export.source.model_folder import ModelFolder
from tests.model_folders import write_model_folder

nnunetv2 = pytest.importorskip("nnunetv2")

SILU = """
from torch import nn
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

print("a trainer may print")


class SiLUTrainer(nnUNetTrainer):
    @staticmethod
    def build_network_architecture({arguments}, enable_deep_supervision=True):
        network = nnUNetTrainer.build_network_architecture({given}, enable_deep_supervision)
        for module in list(network.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.LeakyReLU):
                    setattr(module, name, nn.SiLU())
        return network


class LongTrainer(nnUNetTrainer):
    pass


class BrokenTrainer(nnUNetTrainer):
    @staticmethod
    def build_network_architecture(plans_manager, *_, **__):
        raise RuntimeError("no GPU")
"""
NEW = "plans_manager, configuration_manager, num_input_channels, num_output_channels"


@pytest.fixture
def own_trainers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a user's trainers, named by `nnUNet_extTrainer`."""
    folder = tmp_path / "trainers"
    folder.mkdir()
    (folder / "own_trainers.py").write_text(SILU.format(arguments=NEW, given=NEW))
    monkeypatch.setenv("nnUNet_extTrainer", str(folder))
    return folder


def test_the_list_of_trainers_is_that_of_the_installed_nnunet() -> None:
    """By their source: some import what may not be installed."""
    classes: dict[str, tuple[list[str], bool]] = {}
    for path in Path(nnunetv2.__path__[0], "training", "nnUNetTrainer").rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                own = any(isinstance(f, ast.FunctionDef) and f.name == "build_network_architecture" for f in node.body)
                classes[node.name] = ([ast.unparse(base) for base in node.bases], own)

    def overrides(name: str) -> bool:
        bases, own = classes.get(name, ([], False))
        return name != "nnUNetTrainer" and (own or any(map(overrides, bases)))

    assert {name for name in classes if not overrides(name)} == PLAIN_TRAINERS - {FLARE_TRAINER}
    assert {name for name in classes if overrides(name)} == PRIMUS_TRAINERS | {BATCH_NORM_TRAINER}


def test_our_own_trainer_builds_what_nnunets_does() -> None:
    trainer = pytest.importorskip("flare_train.training.trainer")
    assert trainer.FlareTrainer.__name__ == FLARE_TRAINER
    assert trainer.FlareTrainer.build_network_architecture is trainer.nnUNetTrainer.build_network_architecture


def test_batch_norm_is_built_as_nnunet_builds_it(tmp_path: Path) -> None:
    folder = ModelFolder.read(write_model_folder(tmp_path / "batch_norm", trainer=BATCH_NORM_TRAINER))
    norms = [module for module in folder.network(folder.checkpoints[0]).modules() if isinstance(module, nn.BatchNorm3d)]
    assert len(norms) == 3
    assert not any(norm.training for norm in norms)


def test_weights_of_another_trainers_network_are_refused_with_its_name(tmp_path: Path) -> None:
    model = write_model_folder(tmp_path / "model", trainer=BATCH_NORM_TRAINER)
    renamed(model, "nnUNetTrainer").replace(model / "fold_0" / "checkpoint_final.pth")
    with pytest.raises(ModelError, match=r"in what nnUNetTrainer builds of the plan, .*and the nnUNetTrainer that"):
        export_bundle(ModelFolder.read(model), tmp_path / "bundle", Naming())


def test_a_network_of_transformers_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"the trainer nnUNet_Primus_M_Trainer builds a transformer"):
        ModelFolder.read(write_model_folder(tmp_path / "model", trainer="nnUNet_Primus_M_Trainer"))


def test_an_unknown_trainer_is_refused_by_name_unless_the_plans_are_trusted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_model_folder(tmp_path / "model", trainer="SiLUTrainer")
    assert cli.main([str(model), "-o", str(tmp_path / "bundle")]) == 3
    message = capsys.readouterr().err
    assert message.startswith("flare-export: the trainer SiLUTrainer is none of nnU-Net's own")
    assert "it is neither in nnU-Net nor in a folder that nnUNet_extTrainer names" in message
    assert "nnUNet_extTrainer" in message
    assert "--trust-plans" in message
    assert message.count("\n") == 1
    assert not (tmp_path / "bundle").exists()
    assert cli.main([str(model), "-o", str(tmp_path / "bundle"), "--trust-plans"]) == 0


@pytest.mark.parametrize("name", ["np", "torch", "PlansManager", "__builtins__", "a b", "os.system"])
def test_what_is_no_trainer_is_none(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match=f"the trainer {name} is none of nnU-Net's own"):
        ModelFolder.read(write_model_folder(tmp_path / "model", trainer=name))


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        (NEW, NEW),
        ("name, kwargs, imports, inputs, outputs", "*managers(name, kwargs, imports), inputs, outputs"),
    ],
    ids=["as since 2.8", "as before"],
)
def test_a_users_trainer_builds_its_own_network(own_trainers: Path, tmp_path: Path, arguments: str, given: str) -> None:
    helper = (
        "from types import SimpleNamespace\n\ndef managers(name, kwargs, imports):\n"
        "    return None, SimpleNamespace(network_arch_class_name=name, network_arch_init_kwargs=kwargs,"
        " network_arch_init_kwargs_req_import=imports)\n"
    )
    (own_trainers / "own_trainers.py").write_text(helper + SILU.format(arguments=arguments, given=given))
    folder = ModelFolder.read(write_model_folder(tmp_path / "model", trainer="SiLUTrainer"))
    kinds = {type(module) for module in folder.network(folder.checkpoints[0]).modules()}
    assert nn.SiLU in kinds
    assert nn.LeakyReLU not in kinds


def test_a_users_trainer_that_builds_what_the_plans_say_is_known(own_trainers: Path, tmp_path: Path) -> None:
    assert ModelFolder.read(write_model_folder(tmp_path / "model", trainer="LongTrainer")).builder is None


def test_a_trainer_that_builds_nothing_is_refused_by_name(own_trainers: Path, tmp_path: Path) -> None:
    folder = ModelFolder.read(write_model_folder(tmp_path / "model", trainer="BrokenTrainer"))
    with pytest.raises(ModelError, match="the trainer BrokenTrainer builds no network: no GPU"):
        export_bundle(folder, tmp_path / "bundle", Naming())


def test_folds_of_two_trainers_are_refused(tmp_path: Path) -> None:
    model = write_model_folder(tmp_path / "model", folds=("0", "1"))
    (model / "fold_1" / "checkpoint_final.pth").write_bytes(renamed(model, "nnUNetTrainerDA5").read_bytes())
    with pytest.raises(ModelError, match="fold 0 is of nnUNetTrainer, and fold 1 of nnUNetTrainerDA5"):
        ModelFolder.read(model)


def test_no_code_of_a_model_folder_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = write_model_folder(tmp_path / "model", trainer="SiLUTrainer")
    (model / "own_trainers.py").write_text(SILU.format(arguments=NEW, given=NEW))
    monkeypatch.chdir(model)
    with pytest.raises(ModelError, match="the trainer SiLUTrainer is none of nnU-Net's own"):
        ModelFolder.read(model)


def renamed(model: Path, trainer: str) -> Path:
    """The first fold's checkpoint as if another class had trained it."""
    content = torch.load(model / "fold_0" / "checkpoint_final.pth", weights_only=False)
    target = model / f"{trainer}.pth"
    torch.save({**content, "trainer_name": trainer}, target)
    return target
