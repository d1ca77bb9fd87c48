"""The command line of `flare-train`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

from flare_runtime.program.command_line import above_zero, natural, new_parser, path_of, positive
from flare_train.planning.plan import BATCH_SIZE, PATCH, PRESETS, SPACING_MM

DESCRIPTION = "Look at a training set, choose from it, plan the network, train it, report on it."
EXIT_CODES = """\
exit codes: 0 done; 1 internal error; 2 usage; 3 a plan, checkpoint or data set is refused; 4 the plan has errors, or
            the network holds no numbers any more; 5 device; 6 output; 130 interrupted
"""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = new_parser("flare-train", DESCRIPTION, EXIT_CODES)
    commands = parser.add_subparsers(dest="command", required=True)
    for add in (_add_inspect, _add_select, _add_plan, _add_run, _add_report, _add_lint):
        add(commands)
    return parser.parse_args(argv)


def _add_inspect(commands: Any) -> None:
    inspect = commands.add_parser("inspect", help="statistics by source, and what is wrong with which file")
    inspect.add_argument(
        "dataset",
        type=path_of,
        nargs="+",
        help="folder that holds images <case>_0000.nii.gz and labels <case>.nii.gz, at any depth",
    )
    inspect.add_argument(
        "-o", "--output", type=path_of, required=True, help="gets facts.jsonl, summary.json, sources.png"
    )
    _add_workers(inspect)


def _add_select(commands: Any) -> None:
    select = commands.add_parser("select", help="choose the cases to train on and link them as an nnU-Net data set")
    select.add_argument("facts", type=path_of, help="facts.jsonl of `inspect`")
    select.add_argument(
        "-o", "--output", type=path_of, required=True, help="the raw data set, .../nnUNet_raw/DatasetXXX_Name"
    )
    select.add_argument(
        "--keep-pseudo-labels", action="store_true", help="keep DeepLesion's; the paper leaves them out"
    )
    select.add_argument("--keep-empty", action="store_true", help="keep cases without a lesion")
    select.add_argument(
        "--cap", type=positive, metavar="N", help="at most N cases of a source (default: the paper's, none)"
    )
    select.add_argument(
        "--exclude", nargs="+", default=[], metavar="STEM", help="leave these cases out; patterns are allowed"
    )
    select.add_argument(
        "--validation", nargs="+", default=[], metavar="STEM", help="hold these out of fold 0; patterns are allowed"
    )
    select.add_argument(
        "--partial", nargs="+", default=[], metavar="SOURCE", help="of these, only what is near a lesion is trained on"
    )
    select.add_argument(
        "--ignore-beyond", type=above_zero, default=20.0, metavar="MM", help="around --partial's lesions (default: 20)"
    )
    _add_workers(select)


def _add_plan(commands: Any) -> None:
    plan = commands.add_parser("plan", help="write nnU-Net plans for a raw data set; say what the network amounts to")
    plan.add_argument("dataset", help="number or name of an nnU-Net raw data set")
    plan.add_argument("--preset", choices=PRESETS, default="s4", help="the network (default: %(default)s)")
    plan.add_argument(
        "--features", type=positive, nargs="+", metavar="N", help="per stage, in place of the preset's; so many stages"
    )
    plan.add_argument("--spacing", type=above_zero, nargs=3, default=SPACING_MM, metavar=("Z", "Y", "X"), help="mm")
    plan.add_argument("--patch", type=positive, nargs=3, default=PATCH, metavar=("Z", "Y", "X"), help="voxels")
    plan.add_argument("--batch-size", type=positive, default=BATCH_SIZE, help="patches a step (default: %(default)s)")
    plan.add_argument("--name", help="of the plans (default: flare_PRESET)")
    _add_workers(plan)


def _add_run(commands: Any) -> None:
    run = commands.add_parser("run", help="train, in stretches with a validation after each; again to resume")
    run.add_argument("dataset", help="number or name of an nnU-Net raw data set that was planned")
    run.add_argument("--plans", default="flare_s4", help="name of the plans (default: %(default)s)")
    run.add_argument(
        "--fold", choices=("all", *"01234"), help="to train (default: 0 where `select` held cases out, else all)"
    )
    run.add_argument("--validation", type=path_of, metavar="DATASET", help="validate on these, not the fold's own")
    run.add_argument("--epochs", type=positive, default=2000, help="of the first stretch (default: %(default)s)")
    run.add_argument("--extension", type=positive, default=500, help="epochs added at a time (default: %(default)s)")
    run.add_argument("--last", type=positive, help="epochs at most (default: 5000, or --epochs if that is more)")
    run.add_argument(
        "--patience", type=positive, default=1, metavar="N", help="validations without a better DSC (default: 1)"
    )
    run.add_argument("--iterations", type=positive, default=250, help="batches an epoch (default: %(default)s)")
    run.add_argument("--val-iterations", type=positive, default=50, help="for the pseudo Dice (default: %(default)s)")
    run.add_argument("--optimizer", choices=("sgd", "adamw"), default="sgd", help="(default: %(default)s)")
    run.add_argument("--learning-rate", type=above_zero, default=1e-3, help="of the first epoch (default: %(default)s)")
    run.add_argument("--weight-decay", type=above_zero, default=3e-5, help="(default: %(default)s)")
    run.add_argument("--initial-weights", type=path_of, metavar="CHECKPOINT", help="begin with these weights")
    run.add_argument("--small-lesions", action="store_true", help="draw small lesions as often as large ones")
    run.add_argument("--seed", type=natural, default=0)
    run.add_argument(
        "--gpus", type=natural, metavar="N", help="how many; 0 for the CPU (default: 1 where there is one)"
    )
    run.add_argument("--augmenters", type=natural, metavar="N", help="augmentation processes; 0 for reproducible runs")
    run.add_argument("--country", help="three-letter code; measures energy and CO2 with codecarbon")
    _add_workers(run)


def _add_report(commands: Any) -> None:
    report = commands.add_parser("report", help="a training run as Markdown and HTML, with the paper's Tables 1 and 2")
    report.add_argument("trained", type=path_of, metavar="RUN", help="folder of a trained fold, or of a model with one")
    report.add_argument("-o", "--output", type=path_of, required=True, help="gets report.md, report.html, charts/")


def _add_lint(commands: Any) -> None:
    lint = commands.add_parser("lint", help="find the traps in any nnU-Net plans file")
    lint.add_argument("plans", type=path_of)
    lint.add_argument("--checkpoint", type=path_of, help="compare its stage count with the plans'")


def _add_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workers", type=positive, default=os.cpu_count() or 1, metavar="N", help="processes (default: all)"
    )
