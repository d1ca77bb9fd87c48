"""The whole command beside nnU-Net's, in one run: wall time, time outside the network, peak memory, agreement.

Each runs in a fresh process on the same phantom with the same weights (seeded random ones: they cost what trained ones
do). The steps take one thing after the other: the same tiles in float32, in bfloat16 and in 8-bit integers (calibrated
on the same phantom) where the CPU has them, over the patient alone, and with less overlap.
usage: python -m benchmarks.whole_case [--shape 208 512 512] [--features 32 64 128 256] [--patch 128 160 160]
[--table FILE]
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.samples.model_folders import write_model_folder
from benchmarks.tables import Cell, Column, Table, add_table_option
from flare_eval.efficiency.gpu import GpuMeter
from flare_eval.efficiency.process import Measurement, measure
from flare_export.parity.agreement import compare
from flare_phantom.phantom import make_phantom, write_dataset
from flare_runtime.backends.openvino.int8 import cpu_has_int8
from flare_runtime.backends.openvino.network import cpu_has_bf16
from flare_runtime.imaging.read import read_volume

STEPS: dict[str, tuple[str, ...]] = {"fp32": ("--precision", "fp32")}
for _precision in ("bf16", "int8"):
    STEPS[_precision] = ("--precision", _precision)
    STEPS[f"{_precision}, body"] = (*STEPS[_precision], "--crop", "body")
    STEPS[f"{_precision}, body, step 0.75"] = (*STEPS[_precision], "--crop", "body", "--step", "0.75")

COLUMNS = (
    Column(""),
    Column("wall, s", 1, ratio=True),
    Column("inside the network, s", 1, ratio=True),
    Column("outside, s", 1, ratio=True),
    Column("peak memory, MiB", ratio=True),
    Column("voxels equal, %", 4),
    Column("Dice", 5),
)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; the defaults are the paper's network on a chest-sized scan."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", type=int, nargs=3, default=(208, 512, 512), metavar=("Z", "Y", "X"))
    parser.add_argument("--spacing", type=float, nargs=3, default=(2.5, 0.8, 0.8), metavar=("Z", "Y", "X"))
    parser.add_argument("--features", type=int, nargs="+", default=(32, 64, 128, 256))
    parser.add_argument("--patch", type=int, nargs=3, default=(128, 160, 160), metavar=("Z", "Y", "X"))
    able = {"fp32": True, "bf16": cpu_has_bf16(), "int8": cpu_has_int8()}
    usual = [step for step in STEPS if able[step.split(",")[0]]]
    parser.add_argument("--steps", nargs="+", default=usual, choices=STEPS, metavar="STEP")
    add_table_option(parser)
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Measure and print the table."""
    with TemporaryDirectory() as scratch:
        work = Path(scratch)
        images, stem = prepare(args, work)
        model, bundle = work / "model", str(work / "bundle")
        if any(step.startswith("int8") for step in args.steps):
            case = str(images / f"{stem}_0000.nii.gz")
            run_module("flare_export.cli", "int8", bundle, "--calibrate", case)
        theirs = run_module("benchmarks.nnunet_predict", str(model), "all", str(images), str(work / "nnunet"))
        found = re.search(r"network_s=([\d.]+) tiles=(\d+)", theirs.output)
        assert found, theirs.output
        print(f"{'x'.join(map(str, args.shape))} voxels, {found[2]} tiles, features {args.features}\n")
        print(f"{'':<26}{'wall s':>9}{'network s':>11}{'outside s':>11}{'peak MiB':>10}{'voxels equal':>14}{'Dice':>9}")
        inside = float(found[1])
        _print("nnU-Net", theirs, inside)
        rows = [_row("nnU-Net's predictor", theirs, inside)]
        reference = read_volume(work / "nnunet" / f"{stem}.nii.gz").voxels
        for step in args.steps:
            report = work / f"{step}.json"
            target = str(work / step)
            options = ("-m", bundle, "--device", "cpu", "--report", str(report), *STEPS[step])
            ours = run_module("flare_runtime.cli", "-i", str(images), "-o", target, *options)
            timings = json.loads(report.read_text(encoding="utf-8"))["cases"][0]["timings_s"]
            agreement = compare(reference, read_volume(work / step / f"{stem}.nii.gz").voxels)
            ours_inside = timings["network"]
            agreed = f"{agreement.voxel_agreement:>14.4%}{agreement.dice:>9.5f}"
            _print(step, ours, ours_inside, agreed)
            shown = (100 * agreement.voxel_agreement, agreement.dice)
            rows.append(_row(f"`{' '.join(STEPS[step])}`", ours, ours_inside, *shown))
            outside = (theirs.wall_s - inside) / (ours.wall_s - ours_inside)
            ratios = (theirs.wall_s / ours.wall_s, inside / ours_inside, outside, theirs.peak_mib / ours.peak_mib)
            wall, within, beyond, memory = ratios
            print(f"{'  nnU-Net / flare-infer':<26}{wall:>9.1f}{within:>11.1f}{beyond:>11.1f}{memory:>10.1f}")
            print("  " + ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in timings.items()), flush=True)
        if args.table:
            Table.measured("python -m benchmarks.whole_case", COLUMNS, rows).write(args.table)


def prepare(args: argparse.Namespace, work: Path) -> tuple[Path, str]:
    """Write a model, its bundle and a phantom into `work`; return the folder of the image and its stem."""
    model = write_model_folder(
        work / "model",
        features=args.features,
        convs=2,
        patch=args.patch,
        spacing_mm=(2.4, 1.6, 1.6),
        folds=("all",),
        background_bias=13,
    )
    phantom = make_phantom(5, tuple(args.shape), tuple(args.spacing))
    (stem,) = write_dataset(work / "data", [("phantom", phantom)])
    run_module("flare_export.cli", str(model), "-o", str(work / "bundle"))
    return work / "data" / "imagesTr", stem


def run_module(module: str, *arguments: str, gpu: GpuMeter | None = None, **environment: str) -> Measurement:
    """Run a module in a fresh process and measure it.

    Raises:
        RuntimeError: where it fails, with the end of what it said.
    """
    # nnU-Net wants them set, though it only predicts.
    folders = dict.fromkeys(("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"), "/nonexistent")
    run = measure([sys.executable, "-m", module, *arguments], {**folders, **environment}, gpu=gpu)
    if run.exit_code:
        raise RuntimeError(f"{module} ended with {run.exit_code}:\n{run.error_tail}")
    return run


def _row(name: str, run: Measurement, network_s: float, equal: Cell = None, dice: Cell = None) -> tuple[Cell, ...]:
    return name, run.wall_s, network_s, run.wall_s - network_s, run.peak_mib, equal, dice


def _print(name: str, run: Measurement, network_s: float, rest: str = "") -> None:
    outside = run.wall_s - network_s
    print(f"{name:<26}{run.wall_s:>9.2f}{network_s:>11.2f}{outside:>11.2f}{run.peak_mib:>10.0f}{rest}", flush=True)


if __name__ == "__main__":
    run(parse_args())
