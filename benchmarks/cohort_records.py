"""What `flare-infer status` and `merge` take for a folder of many records: time and peak memory of a fresh process.

usage: python -m benchmarks.cohort_records [--records 100000] [--table FILE]
Of a hundred records two are of refused cases and one of a failed one; the others list five lesions on average. The
files were written just before, so that no disk is waited for. Each command runs several times, and the one that took
the least of a processor counts, which is the time that passes where nothing else runs. Exits with 1 where a status
takes more than 2 s of it or a merge more than 60 s.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from benchmarks.tables import Column, Table, add_table_option
from flare_runtime.files.json_file import encode_json
from flare_runtime.pipeline.lesions import LabelTotal, Lesion
from flare_runtime.run.record import CaseRecord

MAX_STATUS_S, MAX_MERGE_S = 2.0, 60.0
# Of every hundred cases.
_REFUSED, _FAILED = 2, 1
_MOST_LESIONS = 10
_MODEL: dict[str, str | float | bool] = {
    "name": "a model",
    "configuration": "3d_fullres",
    "bundle_sha256": "b" * 64,
    "backend": "openvino",
    "device": "cpu",
    "precision": "bf16",
    "step": 0.5,
    "tta": False,
    "crop": "nonzero",
    "postprocessing": "none",
    "flare-lite": "0.1.0",
}
_STAGES = {"read": 0.4, "preprocess": 1.2, "network": 9.3, "blend": 0.3, "restore": 0.8, "measure": 0.5, "write": 0.6}
_COMMAND = """
import os, sys
from flare_runtime.cli import main
main(sys.argv[1:])
used = sum(os.times()[:2])
print(used, next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@dataclass(frozen=True)
class Cost:
    """What a command took."""

    seconds: float
    processor_s: float
    memory_mib: float


def record_of(number: int) -> CaseRecord:
    """Return the record of a case as a run writes it."""
    case, kind = f"case{number:07d}", number % 100
    inputs = [f"/data/scans/{case}_0000.nii.gz"]
    if kind < _REFUSED:
        return CaseRecord(case=case, status="refused", reason="truncated", message="cut short", inputs=inputs)
    if kind < _REFUSED + _FAILED:
        return CaseRecord(case=case, status="failed", reason="memory", message="MemoryError: 8 GiB", inputs=inputs)
    lesions = [_lesion(index + 1) for index in range(number % (_MOST_LESIONS + 1))]
    volume_ml = round(sum(lesion.volume_ml for lesion in lesions), 3)
    return CaseRecord(
        case=case,
        status="done",
        inputs=inputs,
        inputs_sha256=["a" * 64],
        mask=f"/data/masks/{case}.nii.gz",
        mask_sha256="c" * 64,
        timings_s={**_STAGES, "total": sum(_STAGES.values())},
        peak_memory_mib=812.4,
        shape=(120, 512, 512),
        spacing_mm=(5.0, 0.78, 0.78),
        lesions=lesions,
        totals=[LabelTotal(1, "tumour", len(lesions), volume_ml)] if lesions else [],
        model=_MODEL,
    )


def _lesion(number: int) -> Lesion:
    return Lesion(
        1,
        900,
        round(12 / number, 3),
        (61.2, 240.9, 301.4),
        (25.0, 18.7, 20.3),
        "tumour",
        (-41.2, 63.5, -512.0),
        number,
        (41.2, -63.5, -512.0),
        60,
        24.1,
        15.8,
        61,
        44.7,
        12.1,
        False,
    )


def write_folder(folder: Path, count: int) -> None:
    """Write the records of a cohort, each beside a file in place of its mask."""
    folder.mkdir()
    for number in range(count):
        record = record_of(number)
        (folder / f"{record.case}.json").write_bytes(encode_json(record))
        if record.status == "done":
            (folder / f"{record.case}.nii.gz").touch()


def cost_of(words: Sequence[str | Path], rounds: int) -> Cost:
    """Run a command in fresh processes and return the least that it took, from start to end."""
    costs = []
    for _ in range(rounds):
        started = perf_counter()
        command = [sys.executable, "-c", _COMMAND, *map(str, words)]
        run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        *_, processor_s, memory_kib = run.stdout.split()
        costs.append(Cost(perf_counter() - started, float(processor_s), int(memory_kib) / 1024))
    return min(costs, key=lambda cost: cost.processor_s)


def measure(scratch: Path, count: int, rounds: int) -> dict[str, Cost]:
    """Return what each command takes for so many records."""
    folder = scratch / f"{count}"
    write_folder(folder, count)
    costs = {"status": cost_of(["status", folder], rounds)}
    for suffix in ("csv", "parquet"):
        tables = [scratch / f"cases.{suffix}", "--lesions", scratch / f"lesions.{suffix}"]
        costs[f"merge, both tables as {suffix}"] = cost_of(["merge", folder, "-o", *tables], rounds)
    return costs


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    add_table_option(parser)
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> int:
    """Measure, print, and return the exit code."""
    few, many = args.records // 10, args.records
    with TemporaryDirectory() as scratch:
        costs = {count: measure(Path(scratch), count, args.rounds) for count in (few, many)}
    rows = []
    for name, cost in costs[many].items():
        bound = MAX_STATUS_S if name == "status" else MAX_MERGE_S
        before = costs[few][name]
        rows.append((name, bound, cost.processor_s, cost.memory_mib, before.memory_mib))
        took = f"{cost.processor_s:.2f} s of {cost.seconds:.2f} s, {cost.memory_mib:.0f} MiB"
        print(f"{name:<32}{took} ({few:,}: {before.memory_mib:.0f} MiB)")
    if args.table:
        columns = [Column(f"{many:,} records"), Column("bound, s"), Column("time of a processor, s", 2)]
        columns += [Column("memory, MiB"), Column(f"memory with {few:,}, MiB")]
        packages = ("msgspec", "pyarrow")
        Table.measured("python -m benchmarks.cohort_records", columns, rows, packages).write(args.table)
    return 0 if all(processor_s <= bound for _, bound, processor_s, *_ in rows) else 1


if __name__ == "__main__":
    sys.exit(run(parse_args()))
