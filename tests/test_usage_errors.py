"""Errors of command lines: one line and exit code 2 from every command, with what was meant where it can be told."""

from importlib import import_module

import pytest

from flare_runtime.program.parser import Parser, meant
from tests.reference_pages import PROGRAMS


def error_of(program, words, capsys):
    with pytest.raises(SystemExit) as caught:
        import_module(PROGRAMS[program]).main(words)
    assert caught.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.endswith("\n")
    return output.err.removesuffix("\n")


@pytest.mark.parametrize(
    ("program", "words", "line"),
    [
        ("flare-infer", "-i a", "the following arguments are required: -o/--output; see flare-infer --help"),
        ("flare-infer", "-i a -o b --precison=int8", "--precison: there is no such option; did you mean --precision?"),
        ("flare-infer", "-i a --ouptut b", "--ouptut: there is no such option; did you mean --output?"),
        ("flare-infer", "-i a -output b", "-output: there is no such option; did you mean --output?"),
        ("flare-infer", "-i a -o b -device cpu", "-device: there is no such option; did you mean --device?"),
        ("flare-infer", "-i a -o b --xyz", "--xyz: there is no such option; see flare-infer --help"),
        ("flare-infer", "-i a -o b --threads two", "argument --threads: 'two' is no number; see flare-infer --help"),
        ("flare-infer", "-i a -o b --step half", "argument --step: 'half' is no number; see flare-infer --help"),
        ("flare-infer", "chek scan.nii", "chek: is no command; an input goes behind -i; did you mean check?"),
        ("flare-infer check", "s --recursve", "--recursve: there is no such option; did you mean --recursive?"),
        ("flare-infer completion", "bsh", "argument SHELL: 'bsh' is none of bash, zsh; did you mean bash?"),
        ("flare-infer status", "out --jsn", "--jsn: there is no such option; did you mean --json?"),
        ("flare-infer ray", "-i a -o b --xyz 2", "--xyz: there is no such option; see flare-infer ray --help"),
        (
            "flare-infer slurm",
            "-i a -o b --tasks 2 --executor lcoal",
            "argument --executor: 'lcoal' is none of slurm, local, debug; did you mean local?",
        ),
        ("flare-export", "model --fodls 0", "--fodls: there is no such option; did you mean --folds?"),
        ("flare-export trt", "bundle --bacth 1", "--bacth: there is no such option; did you mean --batch?"),
        (
            "flare-export trt",
            "b --builder rxt",
            "argument --builder: 'rxt' is none of tensorrt, rtx; did you mean rtx?",
        ),
        (
            "flare-eval",
            "acuracy",
            "argument command: 'acuracy' is none of accuracy, efficiency, report; did you mean accuracy?",
        ),
        ("flare-eval accuracy", "--refrence a", "--refrence: there is no such option; did you mean --reference?"),
        (
            "flare-eval report",
            "a -o b --gallery few",
            "argument --gallery: 'few' is no number; see flare-eval report --help",
        ),
        (
            "flare-train run",
            "7 --optimizer sdg",
            "argument --optimizer: 'sdg' is none of sgd, adamw; did you mean sgd?",
        ),
        ("flare-train plan", "7 --pathc 1 2 3", "--pathc: there is no such option; did you mean --patch?"),
        (
            "python -m flare_phantom",
            "--kind trnk",
            "argument --kind: 'trnk' is none of trunk, thigh; did you mean trunk?",
        ),
        ("python -m flare_eval.show", "--imges a", "--imges: there is no such option; did you mean --images?"),
    ],
)
def test_an_error_is_one_line_that_names_what_was_meant(program, words, line, capsys):
    name = max((name for name in PROGRAMS if program.startswith(name)), key=len)
    command = program.removeprefix(name).split()
    assert error_of(name, [*command, *words.split()], capsys) == f"{program}: {line}"


@pytest.mark.parametrize("word", ["--\x1b[31mred\n", "--threads=\x1b[31m\n1", "x\x1b[2J"])
def test_nothing_that_was_given_acts_on_a_terminal(word, capsys):
    assert error_of("flare-infer", ["-i", "a", "-o", "b", word], capsys).isprintable()


def test_an_option_is_written_in_full(capsys):
    line = "--p: there is no such option; did you mean --precision or --probabilities or --preview?"
    assert error_of("flare-infer", ["-i", "a", "-o", "b", "--p", "int8"], capsys) == f"flare-infer: {line}"


def test_what_begins_with_a_dash_and_is_no_option_is_taken():
    parser = Parser(prog="x")
    parser.add_argument("-n", type=float)
    parser.add_argument("--text")
    parser.add_argument("rest", nargs="*")
    args = parser.parse_args(["-n", "-2.5", "--text", "-a b", "-", "--", "--odd"])
    assert (args.n, args.text, args.rest) == (-2.5, "-a b", ["-", "--odd"])
    assert parser.parse_args(["-n3"]).n == 3


def test_what_is_like_nothing_means_nothing():
    assert meant("", ["bash", "zsh"]) == meant("cmd", ["bash", "zsh"]) == ""
    assert meant("ba", ["bash", "zsh", "bat"]) == "; did you mean bash or bat?"
