"""The Makefile's own decisions: an environment that is half made, and targets that lack a variable."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def make(*words: str) -> "subprocess.CompletedProcess[str]":
    outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(["make", *words], cwd=ROOT, env=outside, capture_output=True, text=True, timeout=300)


def test_an_environment_that_was_left_without_pip_is_made_anew(tmp_path):
    lacking = tmp_path / "python3-without-venv"  # as Debian's python3 without python3-venv: no pip, and a failure
    lacking.write_text(f"#!/bin/sh\npython3 -m venv --without-pip {tmp_path}/env && exit 1\n")
    lacking.chmod(0o755)
    environment, pip = f"VENV={tmp_path}/env", f"{tmp_path}/env/bin/pip"
    assert make(environment, f"PYTHON={lacking}", pip).returncode == 2
    assert (tmp_path / "env/bin/python").exists()
    done = make(environment, pip)
    assert done.returncode == 0, done.stderr
    assert Path(pip).exists()


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (("export-onnx",), "make export-onnx: also give FOLDER=the nnU-Net trained-model folder"),
        (("export-onnx", "FOLDER=x"), "make export-onnx: also give BUNDLE=the folder to write"),
        (("parity", "FOLDER=x"), 'make parity: also give CASES="a_0000.nii.gz b_0000.nii.gz"'),
        (("train",), "make train: also give DATA=folder of a FLARE-style data set (docs/how-to/training.md)"),
        (("default-model",), "make default-model: also give SARCOMAS=folder of the sarcomas"),
    ],
)
def test_a_target_asks_for_what_it_lacks_before_it_installs_anything(words, asked, tmp_path):
    done = make(*words, f"VENV={tmp_path}/env")
    assert done.returncode == 2
    assert done.stderr.startswith(asked)
    assert not (tmp_path / "env").exists()
