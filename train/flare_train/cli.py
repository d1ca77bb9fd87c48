"""`flare-train`: look at a training set, choose from it, plan the network, train it, report on it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flare_runtime.errors import UsageError
from flare_runtime.program.command_line import exit_code_of
from flare_runtime.program.terminal import open_streams, print_line, progress_bar, say
from flare_train.arguments import parse_args
from flare_train.planning.lint import Finding, lint
from flare_train.planning.plan import PRESETS

if TYPE_CHECKING:
    from flare_train.training.run import Run

_PLAN_IS_WRONG = 4


def run_inspect(args: argparse.Namespace) -> int:
    """Inspect every case; write facts, summary and plot; print the table and what is wrong."""
    from flare_eval.report.tables import markdown
    from flare_train.data import summary
    from flare_train.data.cases import find_cases
    from flare_train.data.inspection import inspect_cases

    cases = find_cases(*args.dataset)
    summary.check_outputs(args.output, cases)
    inspected = inspect_cases(cases, min(args.workers, len(cases)))
    facts = list(progress_bar(inspected, "", "case", len(cases)))
    statistics = summary.summarise(facts)
    summary.write(facts, statistics, args.output)
    print(markdown(*summary.table(statistics)))
    for case in facts:
        for message in case.messages:
            say(message)
    return 0


def run_select(args: argparse.Namespace) -> int:
    """Choose, write the manifest, link the data set, and print how many were kept and why others were not."""
    from collections import Counter

    from flare_train.data.inspection import read_facts
    from flare_train.data.selection import SelectionRules, select, write_raw_dataset

    if args.output.absolute().parent == Path("/"):
        raise UsageError(f"{args.output}: lies in the root folder; is nnUNet_raw set?")
    rules = SelectionRules(
        pseudo_labels=args.keep_pseudo_labels,
        empty_labels=args.keep_empty,
        cap=args.cap,
        exclude=args.exclude,
        validation=args.validation,
        partial=args.partial,
        ignore_beyond_mm=args.ignore_beyond,
    )
    choices = select(read_facts(args.facts), rules)
    kept = write_raw_dataset(choices, args.output, args.workers)
    print_line(f"{kept} of {len(choices)} cases kept")
    if held_out := sum(choice.validation for choice in choices):
        print_line(f"  {held_out} of them to validate on (fold 0)")
    if partial := sum(choice.partial for choice in choices):
        print_line(
            f"  {partial} of them with labels that leave out what is beyond {args.ignore_beyond:g} mm of a lesion"
        )
    for reason, count in Counter(choice.reason for choice in choices if not choice.kept).most_common():
        print_line(f"  {count} dropped: {reason}")
    return 0


def run_plan(args: argparse.Namespace) -> int:
    """Fingerprint the data set with nnU-Net, write the plans, and print the network's size."""
    from flare_runtime.files.output import replacing
    from flare_runtime.files.target import check_targets
    from flare_train.data.fingerprint import fingerprint
    from flare_train.data.nnunet_folders import find_dataset
    from flare_train.planning.network_size import network_size
    from flare_train.planning.plan import CONFIGURATION, Preset, is_plans, make_plans

    preset = Preset(args.preset, tuple(args.features or PRESETS[args.preset].features))
    if any(side % preset.reduction for side in args.patch):
        raise UsageError(f"the patch {tuple(args.patch)} has to be a multiple of {preset.reduction} along every axis")
    dataset = find_dataset(args.dataset)
    name = args.name or f"flare_{preset.name}"
    target = dataset.preprocessed / f"{name}.json"
    check_targets([target], over=is_plans)
    content = fingerprint(dataset, args.workers)
    options = {"spacing_mm": args.spacing, "patch": args.patch, "batch_size": args.batch_size}
    plans = make_plans(content, dataset.name, name, preset.features, **options)
    with replacing(target) as file:
        file.write(json.dumps(plans, indent=2).encode() + b"\n")
    print_line(target)
    for line in network_size(plans["configurations"][CONFIGURATION]).lines:
        print_line(f"  {line}")
    return _exit_code_of(lint(plans))


def run_training(args: argparse.Namespace) -> int:
    """Train to the end of the schedule, and print where the best network is."""
    if args.augmenters is not None:  # before nnU-Net is imported
        os.environ.update(nnUNet_n_proc_DA=str(args.augmenters))
    from flare_train.planning.preprocessing import read_plans
    from flare_train.training.session import train

    run = _run_of(args)
    if code := _exit_code_of(lint(read_plans(run.dataset, run.plans))):
        return code
    record = train(run, print_line, args.workers)
    kept = f"checkpoint_epoch_{record.best.epochs}.pth" if record.best else "checkpoint_final.pth"
    print_line(f"flare-export {run.model_folder} --fold {run.fold} --checkpoint {kept} -o BUNDLE")
    return 0


def _run_of(args: argparse.Namespace) -> Run:
    import torch

    from flare_train.data.nnunet_folders import RESULTS, SPLITS, find_dataset
    from flare_train.planning.recipe import Recipe
    from flare_train.training.run import ALL, Run
    from flare_train.training.schedule import Schedule

    dataset = find_dataset(args.dataset, RESULTS)
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
        dataset=dataset,
        plans=args.plans,
        fold=args.fold or ("0" if (dataset.raw / SPLITS).is_file() else ALL),
        recipe=recipe,
        schedule=Schedule(args.epochs, args.extension, args.last or max(5000, args.epochs), args.patience),
        gpus=int(torch.cuda.is_available()) if args.gpus is None else args.gpus,
        initial_weights=args.initial_weights,
        validation=args.validation,
        country=args.country,
    )


def run_report(args: argparse.Namespace) -> int:
    """Report on a training run and print the files."""
    from flare_train.report.run_report import find_fold, write_run_report

    for path in write_run_report(find_fold(args.trained), args.output):
        print_line(path)
    return 0


def run_lint(args: argparse.Namespace) -> int:
    """Print what is wrong with a plans file."""
    from flare_export.source.json_file import read_json

    for file in (args.plans, args.checkpoint):
        if file is not None and not file.exists():
            raise UsageError(f"{file}: there is no such file")
    plans, weights = read_json(args.plans), None
    if args.checkpoint:
        from flare_export.source.checkpoint import load_checkpoint

        weights = load_checkpoint(args.checkpoint, "all").weights
    findings = lint(plans, weights)
    if not findings:
        print_line(f"{args.plans}: nothing wrong in {', '.join(plans['configurations']) or 'no configuration'}")
    return _exit_code_of(findings)


def _exit_code_of(findings: Sequence[Finding]) -> int:
    """Say what is wrong with plans, and return the exit code."""
    for finding in findings:
        say(str(finding))
    return _PLAN_IS_WRONG if any(finding.severity == "error" for finding in findings) else 0


_RUNS = {
    "inspect": run_inspect,
    "select": run_select,
    "plan": run_plan,
    "run": run_training,
    "report": run_report,
    "lint": run_lint,
}


def run(args: argparse.Namespace) -> int:
    """Run a command and return its exit code."""
    return _RUNS[args.command](args)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, run the command and return its exit code."""
    open_streams()
    args = parse_args(argv)
    return exit_code_of("flare-train", lambda: run(args), "train")


if __name__ == "__main__":
    sys.exit(main())
