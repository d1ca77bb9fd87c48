"""The commands `flare-infer list`, `info`, `doctor`, `check` and `completion`, whose answers go to standard output."""

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict

from flare_runtime.introspection.completion import SHELLS, script_path
from flare_runtime.program.command_line import exit_code_of, new_parser, path_of
from flare_runtime.program.terminal import WaitingLine, print_line

# Some inputs would be refused, or some bundles cannot be opened.
_SOME_FAILED = 4


def main(argv: Sequence[str]) -> int:
    """Run one of the commands and return its exit code; the first word is its name."""
    args = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = args.run
    return exit_code_of(f"flare-infer {argv[0]}", lambda: run(args))


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("flare-infer", "Ask what there is before segmenting.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, run, text in (
        ("list", _list, "the bundles there are: the shipped one, and those in the folders of FLARE_BUNDLES"),
        ("info", _info, "what a bundle is: labels, training, licence, caution, agreement with nnU-Net"),
        ("doctor", _doctor, "what this machine has, and what auto takes of it for a bundle, and why"),
        ("check", _check, "what would be read and refused, with tiles and memory; no network runs"),
        (
            "completion",
            _completion,
            "what a shell completes the words of flare-infer by: source <(flare-infer completion bash)",
        ),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        if name == "completion":
            command.add_argument("shell", choices=SHELLS, metavar="SHELL", help=f"{' or '.join(SHELLS)}")
            continue
        if name == "check":
            command.add_argument("input", type=path_of, metavar="IN", help="what -i would be")
            command.add_argument("--recursive", action="store_true", help="look into folders in the folder too")
        default = "(default: the model that is shipped)"
        if name == "info":
            command.add_argument("bundle", nargs="?", type=path_of, metavar="BUNDLE", help=f"folder or zip {default}")
        elif name != "list":
            command.add_argument(
                "-m", "--model", dest="bundle", type=path_of, metavar="BUNDLE", help=f"folder or zip {default}"
            )
        command.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        print_line(line)


def _print_json(content: object) -> None:
    _print(json.dumps(content, indent=2).splitlines())


def _list(args: argparse.Namespace) -> int:
    from flare_runtime.introspection.bundles import find_bundles, listing

    found = find_bundles()
    if args.json:
        _print_json(
            [
                {"path": str(one.path), "name": one.bundle and one.bundle.manifest.name, "problem": one.problem or None}
                for one in found
            ]
        )
    else:
        _print(listing(found))
    return 0 if all(one.bundle for one in found) else _SOME_FAILED


def _info(args: argparse.Namespace) -> int:
    from flare_runtime.introspection.bundles import description
    from flare_runtime.model.bundle import open_bundle
    from flare_runtime.model.manifest import encode_manifest

    bundle = open_bundle(args.bundle)
    if args.json:
        _print(encode_manifest(bundle.manifest).decode().splitlines())
    else:
        _print(description(bundle))
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from flare_runtime.introspection.machine import machine_lines, machine_report
    from flare_runtime.model.bundle import open_bundle

    bundle = open_bundle(args.bundle)
    report = machine_report(bundle)
    if args.json:
        _print_json(report)
    else:
        _print(machine_lines(report, bundle))
    return 0


def _check(args: argparse.Namespace) -> int:
    from flare_runtime.backends.selection import choose
    from flare_runtime.cases.input_rules import InputRules
    from flare_runtime.introspection.forecast import forecast_cases
    from flare_runtime.model.bundle import open_bundle

    forecasts = []
    with WaitingLine(f"flare-infer check: looking at {args.input} ..."):
        for forecast in forecast_cases(choose(open_bundle(args.bundle)), args.input, InputRules(args.recursive)):
            forecasts.append(forecast)
            if not args.json:
                print_line(forecast.line)
    if args.json:
        _print_json([asdict(forecast) for forecast in forecasts])
    return _SOME_FAILED if any(forecast.reason for forecast in forecasts) else 0


def _completion(args: argparse.Namespace) -> int:
    _print(script_path(args.shell).read_text(encoding="utf-8").splitlines())
    return 0
