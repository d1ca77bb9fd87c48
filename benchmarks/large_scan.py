"""Time and peak memory of `flare-infer` on a scan of thousands of slices: one phantom, over and over.

usage: python -m benchmarks.large_scan [--slices 2000] [--model BUNDLE] [--precision fp32] [--table FILE]
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.scans import write_scan
from benchmarks.tables import Column, Table, add_table_option
from benchmarks.whole_case import run_module

SIDE, SPACING_MM = 512, (1.5, 0.8, 0.8)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=2000)
    parser.add_argument("--model", type=Path, help="default: the model that is shipped")
    parser.add_argument("--precision", default="fp32")
    add_table_option(parser)
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Write the scan, segment it in a fresh process and print what that took."""
    with TemporaryDirectory() as scratch:
        file = Path(scratch) / "scan_0000.nii"
        write_scan(file, (args.slices, SIDE, SIDE), SPACING_MM)
        model = ["-m", str(args.model)] if args.model else []
        options = ["--device", "cpu", "--precision", args.precision, "--quiet", *model]
        measured = run_module("flare_runtime.cli", "-i", str(file), "-o", str(Path(scratch) / "mask.nii.gz"), *options)
        stored_mib = args.slices * SIDE * SIDE * 2 / 2**20
        scan = f"512 x 512 x {args.slices} voxels, {stored_mib:.0f} MiB as stored, {args.precision}"
        print(scan)
        print(f"{measured.wall_s:.1f} s, peak {measured.peak_mib:.0f} MiB")
        if args.table:
            columns = (Column(""), Column("wall, s"), Column("peak memory, MiB"))
            row = (scan, measured.wall_s, measured.peak_mib)
            Table.measured("python -m benchmarks.large_scan", columns, [row]).write(args.table)


if __name__ == "__main__":
    run(parse_args())
