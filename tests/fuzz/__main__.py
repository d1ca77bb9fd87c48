"""`python -m tests.fuzz`: mutated inputs at every door; exits with 1 where one was not handled cleanly."""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

from benchmarks.samples.workspace import make_workspace
from tqdm import tqdm

from tests.fuzz.campaign import CLEAN, Campaign, Outcome
from tests.fuzz.door import CRASHES, default_count, door_names


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--door", nargs="+", choices=door_names(), default=door_names(), help="default: all")
    parser.add_argument("--count", type=int, help="inputs at each door (default: the door's own number)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes (default: %(default)s)")
    parser.add_argument("--keep", type=Path, default=CRASHES, help="where inputs that show a fault are kept")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> int:
    """Run the campaigns, print their figures and return the exit code."""
    clean = True
    with tempfile.TemporaryDirectory(prefix="flare-fuzz-") as folder:
        os.environ["XDG_CACHE_HOME"] = str(Path(folder, "cache"))
        make_workspace(Path(folder, "workspace"))
        for door in args.door:
            started = perf_counter()
            count = default_count(door) if args.count is None else args.count
            with tqdm(total=count, desc=door, unit="input", disable=None) as bar:
                tally = Campaign(
                    door,
                    Path(folder, "workspace"),
                    Path(folder, door),
                    seed=args.seed,
                    jobs=args.jobs,
                    keep=args.keep,
                    progress=lambda outcome, bar=bar: _show(outcome, bar),
                ).run(range(count))
            print(f"{door}: {tally.line}; {perf_counter() - started:.0f} s", flush=True)
            clean = clean and not tally.findings
    return 0 if clean else 1


def _show(outcome: Outcome, bar: "tqdm[None]") -> None:
    bar.update()
    if outcome.kind not in CLEAN:
        last = outcome.detail.strip().splitlines()[-1:] or [""]
        bar.write(f"  {outcome.task}: {outcome.kind} {outcome.signature}: {last[0][:200]}")


if __name__ == "__main__":
    sys.exit(run(parse_args()))
