"""`flare-train`: look at a training set, choose from it, plan the network, train it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flare_runtime.command_line import exit_code_of, positive
from flare_runtime.errors import UsageError
from flare_train.plan import BATCH_SIZE, PATCH, PRESETS, SPACING_MM

if TYPE_CHECKING:
    from flare_train.run import Run

EXIT_CODES = (
    "exit codes: 0 done; 1 internal error; 2 usage; 4 the plan has errors, or the loss is no number; 5 device; 6 output"
)
_PLAN_IS_WRONG = 4


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="flare-train", description=__doc__, epilog=EXIT_CODES)
    commands = parser.add_subparsers(dest="command", required=True)
    inspect = commands.add_parser("inspect", help="statistics by source, and what is wrong with which file")
    inspect.add_argument("dataset", type=Path, nargs="+", help="folder of a FLARE-style data set")
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
        "--ignore-beyond", type=float, default=20.0, metavar="MM", help="around --partial's lesions (default: 20)"
    )
    _add_workers(select)
    select.set_defaults(run=run_select)
    plan = commands.add_parser("plan", help="write nnU-Net plans for a raw data set; say what the network amounts to")
    plan.add_argument("dataset", help="number or name of an nnU-Net raw data set")
    plan.add_argument("--preset", choices=PRESETS, default="s4", help="the network (default: %(default)s)")
    plan.add_argument(
        "--features", type=positive, nargs="+", metavar="N", help="per stage, in place of the preset's; so many stages"
    )
    plan.add_argument("--spacing", type=float, nargs=3, default=SPACING_MM, metavar=("Z", "Y", "X"), help="mm")
    plan.add_argument("--patch", type=int, nargs=3, default=PATCH, metavar=("Z", "Y", "X"), help="voxels")
    plan.add_argument("--batch-size", type=positive, default=BATCH_SIZE, help="patches a step (default: %(default)s)")
    plan.add_argument("--name", help="of the plans (default: flare_PRESET)")
    _add_workers(plan)
    plan.set_defaults(run=run_plan)
    _add_run(commands)
    report = commands.add_parser("report", help="a training run as Markdown and HTML, with the paper's Tables 1 and 2")
    report.add_argument("trained", type=Path, metavar="RUN", help="folder of a trained fold, or of a model with one")
    report.add_argument("-o", "--output", type=Path, required=True, help="gets report.md, report.html, charts/")
    report.set_defaults(run=run_report)
    lint = commands.add_parser("lint", help="find the traps in any nnU-Net plans file")
    lint.add_argument("plans", type=Path)
    lint.add_argument("--checkpoint", type=Path, help="compare its stage count with the plans'")
    lint.set_defaults(run=run_lint)
    return parser.parse_args(argv)


def _add_run(commands: Any) -> None:
    run = commands.add_parser("run", help="train, in stretches with a validation after each; again to resume")
    run.add_argument("dataset", help="number or name of an nnU-Net raw data set that was planned")
    run.add_argument("--plans", default="flare_s4", help="name of the plans (default: %(default)s)")
    run.add_argument("--fold", choices=("all", *"01234"), default="all", help="to train (default: %(default)s)")
    run.add_argument("--validation", type=Path, metavar="DATASET", help="validate on these, not the fold's own")
    run.add_argument("--epochs", type=positive, default=2000, help="of the first stretch (default: %(default)s)")
    run.add_argument("--extension", type=positive, default=500, help="epochs added at a time (default: %(default)s)")
    run.add_argument("--last", type=positive, help="epochs at most (default: 5000, or --epochs if that is more)")
    run.add_argument(
        "--patience", type=positive, default=1, metavar="N", help="validations without a better DSC (default: 1)"
    )
    run.add_argument("--iterations", type=positive, default=250, help="batches an epoch (default: %(default)s)")
    run.add_argument("--val-iterations", type=positive, default=50, help="for the pseudo Dice (default: %(default)s)")
    run.add_argument("--optimizer", choices=("sgd", "adamw"), default="sgd", help="(default: %(default)s)")
    run.add_argument("--learning-rate", type=float, default=1e-3, help="of the first epoch (default: %(default)s)")
    run.add_argument("--weight-decay", type=float, default=3e-5, help="(default: %(default)s)")
    run.add_argument("--initial-weights", type=Path, metavar="CHECKPOINT", help="begin with these weights")
    run.add_argument("--small-lesions", action="store_true", help="draw small lesions as often as large ones")
    run.add_argument("--seed", type=int, default=0)
    run.add_argument("--gpus", type=int, metavar="N", help="how many; 0 for the CPU (default: 1 where there is one)")
    run.add_argument("--augmenters", type=int, metavar="N", help="augmentation processes; 0 for reproducible runs")
    run.add_argument("--country", help="three-letter code; measures energy and CO2 with codecarbon")
    _add_workers(run)
    run.set_defaults(run=run_training)


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

    cases = find_cases(*args.dataset)
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
    from flare_train.selection import MANIFEST, select, write_manifest, write_raw_dataset

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
        validation=args.validation,
        partial=args.partial,
        ignore_beyond_mm=args.ignore_beyond,
    )
    kept = write_raw_dataset(choices, args.output, args.workers)
    write_manifest(choices, args.output / MANIFEST)
    print(f"{kept} of {len(choices)} cases kept")
    if held_out := sum(choice.validation for choice in choices):
        print(f"  {held_out} of them to validate on (fold 0)")
    if partial := sum(choice.partial for choice in choices):
        print(f"  {partial} of them with labels that leave out what is beyond {args.ignore_beyond:g} mm of a lesion")
    for reason, count in Counter(choice.reason for choice in choices if not choice.kept).most_common():
        print(f"  {count} dropped: {reason}")
    return 0


def run_plan(args: argparse.Namespace) -> int:
    """Fingerprint the data set with nnU-Net, write the plans, and print the network's size."""
    from flare_runtime.output import replacing
    from flare_train.fingerprint import fingerprint
    from flare_train.network_size import network_size
    from flare_train.nnunet_folders import find_dataset
    from flare_train.plan import CONFIGURATION, Preset, make_plans

    preset = Preset(args.preset, tuple(args.features or PRESETS[args.preset].features))
    if any(side % preset.reduction for side in args.patch):
        raise UsageError(f"the patch {tuple(args.patch)} has to be a multiple of {preset.reduction} along every axis")
    dataset = find_dataset(args.dataset)
    content = fingerprint(dataset, args.workers)
    name = args.name or f"flare_{preset.name}"
    options = {"spacing_mm": args.spacing, "patch": args.patch, "batch_size": args.batch_size}
    plans = make_plans(content, dataset.name, name, preset.features, **options)
    target = dataset.preprocessed / f"{name}.json"
    with replacing(target) as file:
        file.write(json.dumps(plans, indent=2).encode() + b"\n")
    print(target)
    for line in network_size(plans["configurations"][CONFIGURATION]).lines:
        print(f"  {line}")
    return _tell_findings(plans)


def run_training(args: argparse.Namespace) -> int:
    """Preprocess if need be, train to the end of the schedule, and print where the best network is."""
    if args.augmenters is not None:  # before nnU-Net is imported
        os.environ.update(nnUNet_n_proc_DA=str(args.augmenters))
    from flare_train.plan import CONFIGURATION
    from flare_train.preprocessing import preprocess, read_plans
    from flare_train.training import train

    run = _run_of(args)
    plans = read_plans(run.dataset, run.plans)
    if code := _tell_findings(plans):
        return code
    batch = plans["configurations"][CONFIGURATION]["batch_size"]
    if run.gpus > batch:
        raise UsageError(
            f"--gpus {run.gpus}: the plan's batch of {batch} is too small; plan with a larger --batch-size"
        )
    preprocess(run.dataset, run.plans, args.workers)
    record = train(run)
    kept = f"checkpoint_epoch_{record.best.epochs}.pth" if record.best else "checkpoint_final.pth"
    print(f"flare-export {run.model_folder} --fold {run.fold} --checkpoint {kept} -o BUNDLE")
    return 0


def _run_of(args: argparse.Namespace) -> Run:
    import torch

    from flare_train.nnunet_folders import RESULTS, find_dataset
    from flare_train.recipe import Recipe
    from flare_train.run import Run
    from flare_train.schedule import Schedule

    if args.initial_weights and not args.initial_weights.is_file():
        raise UsageError(f"{args.initial_weights}: there is no such checkpoint")
    recipe = Recipe(
        learning_rate=args.learning_rate,
        optimizer=args.optimizer,
        weight_decay=args.weight_decay,
        iterations=args.iterations,
        val_iterations=args.val_iterations,
        small_lesions=args.small_lesions,
        seed=args.seed,
    )
    return Run(
        dataset=find_dataset(args.dataset, RESULTS),
        plans=args.plans,
        fold=args.fold,
        recipe=recipe,
        schedule=Schedule(args.epochs, args.extension, args.last or max(5000, args.epochs), args.patience),
        gpus=int(torch.cuda.is_available()) if args.gpus is None else args.gpus,
        initial_weights=args.initial_weights,
        validation=args.validation,
        country=args.country,
    )


def run_report(args: argparse.Namespace) -> int:
    """Report on a training run and print the files."""
    from flare_train.run_report import find_fold, write_run_report

    for path in write_run_report(find_fold(args.trained), args.output):
        print(path)
    return 0


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
