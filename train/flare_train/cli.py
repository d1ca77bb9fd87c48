"""`flare-train`: look at a training set, choose from it, and plan the network."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from flare_runtime.command_line import exit_code_of, positive
from flare_runtime.errors import UsageError
from flare_train.plan import PATCH, PRESETS, SPACING_MM

EXIT_CODES = "exit codes: 0 done; 1 internal error; 2 usage; 4 the plan has errors; 6 output"
_PLAN_IS_WRONG = 4


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="flare-train", description=__doc__, epilog=EXIT_CODES)
    commands = parser.add_subparsers(dest="command", required=True)
    inspect = commands.add_parser("inspect", help="statistics by source, and what is wrong with which file")
    inspect.add_argument("dataset", type=Path, help="folder of a FLARE-style data set")
    inspect.add_argument("-o", "--output", type=Path, required=True, help="gets facts.jsonl, summary.json, sources.png")
    _add_workers(inspect)
    inspect.set_defaults(run=run_inspect)
    select = commands.add_parser("select", help="choose the cases to train on and link them as an nnU-Net data set")
    select.add_argument("facts", type=Path, help="facts.jsonl of `inspect`")
    select.add_argument(
        "-o", "--output", type=Path, required=True, help="the raw data set, .../nnUNet_raw/DatasetXXX_Name"
    )
    select.add_argument(
        "--keep-pseudo-labels", action="store_true", help="keep DeepLesion's; the paper leaves them out"
    )
    select.add_argument("--keep-empty", action="store_true", help="keep cases without a lesion")
    select.add_argument(
        "--cap", type=positive, metavar="N", help="at most N cases of a source (default: the paper's, none)"
    )
    select.add_argument("--exclude", nargs="+", default=[], metavar="STEM", help="leave these cases out")
    select.set_defaults(run=run_select)
    plan = commands.add_parser("plan", help="write nnU-Net plans for a raw data set; say what the network amounts to")
    plan.add_argument("dataset", help="number or name of an nnU-Net raw data set")
    plan.add_argument("--preset", choices=PRESETS, default="s4", help="the network (default: %(default)s)")
    plan.add_argument("--spacing", type=float, nargs=3, default=SPACING_MM, metavar=("Z", "Y", "X"), help="mm")
    plan.add_argument("--patch", type=int, nargs=3, default=PATCH, metavar=("Z", "Y", "X"), help="voxels")
    plan.add_argument("--name", help="of the plans (default: flare_PRESET)")
    _add_workers(plan)
    plan.set_defaults(run=run_plan)
    lint = commands.add_parser("lint", help="find the traps in any nnU-Net plans file")
    lint.add_argument("plans", type=Path)
    lint.add_argument("--checkpoint", type=Path, help="compare its stage count with the plans'")
    lint.set_defaults(run=run_lint)
    return parser.parse_args(argv)


def _add_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workers", type=positive, default=os.cpu_count() or 1, metavar="N", help="processes (default: all)"
    )


def run_inspect(args: argparse.Namespace) -> int:
    """Inspect every case; write facts, summary and plot; print the table and what is wrong."""
    import msgspec
    from tqdm import tqdm

    from flare_eval.tables import markdown
    from flare_runtime.output import check_folder, replacing
    from flare_runtime.record import write_json
    from flare_train import summary
    from flare_train.cases import find_cases
    from flare_train.inspection import CaseFacts, inspect_cases

    cases = find_cases(args.dataset)
    check_folder(args.output)

    def bar(facts: Iterable[CaseFacts], count: int) -> Iterable[CaseFacts]:
        wrapped: Iterable[CaseFacts] = tqdm(facts, total=count, unit="case", leave=False, disable=None)
        return wrapped

    facts = list(inspect_cases(cases, min(args.workers, len(cases)), bar))
    with replacing(args.output / "facts.jsonl") as file:
        file.write(b"".join(msgspec.json.encode(case) + b"\n" for case in facts))
    statistics = summary.summarise(facts)
    write_json(args.output / "summary.json", statistics)
    summary.draw(facts, args.output / "sources.png")
    print(markdown(*summary.table(statistics)))
    for case in facts:
        for message in case.messages:
            print(message, file=sys.stderr)
    return 0


def run_select(args: argparse.Namespace) -> int:
    """Choose, write the manifest, link the data set, and print how many were kept and why others were not."""
    from collections import Counter

    import msgspec

    from flare_train.inspection import CaseFacts
    from flare_train.selection import select, write_manifest, write_raw_dataset

    try:
        with args.facts.open("rb") as file:
            facts = [msgspec.json.decode(line, type=CaseFacts) for line in file]
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(
            f"{args.facts}: cannot be read ({error}); give facts.jsonl of `flare-train inspect`"
        ) from error
    choices = select(
        facts,
        pseudo_labels=args.keep_pseudo_labels,
        empty_labels=args.keep_empty,
        cap=args.cap,
        exclude=args.exclude,
    )
    kept = write_raw_dataset(choices, args.output)
    write_manifest(choices, args.output / "selection.jsonl")
    print(f"{kept} of {len(choices)} cases kept")
    for reason, count in Counter(choice.reason for choice in choices if not choice.kept).most_common():
        print(f"  {count} dropped: {reason}")
    return 0


def run_plan(args: argparse.Namespace) -> int:
    """Fingerprint the data set with nnU-Net, write the plans, and print the network's size."""
    from flare_runtime.output import replacing
    from flare_train.fingerprint import fingerprint
    from flare_train.network_size import network_size
    from flare_train.plan import CONFIGURATION, make_plans

    preset = PRESETS[args.preset]
    if any(side % preset.reduction for side in args.patch):
        raise UsageError(f"the patch {tuple(args.patch)} has to be a multiple of {preset.reduction} along every axis")
    found = fingerprint(args.dataset, args.workers)
    name = args.name or f"flare_{preset.name}"
    plans = make_plans(
        found.content, found.dataset_name, name, preset.features, spacing_mm=args.spacing, patch=args.patch
    )
    target = found.preprocessed / f"{name}.json"
    with replacing(target) as file:
        file.write(json.dumps(plans, indent=2).encode() + b"\n")
    print(target)
    for line in network_size(plans["configurations"][CONFIGURATION]).lines:
        print(f"  {line}")
    return _tell_findings(plans)


def run_lint(args: argparse.Namespace) -> int:
    """Print what is wrong with a plans file."""
    from flare_export.checkpoint import load_checkpoint
    from flare_export.plans import read_json

    weights = load_checkpoint(args.checkpoint, "all").weights if args.checkpoint else None
    return _tell_findings(read_json(args.plans), weights)


def _tell_findings(plans: dict[str, Any], weights: Any = None) -> int:
    from flare_train.plan_lint import lint

    findings = lint(plans, weights)
    for finding in findings:
        print(finding, file=sys.stderr)
    return _PLAN_IS_WRONG if any(finding.severity == "error" for finding in findings) else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    args = parse_args(argv)
    return exit_code_of("flare-train", lambda: int(args.run(args)), "train")


if __name__ == "__main__":
    sys.exit(main())
