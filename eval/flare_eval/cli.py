"""`flare-eval`: how good and how costly a segmenter is, and a report of it."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flare_eval.accuracy.label_set import ONE_LESION, read_label_set
from flare_eval.accuracy.rules import TOLERANCE_MM
from flare_eval.accuracy.scores import Pair, Progress, Rules, evaluate, find_pairs, pairs_of
from flare_eval.method_paths import named_paths
from flare_eval.results import Accuracy, Efficiency, check_results, save
from flare_runtime.errors import DeviceError, UsageError
from flare_runtime.files.output import check_folder
from flare_runtime.files.target import check_targets
from flare_runtime.program.command_line import exit_code_of, natural, new_parser, number_of, path_of, positive
from flare_runtime.program.terminal import open_streams, print_line, progress_bar, say

if TYPE_CHECKING:
    from flare_eval.efficiency.costs import Method

DESCRIPTION = "Measure how good and how costly a segmenter is, and write a report of it."
EXIT_CODES = """\
exit codes: 0 all cases evaluated; 1 internal error; 2 usage; 4 some cases could not be evaluated, or predictions are
            missing; 5 no such GPU; 6 output; 7 bundle; 130 interrupted
"""
_SOME_BAD = 4


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = new_parser("flare-eval", DESCRIPTION, EXIT_CODES)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_accuracy(commands.add_parser("accuracy", help="DSC and NSD by the FLARE challenge's rules, lesion by lesion"))
    _add_efficiency(commands.add_parser("efficiency", help="time and memory of commands, one fresh process a case"))
    _add_report(commands.add_parser("report", help="Markdown and one HTML file of what the others wrote"))
    return parser.parse_args(argv)


def _add_accuracy(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--reference",
        type=path_of,
        required=True,
        metavar="DIR",
        help="folder of <case>.nii.gz, values 0 and 1 unless --labels is given; or a file",
    )
    add(
        "--prediction",
        action="append",
        required=True,
        metavar="[METHOD=]DIR",
        help="folder of <case>.nii.gz; or a file; again for a further method",
    )
    add("-o", "--output", type=path_of, required=True, metavar="OUT", help="gets a folder for each method")
    add(
        "--tolerance",
        type=_tolerance,
        nargs="+",
        default=[TOLERANCE_MM],
        metavar="MM",
        help="of the surface Dice; the first one goes into the CSV (default: the challenge's 2)",
    )
    _add_labels(parser)
    add("--nnunet-summary", type=path_of, metavar="FILE", help="also write nnU-Net's summary.json of the one method")
    reading = parser.add_mutually_exclusive_group()
    reading.add_argument(
        "--official",
        action="store_true",
        help="to the digit as the challenge's script does: voxels that are no label become one as in NumPy, missing "
        "predictions are left out",
    )
    reading.add_argument(
        "--strict",
        action="store_true",
        help="refuse headers that no scan has, and predictions on another grid than their reference; without it they "
        "are scored voxel by voxel and named",
    )
    add("--allow-missing", action="store_true", help="end with exit code 0 though predictions are missing")
    add("--workers", type=positive, default=os.cpu_count() or 1, metavar="N", help="processes (default: all cores)")


def _add_efficiency(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-i", "--images", type=path_of, required=True, metavar="DIR", help="folder of <case>_0000.nii.gz")
    add("-o", "--output", type=path_of, required=True, metavar="OUT", help="gets a folder for each method")
    add(
        "--run",
        dest="methods",
        action="append",
        default=[],
        metavar="NAME=COMMAND",
        help="what to measure, holding {input} and {output} (folders) or {input_file} and {output_file}; again for a "
        "further method: they take turns at every case, and ratios are to the last one",
    )
    add("--docker", metavar="IMAGE", help="measure the challenge's own command line with this image")
    add("--reference", type=path_of, metavar="DIR", help="also score the masks, as `flare-eval accuracy` does")
    _add_labels(parser)
    add("--warm", action="store_true", help="also run each command once over all cases in one process")
    add("--gpu", type=natural, metavar="N", help="which GPU's memory to watch (default: the first, if there is one)")


def _add_labels(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--labels",
        type=path_of,
        metavar="FILE",
        help="dataset.json, a bundle or its manifest.json: score every class or region that it names",
    )


def _add_report(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("results", type=path_of, nargs="+", metavar="OUT", help="what accuracy or efficiency wrote")
    add("-o", "--output", type=path_of, required=True, metavar="DIR", help="gets report.html, report.md and pictures")
    add("--images", type=path_of, metavar="DIR", help="folder of <case>_0000.nii.gz, for the gallery")
    add("--gallery", type=natural, default=4, metavar="N", help="best and worst cases to draw (default: %(default)s)")
    add("--flare", action="store_true", help="set the numbers of the FLARE25 paper beside")


def _tolerance(text: str) -> float:
    value = number_of(text)
    if not 0 < value <= 100:
        raise argparse.ArgumentTypeError(f"{text} mm; give more than 0 and at most 100")
    return value


def run_accuracy(args: argparse.Namespace) -> int:
    """Score the predictions of every method, write the results and print the tables."""
    from flare_eval.report.nnunet_summary import write_summary

    methods, summary = named_paths(args.prediction), args.nnunet_summary
    if summary and len(methods) > 1:
        raise UsageError("--nnunet-summary is of one method; give --prediction once")
    labels = read_label_set(args.labels) if args.labels else ONE_LESION if summary else None
    pairs = {name: find_pairs(args.reference, path) for name, path in methods.items()}
    if summary:
        check_targets([summary], (path for of_method in pairs.values() for path in _files(of_method)))
    rules = Rules(tuple(args.tolerance), args.official, args.strict, labels)
    results = _score(pairs, args.output, rules, args.workers)
    if summary:
        write_summary(results[0], summary)
    return _say_remarks(results, args.allow_missing)


def _files(pairs: Sequence[Pair]) -> list[Path]:
    return [path for pair in pairs for path in (pair.reference, pair.prediction) if path]


def _score(pairs: dict[str, list[Pair]], output: Path, rules: Rules, workers: int) -> list[Accuracy]:
    """Score every method, write the results and print the tables."""
    from flare_eval.report.class_table import class_table
    from flare_eval.report.official_csv import accuracy_csv
    from flare_eval.report.tables import accuracy_table, markdown

    results = []
    for name, of_method in pairs.items():
        check_results(Accuracy, output / name, _files(of_method))
    for name, of_method in pairs.items():
        result = evaluate(name, of_method, rules, workers=min(workers, len(of_method)), progress=_progress_bar(name))
        folder = make_folder(output / name)
        save(result, folder)
        accuracy_csv(result, folder / "accuracy.csv")
        results.append(result)
    print(markdown(*accuracy_table(results)))
    if rules.labels:
        print(f"\n{markdown(*class_table(results))}")
    return results


def _say_remarks(results: Sequence[Accuracy], allow_missing: bool) -> int:
    """Say what is wrong or odd with cases and return the exit code."""
    remarks = [case for result in results for case in result.cases if case.message]
    for case in remarks:
        say(f"{case.case}: {case.status}: {case.message}")
    missing = [result for result in results if result.missing]
    for result in missing:
        count, out = len(result.missing), "; they are left out" if result.official else "; they count as 0, 0"
        hint = "" if allow_missing else " (--allow-missing lets that pass)"
        say(
            f"{result.method}: {count} of {len(result.cases) + len(result.left_out)} predictions are missing{out}{hint}"
        )
    bad = any(case.status.startswith("bad") for case in remarks)
    return _SOME_BAD if bad or (missing and not allow_missing) else 0


def run_efficiency(args: argparse.Namespace) -> int:
    """Measure every method on every case, write the results and print the tables."""
    from flare_eval.efficiency.costs import measure_methods
    from flare_eval.efficiency.gpu import GpuMeter
    from flare_eval.report.cost_tables import ratio_table
    from flare_eval.report.official_csv import efficiency_csv
    from flare_eval.report.tables import markdown

    methods = _methods(args)
    gpu = GpuMeter.find(args.gpu or 0)
    if gpu is None and args.gpu is not None:
        raise DeviceError(f"--gpu {args.gpu}: the driver knows no such GPU")
    rules = Rules(labels=read_label_set(args.labels) if args.labels else None)
    if args.reference:
        import surface_distance  # noqa: F401  # which is missed now rather than when all has been measured

        if not args.reference.is_dir():
            raise UsageError(f"{args.reference}: there is no such folder")
    for kind in (Efficiency, Accuracy) if args.reference else (Efficiency,):
        for method in methods:
            check_results(kind, args.output / method.name)
    results = measure_methods(
        methods,
        args.images,
        make_folder(args.output),
        warm=args.warm,
        gpu=gpu,
        progress=lambda cases, count: progress_bar(cases, "", "case", count),
    )
    code = 0
    for result in results:
        folder = make_folder(args.output / result.method)
        save(result, folder)
        efficiency_csv(result, folder / "efficiency.csv")
        code = max(code, _print_costs(result))
    if len(results) > 1:
        print(markdown(*ratio_table(results)), end="\n\n")
    if args.reference:
        scores = _score_measured(results, args.reference, args.output, rules)
        code = max(code, _say_remarks(scores, allow_missing=False))
    return code


def _methods(args: argparse.Namespace) -> list["Method"]:
    from flare_eval.efficiency.costs import Method

    methods = [Method.parse(text) for text in args.methods]
    if args.docker:
        methods.append(Method.docker(args.docker, args.gpu or 0))
    if not methods or len({method.name for method in methods}) < len(methods):
        raise UsageError("give --run NAME=COMMAND or --docker IMAGE, every name once")
    return methods


def _print_costs(result: Efficiency) -> int:
    """Print a method's table, say which runs failed and why, and return the exit code."""
    from flare_eval.report.cost_tables import Cost, table_4
    from flare_eval.report.tables import markdown

    warm = Cost.of(result.warm) if result.warm else None
    table = markdown(*table_4([Cost.of(run) for run in result.runs], warm))
    print_line(f"{result.method}: {' '.join(result.command)}")
    print(f"\n{table}\n")
    failed = [run for run in [*result.runs, *([result.warm] if result.warm else [])] if run.message]
    for run in failed:
        say(f"{run.case}: {result.method}: {run.message}")
    return _SOME_BAD if failed else 0


def _score_measured(results: Sequence[Efficiency], reference: Path, output: Path, rules: Rules) -> list[Accuracy]:
    pairs = {
        result.method: pairs_of([run.case for run in result.runs], reference, output / result.method / "masks")
        for result in results
    }
    if not all(pairs.values()):
        raise UsageError(f"{reference}: holds no <case>.nii.gz of the cases that were measured")
    return _score(pairs, output, rules, 1)


def run_report(args: argparse.Namespace) -> int:
    """Write the report of results and name its files."""
    from flare_eval.report.documents import write_report

    folder = make_folder(args.output)
    for file in write_report(args.results, folder, images=args.images, gallery=args.gallery, flare=args.flare):
        print_line(file)
    return 0


def make_folder(folder: Path) -> Path:
    """Create an output folder and return it.

    Raises:
        OutputError: where it cannot be written to.
    """
    check_folder(folder)
    return folder


def _progress_bar(name: str) -> Progress:
    return lambda cases, count: progress_bar(cases, name, "case", count)


_RUNS = {"accuracy": run_accuracy, "efficiency": run_efficiency, "report": run_report}


def run(args: argparse.Namespace) -> int:
    """Run a command and return its exit code."""
    return _RUNS[args.command](args)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, run the command and return its exit code."""
    open_streams()
    args = parse_args(argv)
    return exit_code_of("flare-eval", lambda: run(args), "eval")


if __name__ == "__main__":
    sys.exit(main())
