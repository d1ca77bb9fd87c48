"""What thousands of cases in one process of `flare-infer` cost: the start, and memory, files and threads as they pass.

usage: python -m benchmarks.many_cases [--cases 10000] [--model BUNDLE] [--json FILE]
Exits with 1 where the run begins later than 2 s, memory rises by more than 2 MiB per 1,000 cases, or the open files or
threads do not stay as they were.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np

from benchmarks.samples.workspace import make_workspace
from benchmarks.tables import Column, Table, add_table_option
from flare_phantom.phantom import make_phantom, write_case

MAX_START_S, MAX_SLOPE_MIB = 2.0, 2.0
SHAPE, SPACING_MM = (16, 16, 16), (2.5, 1.5, 1.5)
# Images that are not links to others.
_DIFFERENT = 100
# Caches fill and libraries load during the first cases.
_SETTLED = 0.1


@dataclass(frozen=True)
class Sample:
    """The process after so many cases."""

    cases: int
    seconds: float
    memory_mib: float
    files: int
    threads: int


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--model", type=Path, help="default: a tiny network, so that all else shows")
    parser.add_argument("--json", type=Path, help="where the samples are written")
    add_table_option(parser)
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> int:
    """Measure, print, and return the exit code."""
    with TemporaryDirectory() as scratch:
        if args.model is None:
            make_workspace(Path(scratch, "models"))
        write_cases(Path(scratch, "images"), args.cases)
        model = args.model or Path(scratch, "models", "bundle")
        start_s, samples = measure(Path(scratch, "images"), Path(scratch, "masks"), model, args.cases)
    slope = memory_slope(samples)
    print(f"{'cases':>7}{'s':>9}{'MiB':>9}{'files':>7}{'threads':>9}")
    for sample in samples:
        print(f"{sample.cases:>7}{sample.seconds:>9.1f}{sample.memory_mib:>9.1f}{sample.files:>7}{sample.threads:>9}")
    print(f"begun after {start_s:.2f} s; memory {slope:+.2f} MiB per 1,000 cases")
    if args.json:
        content = {"start_s": start_s, "mib_per_1000_cases": slope, "samples": [asdict(sample) for sample in samples]}
        args.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    if args.table:
        write_table(args.table, args.cases, start_s, slope, samples)
    return 0 if start_s <= MAX_START_S and slope <= MAX_SLOPE_MIB and is_flat(samples) else 1


def write_table(path: Path, cases: int, start_s: float, slope: float, samples: Sequence[Sample]) -> None:
    """Keep the figures beside their bounds; the first sample after the run has settled stands for its begin."""
    first, last = next(sample for sample in samples if sample.cases >= _SETTLED * samples[-1].cases), samples[-1]
    between = f", after {first.cases:,} and {last.cases:,} cases"
    rows = [
        ("the first case is at the network after", f"{MAX_START_S:g} s", f"{start_s:.2f} s"),
        ("memory, per 1,000 cases, fitted once the run has settled", f"{MAX_SLOPE_MIB:g} MiB", f"{slope:.2f} MiB"),
        (f"memory{between}", "", f"{first.memory_mib:.0f} and {last.memory_mib:.0f} MiB"),
        (f"open files{between}", "the same", f"{first.files} and {last.files}"),
        (f"threads{between}", "the same", f"{first.threads} and {last.threads}"),
    ]
    columns = (Column(f"{cases:,} scans of 16 x 16 x 16 voxels in one process"), Column("bound"), Column("measured"))
    Table.measured("python -m benchmarks.many_cases", columns, rows).write(path)


def write_cases(folder: Path, count: int) -> None:
    """Write a hundred different images under `count` names."""
    images = [folder / f"case{index:05d}_0000.nii.gz" for index in range(count)]
    for seed, image in enumerate(images[:_DIFFERENT]):
        write_case(make_phantom(seed, SHAPE, SPACING_MM), image, folder.with_name("labels") / image.name)
    for index, image in enumerate(images[_DIFFERENT:]):
        os.link(images[index % _DIFFERENT], image)


def measure(images: Path, masks: Path, model: Path, count: int) -> tuple[float, list[Sample]]:
    """Segment a folder in one fresh process; return when it began, and twenty samples on the way."""
    options = ["-m", str(model), "--device", "cpu", "--threads", "1", "--report", str(masks.with_suffix(".json"))]
    command = [sys.executable, "-m", "flare_runtime.cli", "-i", str(images), "-o", str(masks), *options]
    started = perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stderr
    start_s, done, samples = 0.0, 0, []
    for line in process.stderr:
        if line.endswith("case(s)\n"):  # the heading, once the first case is at the network
            start_s = perf_counter() - started
        done += line.startswith("case")
        if line.startswith("case") and done % max(count // 20, 1) == 0 and done < count:
            samples.append(_sample(process.pid, images.parent, done, perf_counter() - started))
    if process.wait() or done != count:
        raise RuntimeError(f"{done} of {count} cases, exit code {process.returncode}")
    return start_s, samples


def memory_slope(samples: Sequence[Sample]) -> float:
    """Return by how many MiB memory rises per 1,000 cases once the run has settled."""
    settled = [sample for sample in samples if sample.cases >= _SETTLED * samples[-1].cases]
    cases = np.array([sample.cases for sample in settled])
    return float(np.polyfit(cases, [sample.memory_mib for sample in settled], 1)[0] * 1000)


def is_flat(samples: Sequence[Sample]) -> bool:
    """Whether no more files and threads are open late than early, once the run has settled.

    The least of several samples counts: a file may be open for a moment in any of them.
    """
    settled = [sample for sample in samples if sample.cases >= _SETTLED * samples[-1].cases]
    early, late = settled[: len(settled) // 2], settled[len(settled) // 2 :]
    return all(
        min(getattr(s, what) for s in late) <= min(getattr(s, what) for s in early) for what in ("files", "threads")
    )


def _sample(pid: int, scratch: Path, cases: int, seconds: float) -> Sample:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    files = sum(_stays_open(file, scratch) for file in Path(f"/proc/{pid}/fd").iterdir())
    return Sample(cases, seconds, int(fields["VmRSS"].split()[0]) / 1024, files, int(fields["Threads"]))


def _stays_open(file: Path, scratch: Path) -> bool:
    """Whether an open file is anything but an image or a result of the case at hand."""
    try:
        return not str(file.readlink()).startswith(str(scratch))
    except FileNotFoundError:  # closed in the meantime
        return False


if __name__ == "__main__":
    sys.exit(run(parse_args()))
