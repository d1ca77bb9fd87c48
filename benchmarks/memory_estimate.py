"""Compares the memory that is estimated for a case with the memory that it takes, over sizes and networks.

Each case is segmented in a fresh process on the CPU, once its network is compiled. Measured is the largest resident
memory from then on, less what was resident before: libraries and weights belong to the process, not to the case.
usage: python -m benchmarks.memory_estimate [--model BUNDLE ...] [--backend openvino] [--precision auto]
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.scans import write_scan
from benchmarks.whole_case import run_module
from flare_runtime.cases.finding import find_cases
from flare_runtime.compute.arrays import Shape3, Vector3
from flare_runtime.imaging.read import read_grid
from flare_runtime.model.bundle import default_bundle
from flare_runtime.options import RunOptions
from flare_runtime.pipeline.host_memory import give_back
from flare_runtime.run.serial import segment_cases
from flare_runtime.segmenter import Segmenter

MIB = 1 << 20
# Voxels and spacing in mm, (z, y, x), and the type of a voxel.
SCANS: tuple[tuple[Shape3, Vector3, str], ...] = (
    ((1, 1, 12000), (2.0, 1.0, 0.2), "int16"),
    ((12000, 1, 1), (0.2, 1.0, 1.0), "int16"),
    ((3, 512, 512), (5.0, 0.8, 0.8), "int16"),
    ((40, 512, 512), (5.0, 0.8, 0.8), "int16"),
    ((96, 256, 256), (2.5, 1.5, 1.5), "int16"),
    ((100, 512, 512), (2.5, 0.8, 0.8), "float32"),
    ((208, 512, 512), (2.5, 0.8, 0.8), "int16"),
    ((300, 512, 512), (1.0, 0.9, 0.9), "int16"),
    ((400, 512, 512), (2.5, 0.8, 0.8), "int16"),
    ((800, 512, 512), (1.0, 0.8, 0.8), "int16"),
)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model", type=Path, nargs="+", help="default: the one that is shipped, one of the paper's width"
    )
    parser.add_argument("--backend", default="openvino")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--tiles", type=int, help="leave the others out: less time, the same memory (default: all)")
    parser.add_argument("--scan", type=Path, help=argparse.SUPPRESS)  # of the fresh process
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Measure every network with every scan and print a table of each."""
    with TemporaryDirectory() as scratch:
        models = args.model or [default_bundle(), paper_bundle(Path(scratch))]
        for model in models:
            print(f"{model.name}, {args.backend}, {args.precision}; MiB beside the process")
            print(f"{'voxels (z, y, x)':>18}{'type':>9}{'estimate':>10}{'measured':>10}{'ratio':>7}", flush=True)
            for shape, spacing_mm, kind in SCANS:
                scan = Path(scratch) / "scan.nii.gz"
                write_scan(scan, shape, spacing_mm, kind)
                options = ["--scan", str(scan), "--backend", args.backend, "--precision", args.precision]
                if args.tiles:
                    options += ["--tiles", str(args.tiles)]
                command = [sys.executable, "-m", "benchmarks.memory_estimate", "--model", str(model), *options]
                ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                found = json.loads(ran.stdout)
                estimate, measured = found["estimate"] / MIB, found["measured"] / MIB
                name = " x ".join(map(str, shape))
                print(f"{name:>18}{kind:>9}{estimate:>10.0f}{measured:>10.0f}{estimate / measured:>7.2f}", flush=True)


def measure(args: argparse.Namespace) -> dict[str, int]:
    """Segment a scan in this process, which has to be fresh, and return estimate and measurement in bytes."""
    options = RunOptions(device="cpu", backend=args.backend, precision=args.precision, any_intensity=True)
    segmenter = Segmenter.load(args.model[0], options)
    estimate = segmenter.memory.peak_of([read_grid(args.scan)])
    give_back()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is from now on
    before = status_bytes("VmRSS")
    cases = find_cases(args.scan, args.scan.with_name("mask.nii.gz"), 1)
    (record,) = segment_cases(segmenter, cases, progress=lambda _case: lambda tiles: islice(tiles, args.tiles))
    if record.status != "done":
        raise RuntimeError(record.line)
    return {"estimate": estimate, "measured": status_bytes("VmHWM") - before}


def paper_bundle(work: Path) -> Path:
    """Export a network of the paper's width and patch, with seeded random weights."""
    from benchmarks.samples.model_folders import write_model_folder  # and torch, which those who measure need not hold

    sizes = {"features": (32, 64, 128, 256), "convs": 2, "patch": (128, 160, 160), "spacing_mm": (2.4, 1.6, 1.6)}
    folder = write_model_folder(work / "model", folds=("all",), background_bias=13, **sizes)
    run_module("flare_export.cli", str(folder), "-o", str(work / "paper"))
    return work / "paper"


def status_bytes(name: str) -> int:
    """Return a figure of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    arguments = parse_args()
    if arguments.scan:
        print(json.dumps(measure(arguments)))
    else:
        run(arguments)
