"""DICOM read and written here, and by TotalSegmentator's own functions without its network: time and memory.

Each step runs in a fresh process, ours and theirs in turn, and the least of each counts; the start is left out. Time is
the processor's, which other work on the machine changes least. The mask is the same for both. The whole command runs
here alone, as TotalSegmentator's needs its weights. TotalSegmentator is taken from another environment: python -m venv
ts; ts/bin/pip install TotalSegmentator rt_utils highdicom; then --other ts/bin/python.
usage: python -m benchmarks.dicom [SERIES ...] [--slices 300] [--rounds 3] [--other PYTHON] [--table FILE]
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.tables import Cell, Column, Table, add_table_option
from benchmarks.totalsegmentator_dicom import LABELS, STEPS, cpu_s, ellipsoids, measured

_THEIRS = Path(__file__).with_name("totalsegmentator_dicom.py")
_WHOLE = "the whole command"
_WHAT = {
    "read": "series to volume",
    "dicom-seg": "mask to segmentation",
    "rtstruct": "mask to structure set",
    _WHOLE: "series to segmentation, the shipped model",
}
_COLUMNS = (
    Column("series"),
    Column("step"),
    Column("flare-lite, CPU s", 2),
    Column("TotalSegmentator, CPU s", 2),
    Column("times faster", 1),
    Column("flare-lite, MiB"),
    Column("TotalSegmentator, MiB"),
    Column("times less", 1),
)


@dataclass(frozen=True)
class Best:
    """The least of what a step took."""

    s: float
    mib: float


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("series", nargs="*", type=Path, help="folders of one series each")
    parser.add_argument("--slices", type=int, default=300, help="of 512 x 512 pixels in a synthetic series")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--other", help="the Python of an environment with TotalSegmentator")
    parser.add_argument("--ours", nargs=3, help=argparse.SUPPRESS)  # of the fresh process
    add_table_option(parser)
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Measure and print the table."""
    if args.ours:
        print(json.dumps(step_of_ours(args.ours[0], *map(Path, args.ours[1:]))))
        return
    with TemporaryDirectory() as scratch:
        places = [with_uids(series, Path(scratch, series.name)) for series in args.series]
        places.append(write_series(Path(scratch, f"synthetic, {args.slices} slices of 512 x 512"), args.slices))
        rows = [row for series in places for row in rows_of(series, args.other, args.rounds)]
    table = Table.measured(
        "python -m benchmarks.dicom SERIES ... --other PYTHON", _COLUMNS, rows, packages=("pydicom", "highdicom")
    )
    print(table.markdown)
    if args.table:
        table.write(args.table)


def rows_of(series: Path, other: str | None, rounds: int) -> list[tuple[Cell, ...]]:
    """Return the figures of a series, a row for each step."""
    rows = []
    with TemporaryDirectory() as scratch:
        for step in STEPS:
            ours, theirs = [], []
            for _ in range(rounds):
                command = [sys.executable, "-m", "benchmarks.dicom", "--ours", step, str(series), scratch]
                ours.append(figures_of(command))
                if other:
                    theirs.append(figures_of([other, str(_THEIRS), step, str(series), scratch]))
            rows.append(_row(series.name, step, ours, theirs))
            print(*map(str, rows[-1]), sep="  ", flush=True)
        rows.append(_row(series.name, _WHOLE, [whole_command(series, Path(scratch, "whole"))], []))
    return rows


def whole_command(series: Path, target: Path) -> Best:
    """Segment a series with the shipped model, and return what that took."""
    before = cpu_s()
    paths = ["-i", str(series), "-o", f"{target}.seg.dcm"]
    options = ["--output-type", "dicom-seg", "--device", "cpu", "--quiet"]
    subprocess.run([sys.executable, "-m", "flare_runtime.cli", *paths, *options], check=True)
    record = json.loads(target.with_suffix(".json").read_bytes())
    return Best(cpu_s() - before, record["peak_memory_mib"])


def _row(series: str, step: str, ours: Sequence[Best], theirs: Sequence[Best]) -> tuple[Cell, ...]:
    s, mib = (min(getattr(one, name) for one in ours) for name in ("s", "mib"))
    their_s, their_mib = (min((getattr(one, name) for one in theirs), default=None) for name in ("s", "mib"))
    faster, less = their_s and their_s / s, their_mib and their_mib / mib
    return series, _WHAT[step], s, their_s, faster, mib, their_mib, less


def figures_of(command: Sequence[str]) -> Best:
    """Return what a fresh process measured, which it prints last.

    Raises:
        RuntimeError: where it fails, with the end of what it said.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}:\n{done.stderr[-2000:]}")
    return Best(**json.loads(done.stdout.splitlines()[-1]))


def step_of_ours(step: str, series: Path, work: Path) -> dict[str, float]:
    """Return what a step takes here; writing begins with the headers of the series, as TotalSegmentator's does."""
    import pydicom  # noqa: F401 (at the start, as TotalSegmentator's module imports it)

    from flare_runtime.imaging import read, write
    from flare_runtime.imaging.labelling import Labelling
    from flare_runtime.imaging.volume import Template
    from flare_runtime.model.manifest import Label

    mask = work / "flare-lite.npy"
    if step == "read":
        figures = measured(lambda: read.read_volume(series))
        geometry = read.read_grid(series).geometry
        assert geometry is not None
        assert geometry.affine is not None
        np.save(mask, np.ascontiguousarray(ellipsoids(geometry.affine, geometry.shape[::-1]).transpose()))
        return figures
    labels = np.load(mask)
    names = tuple(Label(name=name, values=(value,)) for value, name in LABELS.items())

    def save() -> None:
        (found,) = read.find_series(series)
        geometry = found.read_grid(read.DEFAULT_MAX_VOXELS).geometry
        assert geometry is not None
        template = Template(geometry, found, Labelling(names, "benchmark", "0" * 64, "0"))
        suffix = {"dicom-seg": "seg", "rtstruct": "rtstruct"}[step]
        write.write_mask(work / f"flare-lite.{suffix}.dcm", labels, template)

    return measured(save)


def with_uids(series: Path, target: Path) -> Path:
    """Copy a series, with the UIDs that a segmentation refers to where it was published without them."""
    from pydicom import dcmread
    from pydicom.uid import generate_uid

    target.mkdir()
    for file in sorted(series.iterdir()):
        dataset = dcmread(file)
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
            if not dataset.get(keyword):
                setattr(dataset, keyword, generate_uid(entropy_srcs=[str(series), keyword]))
        dataset.save_as(target / file.name)
    return target


def write_series(folder: Path, count: int) -> Path:
    """Write a series of slices of a phantom, over and over."""
    from tests.runtime.dicom_files import Series

    from flare_phantom.phantom import make_phantom

    image = make_phantom(1, (min(count, 100), 512, 512), (1.0, 0.8, 0.8)).image

    def dated(dataset: Any, _index: int) -> None:  # or TotalSegmentator's writers fail
        dataset.StudyDate, dataset.StudyTime, dataset.StudyID = "20260101", "120000", "1"

    class Large(Series):
        def pixels(self) -> Any:
            return np.resize(image, (count, 512, 512)) + np.int16(1024)

    return Large(count=count, step_mm=1.0, spacing_mm=(0.8, 0.8), change=dated).write(folder, "IM{:04d}.dcm")


if __name__ == "__main__":
    run(parse_args())
