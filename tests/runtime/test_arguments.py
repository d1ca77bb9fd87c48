"""The command line of `flare-infer`, before anything is done."""

import pytest

from flare_runtime import cli
from flare_runtime.arguments import parse_args
from tests.reference_pages import parser_of


def test_a_second_input_is_called_that(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["-i", "a.nii", "b.nii", "-o", "out"])
    assert caught.value.code == 2
    text = "b.nii: is one input too many; -i takes one image, or a folder that holds all of them"
    assert capsys.readouterr().err == f"flare-infer: {text}; see flare-infer --help\n"


@pytest.mark.parametrize("words", [["typo", "out"], ["ray", "typo"], ["slurm", "typo"]])
def test_a_word_that_is_no_command_is_called_that(words, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 2
    assert "typo: is no command; an input goes behind -i; see flare-infer" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "number"), [("2e9", 2_000_000_000), ("12", 12), ("1e3", 1000)])
def test_large_numbers_can_be_given_as_the_help_writes_them(text, number):
    assert parse_args(["-i", "a.nii", "-o", "b.nii", "--max-voxels", text]).max_voxels == number


@pytest.mark.parametrize("text", ["2.5", "1e-3", "inf", "nan", "-2e9", "0e0"])
def test_what_is_no_whole_number_is_none_in_any_spelling(text, capsys):
    with pytest.raises(SystemExit):
        parse_args(["-i", "a.nii", "-o", "b.nii", "--max-voxels", text])
    assert "argument --max-voxels: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["-i", "a.nii"],
        ["-i", "a.nii", "-o", "b.nii", "--threads", "0"],
        ["-i", "a.nii", "-o", "b.nii", "--threads", "two"],
        ["-i", "a.nii", "-o", "b.nii", "--max-voxels", "-5"],
        ["-i", "a.nii", "-o", "b.nii", "--step", "half"],
        ["-i", "a.nii", "-o", "b.nii", "--quiet", "--verbose"],
        ["-i", "a.nii", "-o", "b.nii", "--surprise"],
    ],
)
def test_a_wrong_command_line_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("flare-infer: ")


def test_the_help_groups_every_option():
    groups = {group.title: group._group_actions for group in parser_of("flare-infer")._action_groups}
    assert {"input", "network", "output", "this run"} < set(groups)
    assert [action.dest for action in groups["options"]] == ["help", "version"]
