"""What bash and zsh complete the words of `flare-infer` by."""

import subprocess
from shutil import which

import pytest

from flare_runtime import cli
from flare_runtime.introspection.completion import SHELLS, script_path
from tests.completion_scripts import CHOICES, scripts
from tests.reference_pages import parser_of

# Outside of a completion bash refuses `compopt`, which here says what it was asked for.
_COMPLETE = """\
compopt() { [[ $* == "-o default" ]] && echo FILES; }
source "$1"
shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_flare_infer
printf "%s\\n" "${COMPREPLY[@]}"
"""


def completed(*words):
    command = ["bash", "-c", _COMPLETE, "bash", str(script_path("bash")), *words]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert not result.stderr
    return result.stdout.split()


def test_the_scripts_are_made_of_the_parsers():
    for path, script in scripts().items():
        assert path.read_text(encoding="utf-8") == script, "run python -m tests.reference_pages"


@pytest.mark.parametrize("shell", SHELLS)
def test_the_command_prints_the_script(shell, capsys):
    assert cli.main(["completion", shell]) == 0
    assert capsys.readouterr().out == script_path(shell).read_text(encoding="utf-8")


def test_an_unknown_shell_is_refused(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["completion", "fish"])
    assert caught.value.code == 2
    assert "'fish' is none of bash, zsh" in capsys.readouterr().err


def test_the_choices_are_of_options_that_there_are():
    assert set(CHOICES) <= {action.dest for action in parser_of("flare-infer")._actions}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("flare-infer --prec", ["--precision"]),
        ("flare-infer --precision f", ["fp32", "fp16"]),
        ("flare-infer -i scans --crop b", ["body"]),
        ("flare-infer -i scans --output-type nifti,rt", ["nifti,rtstruct"]),
        ("flare-infer -i ", ["FILES"]),
        ("flare-infer -i scans -o masks --report rep", ["FILES"]),
        ("flare-infer --threads ", []),
        ("/usr/bin/flare-infer do", ["doctor"]),
        ("flare-infer info ", ["FILES"]),
        ("flare-infer info --j", ["--json"]),
        ("flare-infer check --tta", []),
        ("flare-infer doctor -m bun", ["FILES"]),
        ("flare-infer completion ", ["bash", "zsh"]),
    ],
)
def test_bash_completes(words, expected):
    assert completed(*words.split(" ")) == expected


def test_bash_completes_behind_an_equals_sign():
    assert completed("flare-infer", "--precision", "=", "b") == ["bf16"]
    assert completed("flare-infer", "--precision", "=") == ["auto", "fp32", "bf16", "int8", "fp16"]
    assert completed("flare-infer", "--report", "=") == ["FILES"]


def test_bash_offers_what_is_asked_before_segmenting_as_the_first_word_alone():
    assert {"list", "info", "doctor", "check"} <= set(completed("flare-infer", ""))
    assert "--input" in completed("flare-infer", "--tta", "")
    assert "list" not in completed("flare-infer", "--tta", "")


@pytest.mark.skipif(not which("zsh"), reason="zsh is not installed")
def test_zsh_reads_its_script():
    subprocess.run(["zsh", "-n", str(script_path("zsh"))], check=True, timeout=300)
