"""What the challenge's CPU container costs: sizes of images, time to build, and a case in a fresh container.

usage: python -m benchmarks.container [--gpu] [--table FILE]
Needs root, buildah and debootstrap. The scan is the demo's, and all but one size is that of the CPU image.
"""

import argparse
import shutil
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from benchmarks.samples.container import ImageBuilder, missing
from benchmarks.tables import Column, Table, add_table_option
from flare_phantom import phantom

ROUNDS = 5


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpu", action="store_true", help="build the GPU image too, of which 2.4 GB are downloaded")
    add_table_option(parser)
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> int:
    """Build, measure, print, and return the exit code."""
    if why := missing():
        print(f"cannot build images here: {why}")
        return 2
    with TemporaryDirectory() as scratch:
        rows = measure(Path(scratch), gpu=args.gpu)
    for what, figure in rows:
        print(f"{what:<60}{figure:>12}")
    if args.table:
        columns = (Column("CPU image, scan of the demo"), Column("measured"))
        command = f"python -m benchmarks.container{' --gpu' if args.gpu else ''}"
        Table.measured(command, columns, rows).write(args.table)
    return 0


def measure(scratch: Path, *, gpu: bool) -> list[tuple[str, str]]:
    """Return what was measured, and the figure with its unit; with `gpu` also of the GPU image."""
    phantom.main(["-o", str(scratch), "--kind", "thigh", "--cases", "1", "--seed", "2026"])
    (scratch / "images").mkdir()
    started = perf_counter()
    builder = ImageBuilder(scratch / "images")
    based = perf_counter()
    image = builder.build("cpu.Dockerfile")
    built = perf_counter()
    runs = []
    for _ in range(ROUNDS):
        outputs = scratch / "outputs"
        outputs.mkdir()
        runs.append(image.run(scratch / "imagesTr", outputs))
        if runs[-1].code:
            raise RuntimeError(runs[-1].output)
        shutil.rmtree(outputs)
    seconds = statistics.median(one.seconds for one in runs)
    rows = [
        ("size of the image, not compressed", f"{image.megabytes:.0f} MB"),
        ("of that the base (Debian with Python)", f"{builder.base_megabytes:.0f} MB"),
        ("time to make the base", f"{based - started:.0f} s"),
        ("time to build the image, packages' download included", f"{built - based:.0f} s"),
        (f"time of a case, a fresh container each, median of {ROUNDS}", f"{seconds:.1f} s"),
        ("peak memory of a case", f"{max(one.peak_mib for one in runs):.0f} MiB"),
    ]
    if gpu:
        rows.append(("size of the GPU image", f"{builder.build('gpu.Dockerfile', 'gpu').megabytes:,.0f} MB"))
    return rows


if __name__ == "__main__":
    sys.exit(run(parse_args()))
