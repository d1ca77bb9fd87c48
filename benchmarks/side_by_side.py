"""nnUNetv2_predict and flare-infer in turn on every case, each in a fresh process: time, memory, masks, scores, report.

usage: python -m benchmarks.side_by_side MODEL_FOLDER IMAGES -o OUT [--reference LABELS] [--fold all]
       [--checkpoint checkpoint_final.pth] [--precision fp32] [--table FILE]
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import flare_eval.cli
import flare_export.cli
from benchmarks.tables import Cell, Column, Table, add_table_option
from flare_eval.efficiency.costs import peak
from flare_eval.results import Efficiency, load


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="nnU-Net trained-model folder")
    parser.add_argument("images", type=Path, help="folder of <case>_0000.nii.gz")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--reference", type=Path, help="folder of <case>.nii.gz")
    parser.add_argument("--fold", default="all")
    parser.add_argument("--checkpoint", default="checkpoint_final.pth")
    parser.add_argument("--device", default="cpu", help="nnU-Net's")
    parser.add_argument("--precision", nargs="+", default=["auto"], help="flare-infer's; each is a method of its own")
    add_table_option(parser)
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> int:
    """Export, measure and report; return the exit code."""
    args.output.mkdir(parents=True, exist_ok=True)
    bundle = args.output / "bundle"
    code = flare_export.cli.main(
        [str(args.folder), "-o", str(bundle), "--fold", args.fold, "--checkpoint", args.checkpoint]
    )
    if code:
        return code
    python = shlex.quote(sys.executable)
    programs = Path(sys.executable).parent
    options = f"-f {args.fold} -chk {args.checkpoint} -device {args.device} --disable_tta -npp 1 -nps 1"
    methods = [
        f"nnU-Net={programs / 'nnUNetv2_predict_from_modelfolder'} -i {{input}} -o {{output}} "
        f"-m {shlex.quote(str(args.folder))} {options}"
    ]
    for precision in args.precision:
        infer = f"{python} -m flare_runtime.cli -i {{input}} -o {{output}} -m {shlex.quote(str(bundle))} --quiet"
        methods.append(f"flare-infer_{precision}={infer} --precision {precision}")
    results = args.output / "results"
    command = ["efficiency", "-i", str(args.images), "-o", str(results)]
    command += [part for method in methods for part in ("--run", method)]
    code = flare_eval.cli.main([*command, *(["--reference", str(args.reference)] if args.reference else [])])
    if args.table:
        measured = (load(Efficiency, results / method.partition("=")[0]) for method in methods)
        efficiency_table([one for one in measured if one]).write(args.table)
    report = ["report", str(results), "-o", str(args.output / "report"), "--images", str(args.images)]
    return max(code, flare_eval.cli.main(report))


def efficiency_table(methods: Sequence[Efficiency]) -> Table:
    """Return time and peak memory of every method on every case."""
    names = [method.method for method in methods]
    columns = [Column("case"), Column("voxels (x, y, z)")]
    columns += [*(Column(f"{name}, s", 1) for name in names), *(Column(f"{name}, peak MiB") for name in names)]
    rows: list[list[Cell]] = []
    for runs in zip(*(method.runs for method in methods), strict=True):
        size = " x ".join(map(str, runs[0].image_size or ()))
        rows.append([runs[0].case, size, *(run.wall_s for run in runs), *(peak(run, "host_mib") for run in runs)])
    return Table.measured("python -m benchmarks.side_by_side MODEL_FOLDER IMAGES -o OUT", columns, rows)


if __name__ == "__main__":
    sys.exit(run(parse_args()))
