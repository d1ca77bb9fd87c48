"""What is asked before segmenting: `flare-infer list`, `info`, `doctor` and `check`."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from flare_runtime import BundleError, RunOptions, Session, cli
from flare_runtime.backends import selection
from flare_runtime.backends.registry import engines_on
from flare_runtime.introspection import machine
from flare_runtime.introspection.machine import decide
from flare_runtime.model.bundle import Bundle, open_bundle
from tests.runtime.command_runs import SPACING, write_cohort
from tests.runtime.nifti_files import write_nifti


def asked(capsys, *words, code=0):
    assert cli.main([*map(str, words)]) == code
    return capsys.readouterr().out


def test_the_bundles_of_the_shipped_model_and_of_named_folders_are_listed(tmp_path, tiny_bundle, monkeypatch, capsys):
    (tmp_path / "some").mkdir()
    shutil.copytree(tiny_bundle, tmp_path / "some" / "mine")
    (tmp_path / "some" / "no bundle").mkdir()
    shutil.copytree(tiny_bundle, tmp_path / "direct")
    monkeypatch.setenv("FLARE_BUNDLES", f"{tmp_path / 'some'}:{tmp_path / 'direct'}:")
    lines = asked(capsys, "list").splitlines()
    assert lines[1:] == [f"{tmp_path / 'some' / 'mine'}: tiny", f"{tmp_path / 'direct'}: tiny"]
    assert "models/default: soft-tissue sarcoma" in lines[0]
    (tmp_path / "direct" / "manifest.json").write_text("{}")
    found = json.loads(asked(capsys, "list", "--json", code=4))
    assert [one["name"] for one in found[1:]] == ["tiny", None]
    assert "schema version" in found[2]["problem"]


def test_a_folder_of_bundles_that_is_not_there_is_named(monkeypatch, capsys):
    monkeypatch.setenv("FLARE_BUNDLES", "/nowhere")
    assert cli.main(["list"]) == 2
    assert "FLARE_BUNDLES names /nowhere, which cannot be read" in capsys.readouterr().err


def test_a_home_of_nobody_is_a_usage_error(monkeypatch, capsys):
    monkeypatch.setenv("FLARE_BUNDLES", "~nobody-at-all/bundles")
    assert cli.main(["list"]) == 2
    assert "FLARE_BUNDLES is '~nobody-at-all/bundles': Could not determine home" in capsys.readouterr().err


def test_a_bundle_is_described(tiny_bundle, capsys):
    lines = dict(line.split(maxsplit=1) for line in asked(capsys, "info", tiny_bundle).splitlines())
    assert lines["labels"] == "1 lesion"
    assert lines["spacing"] == "2.5 x 1.5 x 1.5 mm (z, y, x)"
    assert lines["sha256"] == Bundle.open(tiny_bundle).sha256
    assert json.loads(asked(capsys, "info", tiny_bundle, "--json"))["name"] == "tiny"


def test_agreement_is_summed_up(capsys):
    text = asked(capsys, "info")
    assert "openvino bf16 with nnU-Net: 10 cases, Dice 0.9959 to 1.0000" in text
    assert "caution        research only" in text


def test_the_machine_is_described(tiny_bundle, capsys, monkeypatch):
    report = json.loads(asked(capsys, "doctor", "--json", "-m", tiny_bundle))
    assert report["auto"]["backend"] == "openvino"
    assert {key: value for key, value in report["engines"][0].items() if key != "precisions"} == {
        "name": "openvino",
        "device": "cpu",
        "installed": True,
    }
    assert report["environment"]["openvino"] != "not installed"
    text = asked(capsys, "doctor", "-m", tiny_bundle)
    assert f"auto     runs tiny on cpu with openvino in {report['auto']['precision']}" in text
    monkeypatch.setattr(machine, "_gpus", lambda: [{"index": 0, "name": "H", "memory_mib": 2048, "driver": "1"}])
    assert "GPU 0    H, 2,048 MiB, driver 1" in asked(capsys, "doctor", "-m", tiny_bundle)


def test_the_reason_for_a_precision_is_the_one_that_decided(monkeypatch):
    bundle = open_bundle()
    every = {"int8": True, "bf16": True}
    _let_the_cpu_compute(monkeypatch, every)
    assert decide(bundle).precision == "bf16"
    assert "int8: the bundle records no whole cases" in decide(bundle).reasons[-1]
    _let_the_cpu_compute(monkeypatch, {**every, "bf16": False})
    assert decide(bundle).precision == "fp32"
    assert "bf16: this CPU does not compute in it" in decide(bundle).reasons[-1]


def _let_the_cpu_compute(monkeypatch, precisions):
    first, *others = engines_on(gpu=False)
    engines = (replace(first, computes=precisions.__getitem__), *others)
    for module in (selection, machine):
        monkeypatch.setattr(module, "engines_on", lambda gpu: iter(() if gpu else engines))


def test_what_cannot_run_is_told_by_its_error(tiny_bundle, monkeypatch):
    def refuse(*_args):
        raise BundleError("no fp32 network in the bundle")

    monkeypatch.setattr(machine, "choose", refuse)
    assert decide(Bundle.open(tiny_bundle)).reasons == ["no fp32 network in the bundle"]


def test_a_check_says_what_a_run_does(tmp_path, tiny_bundle, capsys):
    scans = write_cohort(tmp_path / "scans")
    write_nifti(scans / "empty_0000.nii", np.zeros((8, 8, 8), np.int16), spacing_mm=SPACING)
    forecasts = json.loads(asked(capsys, "check", scans, "-m", tiny_bundle, "--json", code=4))
    tiles = {}

    def count(event):
        if hasattr(event, "total"):
            tiles[event.case] = event.total

    options = RunOptions(device="cpu", precision="fp32", threads=1)
    records = list(Session(tiny_bundle, options, listener=count).run(scans, tmp_path / "masks"))
    assert [(one["case"], one["reason"]) for one in forecasts] == [(one.case, one.reason) for one in records]
    assert [one["tiles"] for one in forecasts if not one["reason"]] == [tiles["a"], tiles["c"], 0]
    assert [one["memory_mib"] is None for one in forecasts] == [False, True, False, False]
    assert {path.name for path in tmp_path.iterdir()} == {"scans", "masks"}
    lines = asked(capsys, "check", scans, "-m", tiny_bundle, code=4).splitlines()
    assert lines[0].startswith("a: 16x17x18 voxels of 2.5 x 1.5 x 1.5 mm (z, y, x), ")
    assert lines[1].startswith("b: would be refused (truncated): b_0000.nii.gz: ")
    nested = asked(capsys, "check", tmp_path, "--recursive", "-m", tiny_bundle, code=4).splitlines()
    assert nested == [f"scans/{line}" for line in lines]


def test_a_folder_of_nnunet_is_told_apart_from_a_bundle(tiny_model, tmp_path, capsys):
    assert cli.main(["-i", str(tmp_path), "-o", str(tmp_path), "-m", str(tiny_model)]) == 7
    assert f"make a bundle of it first: flare-export {tiny_model} -o BUNDLE" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["info", "--wrong"], ["check"], ["doctor", "surplus"]])
def test_a_wrong_command_line_ends_with_2(words, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("flare-infer")
