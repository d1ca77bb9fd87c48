"""The commands `flare-infer status` and `merge`, which look at a folder of results."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence

from flare_runtime.errors import UsageError
from flare_runtime.program.command_line import above_zero, exit_code_of, new_parser, path_of, positive
from flare_runtime.program.terminal import WaitingLine, print_line, say, show_page

TYPE_CHECKING = False  # of `typing`
if TYPE_CHECKING:
    from flare_runtime.cohort.status import CohortStatus, Expected

# Some cases were refused or have failed.
_SOME_FAILED = 4
MAX_TRIES = 5
_INTERVAL_S = 5.0
_QUIET_LOOKS = 2
_SHOWN = 3


def main(argv: Sequence[str]) -> int:
    """Run one of the commands and return its exit code; the first word is its name."""
    args = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = args.run
    return exit_code_of(f"flare-infer {argv[0]}", lambda: run(args))


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("flare-infer", "Look at a folder of results.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    text = "how far the cases of an output folder are: done, refused or failed and why, in work and by whom, the rate"
    status = commands.add_parser("status", help=text, description=text)
    status.set_defaults(run=_status)
    status.add_argument("folder", type=path_of, metavar="OUT", help="what -o was")
    status.add_argument(
        "--of",
        dest="input",
        type=path_of,
        metavar="IN",
        help="what -i was: also say what is not begun and how long it takes",
    )
    status.add_argument("--recursive", action="store_true", help="with --of, as the run had it")
    status.add_argument("--json", action="store_true", help="print JSON, with the names of all cases that are not done")
    status.add_argument(
        "--watch",
        nargs="?",
        const=_INTERVAL_S,
        type=_seconds,
        metavar="SECONDS",
        help=f"look again and again until all is done (default: every {_INTERVAL_S:g} s)",
    )
    status.add_argument(
        "--max-tries",
        type=positive,
        default=MAX_TRIES,
        metavar="N",
        help="after how many runs a case is given up, as --max-tries of the runs says (default: %(default)s)",
    )
    text = "write the records of an output folder as one table, a row a case"
    merge = commands.add_parser("merge", help=text, description=text)
    merge.set_defaults(run=_merge)
    merge.add_argument("folder", type=path_of, metavar="OUT", help="what -o was")
    merge.add_argument(
        "-o", "--output", type=path_of, required=True, metavar="TABLE", help="a .csv or .parquet file for the cases"
    )
    merge.add_argument("--lesions", type=path_of, metavar="TABLE", help="another one for the lesions, a row each")
    return parser


def _seconds(text: str) -> float:
    """Read the interval of `--watch`."""
    try:
        return above_zero(text)
    except argparse.ArgumentTypeError:
        why = f"{text} is no number of seconds above 0; the folder goes before --watch"
        raise argparse.ArgumentTypeError(why) from None


def _status(args: argparse.Namespace) -> int:
    from flare_runtime.cohort.record_files import read_head
    from flare_runtime.cohort.status import HeadReader, status_of

    read = HeadReader().read if args.watch else read_head

    def look() -> CohortStatus:
        return status_of(args.folder, args.max_tries, expected, read)

    with WaitingLine(f"flare-infer status: looking through {args.folder} ..."):
        expected = _expected(args)
        status = look()
    _show(status, args)
    was_running, looks = bool(status.running), 0
    # Where nobody said how many cases there are: until nobody works any more. Between two cases a worker has none.
    while args.watch and not status.is_complete and looks < _QUIET_LOOKS:
        time.sleep(args.watch)
        before, status = status, look()
        _show(status, args)
        was_running = was_running or bool(status.running)
        is_quiet = was_running and not status.running and status.settled == before.settled
        looks = looks + 1 if is_quiet and status.total is None else 0
    return _SOME_FAILED if status.not_done else 0


def _expected(args: argparse.Namespace) -> Sequence[Expected] | None:
    if not args.input:
        if args.recursive:
            raise UsageError("--recursive goes with --of alone; OUT is looked through with all folders in it")
        return None
    from flare_runtime.cohort.expected import expected_of  # slow to import

    return expected_of(args.input, args.folder, recursive=args.recursive)


def _show(status: CohortStatus, args: argparse.Namespace) -> None:
    from flare_runtime.cohort.status_text import content_of, headline, lines_of

    if args.json:
        text = json.dumps(content_of(status), indent=None if args.watch else 2)
        for line in text.splitlines():
            print_line(line)
    elif args.watch and sys.stdout.isatty():
        show_page(lines_of(status))
    elif args.watch:
        print_line(headline(status))
    else:
        for line in lines_of(status):
            print_line(line)


def _merge(args: argparse.Namespace) -> int:
    from flare_runtime.cohort.merge import merge

    merged = merge(args.folder, args.output, args.lesions)
    for line in merged.unreadable[:_SHOWN]:
        say(f"flare-infer merge: left out {line}")
    if len(merged.unreadable) > _SHOWN:
        say(f"flare-infer merge: left out {len(merged.unreadable) - _SHOWN:,} more")
    print_line(f"{args.output}: {merged.cases:,} case(s)")
    return 0
