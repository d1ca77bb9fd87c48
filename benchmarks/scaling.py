"""How time and memory grow: over the size of a scan, the number of tiles and the number of cases, fitted and drawn.

Every point is `flare-infer` in a fresh process on a phantom, with the model that is shipped or another bundle.
usage: python -m benchmarks.scaling [-o build/scaling] [--slices 50 100 200 400 800] [--cases 1 2 4 8] [--model BUNDLE]
"""

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.scans import BLOCK, write_scan
from benchmarks.whole_case import run_module
from flare_runtime.model.bundle import Bundle, default_bundle
from flare_runtime.pipeline.resampling import new_shape
from flare_runtime.pipeline.tiling import TileGrid, padded_shape

SPACING_MM = (1.5, 0.8, 0.8)
# What is drawn over what: name, unit, attribute of a point.
_SIZE, _TILES, _CASES = ("voxels", "millions", "megavoxels"), ("tiles", "", "tiles"), ("cases", "", "cases")
_TIME, _MEMORY = ("wall time", "s", "wall_s"), ("peak memory", "MiB", "peak_mib")


@dataclass(frozen=True)
class Point:
    """One run: what it was given, and what it took from start to end."""

    slices: int
    megavoxels: float
    tiles: int
    cases: int
    wall_s: float
    peak_mib: float


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("build/scaling"))
    parser.add_argument("--slices", type=int, nargs="+", default=(50, 100, 200, 400, 800))
    parser.add_argument("--cases", type=int, nargs="+", default=(1, 2, 4, 8), help="of 100 slices each")
    parser.add_argument("--model", type=Path, help="default: the model that is shipped")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Measure, print the points and the fits, and write both, with a drawing."""
    bundle = args.model or default_bundle()
    print(f"{'slices':>8}{'voxels, millions':>18}{'tiles':>7}{'cases':>7}{'wall s':>9}{'peak MiB':>10}", flush=True)
    sizes = [measured(bundle, slices, 1) for slices in args.slices]
    cases = [measured(bundle, BLOCK[0], count) for count in args.cases]
    panels = [(sizes, _SIZE, _TIME), (sizes, _TILES, _TIME), (sizes, _SIZE, _MEMORY), (cases, _CASES, _TIME)]
    for points, x, y in panels:
        start, slope, explained = fit(points, x[2], y[2])
        print(
            f"{y[0]} = {start:.3g} + {slope:.3g} x {x[0]}{' in millions' if x[1] else ''} {y[1]} (R2 {explained:.4f})"
        )
    args.output.mkdir(parents=True, exist_ok=True)
    record = {"sizes": [asdict(point) for point in sizes], "cases": [asdict(point) for point in cases]}
    (args.output / "scaling.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    draw(panels, args.output / "scaling.svg")
    print(f"drawn: {args.output / 'scaling.svg'}")


def measured(bundle: Path, slices: int, cases: int) -> Point:
    """Segment `cases` copies of a phantom of `slices` slices in one fresh process."""
    shape = (slices, *BLOCK[1:])
    with TemporaryDirectory() as scratch:
        images = Path(scratch) / "images"
        images.mkdir()
        first = images / "case0_0000.nii.gz"
        write_scan(first, shape, SPACING_MM)
        for index in range(1, cases):
            os.link(first, images / f"case{index}_0000.nii.gz")
        options = ("-o", str(Path(scratch) / "masks"), "-m", str(bundle), "--device", "cpu", "--quiet")
        took = run_module("flare_runtime.cli", "-i", str(images), *options)
    manifest = Bundle.open(bundle).manifest
    grid = new_shape(shape, SPACING_MM, manifest.spacing_mm)
    tiles = len(TileGrid.covering(padded_shape(grid, manifest.patch), manifest.patch, manifest.step))
    point = Point(slices, prod(shape) / 1e6, tiles * cases, cases, took.wall_s, took.peak_mib)
    columns = f"{slices:>8}{point.megavoxels:>18.1f}{point.tiles:>7}{cases:>7}"
    print(f"{columns}{took.wall_s:>9.2f}{took.peak_mib:>10.0f}", flush=True)
    return point


def fit(points: Sequence[Point], x: str, y: str) -> tuple[float, float, float]:
    """Return start and slope of the straight line through the points, and the share of the variance it explains."""
    xs, ys = ([getattr(point, name) for point in points] for name in (x, y))
    slope, start = np.polyfit(xs, ys, 1)
    left = np.var(np.asarray(ys) - (start + slope * np.asarray(xs)))
    return float(start), float(slope), float(1 - left / np.var(ys)) if np.var(ys) else 1.0


def draw(panels: Sequence[tuple[list[Point], tuple[str, str, str], tuple[str, str, str]]], path: Path) -> None:
    """Draw the points of every panel and their line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(panels), figsize=(4 * len(panels), 3.2), layout="constrained")
    for axis, (points, x, y) in zip(axes, panels, strict=True):
        xs = np.array([getattr(point, x[2]) for point in points])
        start, slope, _ = fit(points, x[2], y[2])
        axis.plot(xs, start + slope * xs, color="tab:blue")
        axis.plot(xs, [getattr(point, y[2]) for point in points], "o", color="tab:orange")
        axis.set(xlabel=", ".join(filter(None, x[:2])), ylabel=", ".join(y[:2]), xlim=(0, None), ylim=(0, None))
    figure.savefig(path)
    pyplot.close(figure)


if __name__ == "__main__":
    run(parse_args())
