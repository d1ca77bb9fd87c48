"""What a case of a folder takes one after the other and several at once, as in the worker of a GPU; and the memory.

Each is measured in fresh processes, in turn, and the fastest counts. The network is a small one on all cores, on one
core, or, in place of a GPU's, one that takes its time and hardly any core.
usage: python -m benchmarks.several_cases [--cases 8] [--rounds 3] [--shape 150 512 512] [--table FILE]
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.memory_estimate import MIB, status_bytes
from benchmarks.scans import write_scan
from benchmarks.tables import Column, Table, add_table_option
from benchmarks.whole_case import run_module
from flare_runtime.cases.finding import find_cases
from flare_runtime.compute.arrays import FloatArray
from flare_runtime.imaging.read import read_grid
from flare_runtime.model.bundle import Bundle
from flare_runtime.options import RunOptions
from flare_runtime.pipeline.host_memory import HostMemory, give_back
from flare_runtime.run.overlap import IN_FLIGHT, segment_overlapping
from flare_runtime.run.serial import segment_cases
from flare_runtime.segmenter import Segmenter

_TILE_S = 0.01
_NETWORKS = {"all": "a small network on all cores", "one": "on one core", "elsewhere": f"elsewhere, {_TILE_S} s a tile"}
_COLUMNS = (
    Column("network"),
    Column("one after the other, s a case", 2),
    Column("several at once, s a case", 2),
    Column("share", 2),
    Column("memory, MiB"),
    Column("several at once, MiB"),
    Column("of the estimate", 2),
)


class Elsewhere:
    """A network that is somewhere else: it takes its time, and finds one lesion in every tile."""

    backend, device, precision, batch = "elsewhere", "cpu", "fp32", 1

    def __init__(self, patch: Sequence[int]) -> None:
        self._found = np.full((1, 2, *patch), -1, np.float32)
        self._found[:, 1, 20:30, 40:60, 40:60] = 1
        self._logits = self._found.copy()

    def run(self, _tiles: FloatArray) -> FloatArray:
        """Return logits."""
        time.sleep(_TILE_S)
        np.copyto(self._logits, self._found)
        return self._logits

    def release(self) -> None:
        """Keep the memory."""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--networks", nargs="+", choices=_NETWORKS, default=list(_NETWORKS))
    parser.add_argument("--shape", type=int, nargs=3, default=(150, 512, 512), metavar=("Z", "Y", "X"))
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)  # of the fresh process
    add_table_option(parser)
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Measure, and print the table."""
    from benchmarks.samples.model_folders import write_model_folder  # and torch

    with TemporaryDirectory() as scratch:
        work = Path(scratch)
        sizes = {"features": (4, 8), "convs": 1, "patch": (64, 128, 128), "spacing_mm": (2.4, 1.6, 1.6)}
        model = write_model_folder(work / "model", folds=("all",), background_bias=13, **sizes)
        run_module("flare_export.cli", str(model), "-o", str(work / "bundle"))
        (work / "in").mkdir()
        write_scan(work / "scan.nii.gz", args.shape, (2.0, 0.8, 0.8))
        for index in range(args.cases):
            (work / "in" / f"{index}.nii.gz").symlink_to(work / "scan.nii.gz")
        rows = [_row(network, work, args.rounds) for network in args.networks]
    table = Table.measured(f"python -m benchmarks.several_cases{_options(args)}", _COLUMNS, rows)
    print(table.markdown)
    if args.table:
        table.write(args.table)


def _options(args: argparse.Namespace) -> str:
    shape = " ".join(map(str, args.shape))
    return f" --networks {' '.join(args.networks)} --cases {args.cases} --rounds {args.rounds} --shape {shape}"


def _row(network: str, work: Path, rounds: int) -> tuple[str | float, ...]:
    found: dict[str, list[dict[str, Any]]] = {"one": [], "many": []}
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # on few cores its threads wait for each other
    for _ in range(rounds):
        for way, results in found.items():
            command = [sys.executable, "-m", "benchmarks.several_cases", "--measure", str(work), network, way]
            ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
            results.append(json.loads(ran.stdout))
            print(network, way, ran.stdout.strip(), flush=True)
    masks = {result["masks"] for results in found.values() for result in results}
    assert len(masks) == 1, "the masks differ"
    one, many = (min(result["case_s"] for result in results) for results in found.values())
    memory = [max(result["mib"] for result in results) for results in found.values()]
    return _NETWORKS[network], one, many, many / one, *memory, memory[1] / found["many"][0]["estimate_mib"]


def measure(folder: str, network: str, way: str) -> dict[str, Any]:
    """Segment the cases in this process, which has to be fresh; the first one is not counted."""
    work = Path(folder)
    bundle = Bundle.open(work / "bundle")
    if network == "elsewhere":
        memory = HostMemory(bundle.manifest, network_bytes=0)
        segmenter = Segmenter(bundle, Elsewhere(bundle.manifest.patch), memory=memory)
    else:
        threads = 1 if network == "one" else None
        segmenter = Segmenter.load(bundle, RunOptions(device="cpu", precision="fp32", threads=threads))
    segment = segment_overlapping if way == "many" else segment_cases
    with TemporaryDirectory() as target:
        cases = find_cases(work / "in", target, 1)
        list(segment_cases(segmenter, cases[:1]))
        give_back()
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is from now on
        before, began = status_bytes("VmRSS"), time.perf_counter()
        records = list(segment(segmenter, cases))
        case_s = (time.perf_counter() - began) / len(cases)
    assert all(record.status == "done" for record in records), records
    need = segmenter.memory.need_of([read_grid(cases[0].images[0])])
    return {
        "case_s": case_s,
        "mib": (status_bytes("VmHWM") - before) / MIB,
        "estimate_mib": (IN_FLIGHT * need.beside_network + need.network) / MIB,
        "masks": "".join(str(record.mask_sha256) for record in records),
        "timings_s": records[-1].timings_s,
    }


if __name__ == "__main__":
    arguments = parse_args()
    if arguments.measure:
        print(json.dumps(measure(*arguments.measure)))
    else:
        run(arguments)
