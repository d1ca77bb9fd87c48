"""`flare-train` from a folder of files to plans that nnU-Net reads."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("nnunetv2")

from flare_train.cli import main
from tests.eval.nifti_masks import cube, write

SHAPE = (20, 24, 24)
LABEL = cube(SHAPE, (5, 6, 6), (12, 15, 15))


@pytest.fixture
def dataset(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(3):
        image = np.where(LABEL, 60, -300) + rng.normal(0, 20, SHAPE)
        write(tmp_path / "data" / "images" / f"STS_{number:03d}_0000.nii.gz", image.astype(np.int16))
        write(tmp_path / "data" / "labels" / f"STS_{number:03d}.nii.gz", LABEL)
    (tmp_path / "data" / "labels" / "STS_002.nii.gz").write_bytes(b"torn")
    return tmp_path


def inspect(root):
    return main(["inspect", str(root / "data"), "-o", str(root / "facts"), "--workers", "1"])


def test_from_files_to_plans(dataset, capsys):
    assert inspect(dataset) == 0
    output = capsys.readouterr()
    assert "| STS | 3 | 2 |" in output.out
    assert "STS_002" in output.err
    assert {path.name for path in (dataset / "facts").iterdir()} == {"facts.jsonl", "summary.json", "sources.png"}

    raw = dataset / "raw" / "Dataset811_Test"
    assert main(["select", str(dataset / "facts" / "facts.jsonl"), "-o", str(raw)]) == 0
    assert "2 of 3 cases kept" in capsys.readouterr().out

    # A process of its own: nnU-Net reads the names of its folders once, at import.
    folders = {name: str(dataset / name.removeprefix("nnUNet_")) for name in ("nnUNet_raw", "nnUNet_preprocessed")}
    command = [sys.executable, "-m", "flare_train.cli", "plan", "811", "--workers", "1"]
    done = subprocess.run(command, env={**os.environ, **folders}, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    assert "5,602,950 parameters" in done.stdout
    made = dataset / "preprocessed" / "Dataset811_Test"
    plans = json.loads((made / "flare_s4.json").read_text(encoding="utf-8"))
    assert plans["dataset_name"] == "Dataset811_Test"
    assert 40 < plans["foreground_intensity_properties_per_channel"]["0"]["mean"] < 80
    assert (made / "dataset.json").is_file()
    assert main(["lint", str(made / "flare_s4.json")]) == 0


def test_a_case_whose_name_is_no_plain_text_is_inspected_and_left_out(dataset, capsys):
    for name in map(os.fsdecode, (b"M\xfcller", b"two\nlines\x1b[2J")):
        write(dataset / "data" / "images" / f"{name}_0000.nii.gz", LABEL.astype(np.int16))
        write(dataset / "data" / "labels" / f"{name}.nii.gz", LABEL)
    assert inspect(dataset) == 0
    output = capsys.readouterr()
    assert r"M\xfcller: the image's path is no plain text; rename it" in output.err.splitlines()
    assert r"two\nlines\x1b[2J: the label's path is no plain text; rename it" in output.err.splitlines()
    assert "\x1b" not in output.out + output.err
    facts = [json.loads(line) for line in (dataset / "facts" / "facts.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {r"M\xfcller", r"two\nlines\x1b[2J"} <= {case["stem"] for case in facts}
    assert main(["select", str(dataset / "facts" / "facts.jsonl"), "-o", str(dataset / "raw")]) == 0
    assert "  2 dropped: odd_name_image, odd_name_label" in capsys.readouterr().out
    assert {path.name for path in (dataset / "raw" / "labelsTr").iterdir()} == {"STS_000.nii.gz", "STS_001.nii.gz"}


def test_a_folder_without_a_case_is_an_error(dataset, capsys):
    (dataset / "empty").mkdir()
    code = main(["inspect", str(dataset / "data"), str(dataset / "empty"), "-o", str(dataset / "facts")])
    assert code == 2
    assert capsys.readouterr().err == (
        f"flare-train: {dataset}/empty: no image and no label of any case there, however deep; leave it out\n"
    )


ODD_FACTS = {
    "no UTF-8": b'{"stem": "\xff\xfe"}',
    "no JSON": b"stem",
    "deep": b"[" * 100_000,
    "deep and closed": b'{"stem": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    "no object": b"null",
    "a field is missing": b'{"stem": "a"}',
    "a wrong type": b'{"stem": 1, "source": "STS"}',
    "a name that leads elsewhere": b'{"stem": "../a", "source": "STS"}',
    "a file of no name": b'{"stem": "a", "source": "STS", "image": "/data/a\\u0000b"}',
    "an empty line": b'{"stem": "a", "source": "STS"}\n\n',
}


@pytest.mark.parametrize("content", ODD_FACTS.values(), ids=ODD_FACTS.keys())
def test_facts_that_cannot_be_read_are_one_line_and_code_2(tmp_path, capsys, content):
    file = tmp_path / "facts.jsonl"
    file.write_bytes(content)
    assert main(["select", str(file), "-o", str(tmp_path / "raw")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith(f"flare-train: {file}: cannot be read (")
    assert not (tmp_path / "raw").exists()


def test_facts_from_a_pipe_do_not_wait(tmp_path):
    os.mkfifo(tmp_path / "facts.jsonl")
    command = [sys.executable, "-m", "flare_train.cli", "select", tmp_path / "facts.jsonl", "-o", tmp_path / "raw"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 2
    assert "it is no plain file" in run.stderr


def test_a_table_that_nobody_sees_costs_no_facts(dataset):
    command = [sys.executable, "-m", "flare_train.cli", "inspect", dataset / "data", "-o", dataset / "facts"]
    shell = ["bash", "-c", '"$@" >&- 2>/dev/full', "bash", *map(str, command), "--workers", "2"]
    assert subprocess.run(shell, check=False, timeout=300).returncode == 0
    assert len((dataset / "facts" / "facts.jsonl").read_text(encoding="utf-8").splitlines()) == 3


def test_a_plan_with_a_trap_is_code_4(tmp_path, capsys):
    from flare_train.planning.plan import S6, make_plans
    from tests.train.test_plan import FINGERPRINT

    plans = make_plans(FINGERPRINT, "D", "p", S6.features)
    plans["configurations"]["3d_fullres"]["n_conv_per_stage_encoder"] = [2, 2, 2, 2]
    (tmp_path / "plans.json").write_text(json.dumps(plans))
    assert main(["lint", str(tmp_path / "plans.json")]) == 4
    assert "n_conv_per_stage_encoder" in capsys.readouterr().err


# As in an installation without extras: torch and nnU-Net cannot be imported.
LEAN = """
import sys
sys.modules |= dict.fromkeys(("torch", "nnunetv2", "onnx", "matplotlib"))
from flare_train.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_sound_plan_is_said_to_be_sound_without_torch(tmp_path):
    from flare_train.planning.plan import S6, make_plans
    from tests.train.test_plan import FINGERPRINT

    file = tmp_path / "plans.json"
    file.write_text(json.dumps(make_plans(FINGERPRINT, "D", "p", S6.features)))
    run = subprocess.run([sys.executable, "-c", LEAN, "lint", file], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, f"{file}: nothing wrong in 3d_fullres\n", "")


def test_an_inspection_without_its_plot_is_refused_before_the_work(dataset):
    command = ["inspect", dataset / "data", "-o", dataset / "facts", "--workers", "1"]
    run = subprocess.run([sys.executable, "-c", LEAN, *command], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith("flare-train: matplotlib is not installed; pip install '.[train]'")
    assert not (dataset / "facts").exists()


def test_selecting_into_the_root_folder_asks_for_the_variable(dataset, capsys):
    assert inspect(dataset) == 0
    capsys.readouterr()
    assert main(["select", str(dataset / "facts" / "facts.jsonl"), "-o", "/Dataset811_Test"]) == 2
    assert capsys.readouterr().err == "flare-train: /Dataset811_Test: lies in the root folder; is nnUNet_raw set?\n"
    assert not os.path.lexists("/Dataset811_Test")


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", "nowhere", "-o", "out"],
        ["select", "nowhere.jsonl", "-o", "out"],
        ["plan", "811", "--patch", "100", "160", "160"],
        ["lint", "nowhere.json"],
    ],
)
def test_what_makes_no_sense_is_one_line_and_code_2(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("name", ["facts.jsonl", "summary.json", "sources.png"])
def test_inspecting_replaces_no_file_of_somebody_else(dataset, capsys, name):
    target = dataset / "facts" / name
    target.parent.mkdir()
    if name.endswith(".png"):
        target.symlink_to(dataset / "precious.png")
    else:
        target.write_text('{"name": "a web project"}')
    assert inspect(dataset) == 6
    assert name in capsys.readouterr().err
    assert target.is_symlink() or target.read_text(encoding="utf-8") == '{"name": "a web project"}'
    assert [path.name for path in target.parent.iterdir()] == [name]
    target.unlink()
    assert (inspect(dataset), inspect(dataset)) == (0, 0)


def test_a_plan_replaces_nothing_but_a_plan(tmp_path, monkeypatch, capsys):
    from flare_train.data.nnunet_folders import DatasetFolders

    (tmp_path / "dataset.json").write_text('{"labels": {}}')
    folders = DatasetFolders("Dataset811_Test", 811, tmp_path, tmp_path)
    monkeypatch.setattr("flare_train.data.nnunet_folders.find_dataset", lambda _dataset: folders)
    assert main(["plan", "811", "--name", "dataset"]) == 6
    assert "dataset.json: was not written by this command" in capsys.readouterr().err
    assert (tmp_path / "dataset.json").read_text(encoding="utf-8") == '{"labels": {}}'


def test_planning_says_which_folders_nnunet_needs(monkeypatch, capsys):
    for name in ("nnUNet_raw", "nnUNet_preprocessed"):
        monkeypatch.delenv(name, raising=False)
    assert main(["plan", "811"]) == 2
    assert "nnUNet_raw and nnUNet_preprocessed" in capsys.readouterr().err
