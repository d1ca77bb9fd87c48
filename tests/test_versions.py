"""Every command says which version it is of, and all say the same."""

import subprocess
import sys

import pytest

import flare_runtime

COMMANDS = {
    "flare_runtime": "flare-infer",
    "flare_runtime.cli": "flare-infer",
    "flare_export.cli": "flare-export",
    "flare_eval.cli": "flare-eval",
    "flare_train.cli": "flare-train",
}


@pytest.mark.parametrize(("module", "program"), COMMANDS.items(), ids=COMMANDS)
def test_every_command_says_its_version(module, program):
    if program in {"flare-train", "flare-export"}:
        pytest.importorskip("torch")
    command = [sys.executable, "-m", module, "--version"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout == f"{program} {flare_runtime.__version__}\n"
