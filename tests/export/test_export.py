"""What the exporter refuses, and what it writes."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import torch

from flare_export import cli
from flare_export.bundle.conversion import Naming, export_bundle
from flare_export.errors import DisagreementError, ModelError
from flare_export.graph.onnx_graph import to_onnx
from flare_export.graph.plain_layers import fold_biases
from flare_export.source.architecture import build_network, describe, load_weights
from flare_export.source.model_folder import ModelFolder
from flare_export.source.plans import resolve_configuration
from flare_runtime.backends.onnxruntime_cpu import OnnxRuntimeNetwork
from flare_runtime.errors import OutputError
from flare_runtime.model.bundle import Bundle
from flare_runtime.model.manifest import encode_manifest
from tests.model_folders import CONFIGURATION, make_plans, write_model_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model_folder(tmp_path / "model")


def edit_plans(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    plans = json.loads((folder / "plans.json").read_text(encoding="utf-8"))
    change(plans["configurations"][CONFIGURATION])
    (folder / "plans.json").write_text(json.dumps(plans))


def edit_checkpoint(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "fold_0" / "checkpoint_final.pth"
    content = torch.load(path, weights_only=False)
    change(content)
    torch.save(content, path)


def test_the_bundle_holds_one_head_and_no_idle_bias(folder: Path, tmp_path: Path) -> None:
    bundle, _ = export_bundle(ModelFolder.read(folder), tmp_path / "bundle", Naming("tiny", "CC0-1.0"))
    model = onnx.load_from_string(bundle.read(bundle.networks()[0]))
    operations = [node.op_type for node in model.graph.node]
    heads = [node for node in model.graph.node if node.output[0] == "logits"]
    assert operations.count("InstanceNormalization") == 3  # two encoder stages and a decoder stage, one norm each
    assert all(len(n.input) == 2 for n in model.graph.node if n.op_type == "Conv" and n not in heads)
    assert len(heads) == 1
    assert len(heads[0].input) == 3
    assert model.opset_import[0].version >= 18
    assert {entry.key: entry.value for entry in model.metadata_props}["flare-lite"] == "tiny"
    assert bundle.manifest.licence == "CC0-1.0"
    assert bundle.manifest.provenance.epochs == (2,)
    assert {(p.backend, p.precision) for p in bundle.manifest.parity} >= {("openvino", "fp32"), ("onnxruntime", "fp32")}


def test_folding_biases_changes_nothing_but_rounding(folder: Path) -> None:
    model = ModelFolder.read(folder)
    network, lean = (model.network(model.checkpoints[0]) for _ in range(2))
    with torch.no_grad():
        for module in (*network.modules(), *lean.modules()):
            if isinstance(module, torch.nn.Conv3d) and module.bias is not None:
                module.bias.fill_(0.7)
    assert fold_biases(lean) == 3
    image = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 1, 16, 16, 16), np.float32))
    with torch.no_grad():
        assert torch.allclose(network(image), lean(image), atol=1e-4)


def test_layers_of_equal_weights_do_not_share_them(folder: Path) -> None:
    model = ModelFolder.read(folder)
    network = build_network(model.configuration["architecture"], model.inputs, model.outputs)  # its norms are all new
    exported = to_onnx(network, model.inputs, model.patch, {})
    assert "Identity" not in {node.op_type for node in onnx.load_from_string(exported).graph.node}
    tile = np.random.default_rng(0).standard_normal((1, model.inputs, *model.patch), dtype=np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(tile)).numpy()
    assert np.abs(OnnxRuntimeNetwork(exported, "fp32").run(tile) - expected).max() < 1e-4


def test_the_papers_network_has_the_published_size() -> None:
    architecture = make_plans(features=(32, 64, 128, 256), convs=2)["configurations"][CONFIGURATION]["architecture"]
    info = describe(architecture, 1, 2, (128, 160, 160))
    assert info.parameters == 5_602_950
    assert info.gmac == pytest.approx(700.0, abs=0.2)
    assert info.features == (32, 64, 128, 256)


def test_the_network_is_the_one_nnunet_builds() -> None:
    factory = pytest.importorskip("nnunetv2.utilities.get_network_from_plans")
    for residual in (False, True):
        block = make_plans(residual=residual, features=(4, 8, 16))["configurations"][CONFIGURATION]["architecture"]
        theirs = factory.get_network_from_plans(
            block["network_class_name"],
            block["arch_kwargs"],
            block["_kw_requires_import"],
            2,
            3,
            deep_supervision=False,
        )
        load_weights(build_network(block, 2, 3), theirs.state_dict())  # compares every name and shape


OLD_STYLE = {
    "UNet_class_name": "PlainConvUNet",
    "UNet_base_num_features": 4,
    "unet_max_num_features": 8,
    "n_conv_per_stage_encoder": [1, 1],
    "n_conv_per_stage_decoder": [1],
    "num_pool_per_axis": [1, 1, 1],
    "pool_op_kernel_sizes": [[1, 1, 1], [2, 2, 2]],
    "conv_kernel_sizes": [[3, 3, 3], [3, 3, 3]],
}


def test_old_style_keys_beside_an_architecture_are_refused(folder: Path) -> None:
    edit_plans(folder, lambda configuration: configuration.update(OLD_STYLE))
    with pytest.raises(ModelError, match=r"UNet_class_name.*nnU-Net ignores the old keys"):
        ModelFolder.read(folder)


def test_old_style_keys_in_a_configuration_that_inherits_the_architecture_are_refused() -> None:
    plans = make_plans()
    plans["configurations"]["small"] = {"inherits_from": CONFIGURATION, **OLD_STYLE}
    with pytest.raises(ModelError, match="ignores the old keys"):
        resolve_configuration(plans, "small")


def test_a_plan_of_old_style_alone_gives_nnunets_architecture(folder: Path) -> None:
    handler = pytest.importorskip("nnunetv2.utilities.plans_handling.plans_handler")
    plans = make_plans()
    del plans["configurations"][CONFIGURATION]["architecture"]
    plans["configurations"][CONFIGURATION].update(OLD_STYLE)
    ours = resolve_configuration(plans, CONFIGURATION)["architecture"]
    with pytest.warns(UserWarning, match="old nnU-Net plans format"):
        theirs = handler.PlansManager(plans).get_configuration(CONFIGURATION)
    assert ours["arch_kwargs"] == theirs.network_arch_init_kwargs


def test_another_stage_count_than_the_checkpoints_is_counted(folder: Path, tmp_path: Path) -> None:
    deeper = write_model_folder(tmp_path / "deeper", features=(4, 8, 16))
    shutil.copy(deeper / "plans.json", folder / "plans.json")
    model = ModelFolder.read(folder)
    with pytest.raises(ModelError, match=r"3 stages and [\d,]{5,} parameters in what nnUNetTrainer builds"):
        model.network(model.checkpoints[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_size": [16, 16], "spacing": [1.0, 1.0]}, "has no axes"),
        ({"previous_stage": "3d_lowres"}, "cascade"),
        ({"preprocessor_name": "MyPreprocessor"}, "MyPreprocessor"),
        ({"resampling_fn_data": "resample_torch_fornnunet"}, "resample_torch_fornnunet"),
        ({"architecture": {"network_class_name": "a.MedNeXt", "arch_kwargs": {"n_channels": 32}}}, "'MedNeXt'"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(folder: Path, change: dict[str, Any], message: str) -> None:
    edit_plans(folder, lambda configuration: configuration.update(change))
    with pytest.raises(ModelError, match=message):
        ModelFolder.read(folder)


def test_an_unknown_normalisation_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    edit_plans(folder, lambda configuration: configuration.update(normalization_schemes=["MyNormalization"]))
    with pytest.raises(ModelError, match="MyNormalization"):
        export_bundle(ModelFolder.read(folder), tmp_path / "bundle", Naming())
    assert not (tmp_path / "bundle").exists()


def test_a_plan_cannot_import_what_it_likes(folder: Path) -> None:
    edit_plans(folder, lambda c: c["architecture"]["arch_kwargs"].update(nonlin="os.system"))
    model = ModelFolder.read(folder)
    with pytest.raises(ModelError, match=r"os\.system"):
        model.network(model.checkpoints[0])


class Hostile:
    """Unpickling this would write a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def test_a_hostile_checkpoint_is_refused_and_not_run(folder: Path, tmp_path: Path) -> None:
    edit_checkpoint(folder, lambda content: content.update(logging=Hostile(tmp_path / "owned")))
    (tmp_path / "owned").unlink(missing_ok=True)
    with pytest.raises(ModelError, match=r"refused, it holds .*(pathlib|getattr)"):
        ModelFolder.read(folder)
    assert not (tmp_path / "owned").exists()


def test_no_newer_way_of_pickling_gets_a_command_past(folder: Path, tmp_path: Path) -> None:
    (path,) = folder.glob("fold_*/checkpoint_*.pth")
    content = torch.load(path, weights_only=False) | {"logging": Hostile(tmp_path / "owned")}
    torch.save(content, path, pickle_protocol=4)  # names are on the stack, not in the instruction
    with pytest.raises(ModelError, match="its pickle is of protocol 4"):
        ModelFolder.read(folder)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("scalar", [np.float32(1), np.float64(1), np.int64(1), np.bool_(True)])
def test_the_scalars_of_genuine_checkpoints_are_read(folder: Path, scalar: Any) -> None:
    edit_checkpoint(folder, lambda content: content.update(_best_ema=scalar))
    assert ModelFolder.read(folder).checkpoints[0].epochs == 2


def test_prefixes_of_wrapped_networks_are_taken_off(folder: Path) -> None:
    def wrap(content: dict[str, Any]) -> None:
        content["network_weights"] = {f"module._orig_mod.{k}": v for k, v in content["network_weights"].items()}

    edit_checkpoint(folder, wrap)
    model = ModelFolder.read(folder)
    model.network(model.checkpoints[0])


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", pickle.dumps({"network_weights": {}})])
def test_what_is_no_checkpoint_is_said_to_be_none(folder: Path, content: bytes) -> None:
    (folder / "fold_0" / "checkpoint_final.pth").write_bytes(content)
    with pytest.raises(ModelError, match=r"not a readable PyTorch checkpoint .*before PyTorch 1\.6"):
        ModelFolder.read(folder)


def test_a_checkpoint_of_something_else_is_refused(folder: Path) -> None:
    torch.save({"state_dict": {}}, folder / "fold_0" / "checkpoint_final.pth")
    with pytest.raises(ModelError, match="network_weights"):
        ModelFolder.read(folder)


def test_an_existing_bundle_is_replaced_and_anything_else_is_not(folder: Path, tmp_path: Path) -> None:
    model = ModelFolder.read(folder)
    target = tmp_path / "bundle"
    export_bundle(model, target, Naming("first"))
    export_bundle(model, target, Naming("second"))
    assert Bundle.open(target).manifest.name == "second"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "model"]
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("words")
    with pytest.raises(OutputError, match="is not a bundle"):
        export_bundle(model, tmp_path / "precious", Naming())
    (target / "notes.txt").write_text("words")
    with pytest.raises(OutputError, match=r"notes\.txt: is none of the bundle's own files"):
        export_bundle(model, target, Naming("third"))
    assert Bundle.open(target).manifest.name == "second"
    assert (target / "notes.txt").read_text() == "words"


@pytest.mark.parametrize(
    "arguments",
    [
        ["", "-o", "bundle"],
        ["model", "-o", ""],
        ["model", "-o", "bundle", "--verify", ""],
        ["model", "-o", "bundle", "--model-card", ""],
        ["trt", ""],
        ["int8", "", "--calibrate", "a.nii"],
        ["int8", "bundle", "--calibrate", ""],
    ],
)
def test_an_empty_name_is_not_the_current_folder(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert "an empty name" in capsys.readouterr().err


@pytest.mark.parametrize("caution", ["", "two\nlines", "\x1b[31mred", "x" * 401])
def test_a_caution_is_one_line(folder: Path, tmp_path: Path, caution: str) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([str(folder), "-o", str(tmp_path / "bundle"), "--caution", caution])
    assert caught.value.code == 2


def test_what_the_new_bundle_would_lack_is_not_dropped_without_force(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, card = tmp_path / "bundle", tmp_path / "card.md"
    card.write_text("# A model")
    command = [str(folder), "-o", str(target)]
    assert cli.main([*command, "--model-card", str(card), "--caution", "for mice alone"]) == 0
    assert Bundle.open(target).manifest.caution == "for mice alone"
    manifest = Bundle.open(target).manifest
    measured = msgspec.structs.replace(manifest.parity[0], scope="case", subject="case1")
    content = encode_manifest(msgspec.structs.replace(manifest, parity=(*manifest.parity, measured)))
    (target / "manifest.json").write_bytes(content)
    for options, says in (
        (["--model-card", str(card), "--caution", "for rats"], "lack how it agrees on whole cases (--verify);"),
        (["--caution", "for rats"], "lack how it agrees on whole cases (--verify) and its model card (--model-card);"),
        (["--model-card", str(card)], "lack how it agrees on whole cases (--verify) and its caution (--caution);"),
    ):
        assert cli.main([*command, *options]) == 6
        error = capsys.readouterr().err
        assert says in error
        assert "--force" in error
        assert (target / "manifest.json").read_bytes() == content
    assert cli.main([*command, "--force"]) == 0
    assert {record.scope for record in Bundle.open(target).manifest.parity} == {"patch"}


def test_what_int8_needs_is_not_dropped_without_force(folder: Path, tmp_path: Path) -> None:
    model, target = ModelFolder.read(folder), tmp_path / "bundle"
    manifest = export_bundle(model, target, Naming())[0].manifest
    (target / "network.int8.json").write_bytes(b"{}")
    activations = msgspec.structs.replace(
        manifest.files[0], name="network.int8.json", role="activations", precision="int8", bytes=2
    )
    content = encode_manifest(msgspec.structs.replace(manifest, files=(*manifest.files, activations)))
    (target / "manifest.json").write_bytes(content)
    with pytest.raises(OutputError, match=r"would lack what int8 needs \(flare-export int8\); .*--force to go on"):
        export_bundle(model, target, Naming())
    assert (target / "manifest.json").read_bytes() == content
    assert export_bundle(model, target, Naming(), force=True)[0].activations() == []


def test_a_network_that_disagrees_leaves_no_bundle(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network is damaged after its ONNX was taken from it, as a broken converter would do in reverse."""
    from flare_export.bundle import conversion

    def broken(network: torch.nn.Module, *args: Any) -> bytes:
        damaged = next(m for m in network.modules() if isinstance(m, torch.nn.InstanceNorm3d))
        with torch.no_grad():
            damaged.weight.mul_(1.2)
        return genuine(network, *args)

    genuine = conversion.to_onnx
    monkeypatch.setattr(conversion, "to_onnx", broken)
    with pytest.raises(DisagreementError, match="differs from PyTorch"):
        export_bundle(ModelFolder.read(folder), tmp_path / "bundle", Naming())
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.slow
def test_a_killed_export_leaves_the_old_bundle_and_what_the_next_one_sweeps(folder: Path, tmp_path: Path) -> None:
    target, scratch = tmp_path / "out" / "bundle", tmp_path / "scratch"
    scratch.mkdir()
    command = [sys.executable, "-m", "flare_export.cli", str(folder), "-o", str(target)]
    environment = {**os.environ, "TMPDIR": str(scratch)}
    subprocess.run([*command, "--name", "old"], env=environment, check=True)
    for delay_s in (0.0, 0.3):
        with subprocess.Popen([*command, "--name", "new"], env=environment) as killed:
            while killed.poll() is None and len(list(target.parent.iterdir())) < 2:
                time.sleep(0.005)
            time.sleep(delay_s)
            killed.kill()
        assert Bundle.open(target).manifest.name == "old"
        assert len(list(target.parent.iterdir())) > 1
        subprocess.run([*command, "--name", "old"], env=environment, check=True)
        assert [path.name for path in target.parent.iterdir()] == ["bundle"]
        assert list(scratch.iterdir()) == []


def test_the_command_says_in_one_line_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([str(tmp_path / "nowhere"), "-o", str(tmp_path / "bundle")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "plans.json" in error


def test_another_folder_than_the_models_is_told_where_models_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([str(tmp_path), "-o", str(tmp_path / "bundle")]) == 3
    where = "nnUNet_results/DATASET/TRAINER__PLANS__CONFIGURATION"
    assert capsys.readouterr().err == (
        f"flare-export: {tmp_path}: holds no plans.json; give nnU-Net's model folder, {where}\n"
    )


def test_the_command_exports(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for other in ("fold_3", "fold_all"):  # one without the checkpoint, one that numbered folds go before
        shutil.copytree(folder / "fold_0", folder / other)
    (folder / "fold_3" / "checkpoint_final.pth").unlink()
    assert cli.main([str(folder), "-o", str(tmp_path / "bundle")]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[0] == f"{folder}: 3d_fullres, checkpoint_final.pth of fold 0; left out: 3, all"
    assert "openvino fp32 against torch" in said
    assert Bundle.open(tmp_path / "bundle").manifest.name == f"Dataset999_Tiny {CONFIGURATION}"
