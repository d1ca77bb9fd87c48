"""`python -m tests.fuzz`: mutated inputs at every door; exits with 1 where one was not handled cleanly."""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from time import perf_counter

from tests.fuzz.campaign import CLEAN, Outcome, campaign
from tests.fuzz.door import CRASHES, default_count, door_names
from tests.fuzz.workspace import make_workspace


def main() -> int:
    """Run the campaigns and print their figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--door", nargs="+", choices=door_names(), default=door_names(), help="default: all")
    parser.add_argument("--count", type=int, help="inputs at each door (default: the door's own number)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes (default: %(default)s)")
    parser.add_argument("--keep", type=Path, default=CRASHES, help="where inputs that show a fault are kept")
    args = parser.parse_args()
    clean = True
    with tempfile.TemporaryDirectory(prefix="flare-fuzz-") as folder:
        os.environ["XDG_CACHE_HOME"] = str(Path(folder, "cache"))
        make_workspace(Path(folder, "workspace"))
        for door in args.door:
            started = perf_counter()
            count = default_count(door) if args.count is None else args.count
            tally = campaign(
                door,
                Path(folder, "workspace"),
                range(count),
                scratch=Path(folder, door),
                seed=args.seed,
                jobs=args.jobs,
                keep=args.keep,
                progress=_tell,
            )
            print(f"{door}: {tally.line}; {perf_counter() - started:.0f} s", flush=True)
            clean = clean and not tally.findings
    return 0 if clean else 1


def _tell(outcome: Outcome) -> None:
    if outcome.kind not in CLEAN:
        last = outcome.detail.strip().splitlines()[-1:] or [""]
        print(f"  {outcome.task}: {outcome.kind} {outcome.signature}: {last[0][:200]}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
