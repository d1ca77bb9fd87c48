"""Numbers on the command line that make no sense are refused before anything is read."""

import pytest

from flare_train.arguments import parse_args


@pytest.mark.parametrize(
    ("command", "option", "value"),
    [
        ("run", "--augmenters", "-1"),
        ("run", "--gpus", "-1"),
        ("run", "--seed", "-1"),
        ("run", "--learning-rate", "0"),
        ("run", "--learning-rate", "nan"),
        ("run", "--epochs", "0"),
        ("run", "--fold", "5"),
        ("plan", "--batch-size", "0"),
    ],
)
def test_a_number_out_of_range_is_a_usage_error(command, option, value, capsys):
    with pytest.raises(SystemExit) as caught:
        parse_args([command, "701", option, value])
    assert caught.value.code == 2
    assert option in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", "", "-o", "out"],
        ["inspect", "in", "-o", ""],
        ["select", "", "-o", "out"],
        ["select", "facts.jsonl", "-o", ""],
        ["run", "701", "--validation", ""],
        ["run", "701", "--initial-weights", ""],
        ["report", "", "-o", "out"],
        ["report", "run", "-o", ""],
        ["lint", ""],
    ],
)
def test_an_empty_name_is_not_the_current_folder(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        parse_args(arguments)
    assert caught.value.code == 2
    assert "an empty name" in capsys.readouterr().err


@pytest.mark.parametrize("values", [["0", "1.6", "1.6"], ["-2.4", "1.6", "1.6"], ["inf", "1.6", "1.6"]])
def test_a_spacing_is_above_zero(values):
    with pytest.raises(SystemExit):
        parse_args(["plan", "701", "--spacing", *values])


def test_the_defaults_are_the_papers():
    args = parse_args(["run", "701"])
    assert (args.epochs, args.extension, args.iterations, args.optimizer, args.learning_rate) == (
        2000,
        500,
        250,
        "sgd",
        1e-3,
    )
    assert not args.small_lesions
