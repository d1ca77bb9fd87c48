"""The whole command on a GPU beside nnU-Net's, cold and warm: seconds, milliseconds a tile, TFLOP/s, memory, agreement.

Each runs in a fresh process on the same phantom with the same seeded random weights. Cold is one case from the start of
the process to its end, first the same with an empty cache, and warm what each further case of a folder adds. usage:
python -m benchmarks.gpu_case [--device cuda:0] [--shape 300 512 512] [--features 32 64 128 256] [--patch 128 160 160]
[--gpu-memory 4096 2000] [--eager] [--table FILE]
"""

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.tables import Cell, Column, Table, add_table_option
from benchmarks.whole_case import prepare, run_module
from flare_eval.efficiency.gpu import GpuMeter
from flare_eval.efficiency.process import INTERVAL_S, Measurement
from flare_export.parity.agreement import compare
from flare_runtime.imaging.read import read_volume
from flare_runtime.model.bundle import Bundle

_COPIES = 3
_ENGINES = (("onnxruntime", "fp32"), ("onnxruntime", "fp16"), ("cudnn", "fp16"), ("tensorrt", "fp16"))
_REFERENCE = "onnxruntime fp32"
_COLUMNS = (
    Column(""),
    Column("first, s", 1),
    Column("cold, s", 1),
    Column("warm, s", 2),
    Column("network, ms a tile", 1),
    Column("TFLOP/s"),
    Column("GPU peak, MiB"),
    Column("GPU area, MiB s"),
    Column("Dice with fp32", 5),
)


@dataclass(frozen=True)
class _Result:
    """One method: its first and cold run, what a warm case takes, the seconds in the cold run's network, its mask."""

    name: str
    first_s: float | None
    cold: Measurement
    warm_s: float
    network_s: float
    mask: Path


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; the defaults are the paper's network on a chest-sized scan."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--shape", type=int, nargs=3, default=(300, 512, 512), metavar=("Z", "Y", "X"))
    parser.add_argument("--spacing", type=float, nargs=3, default=(2.0, 0.8, 0.8), metavar=("Z", "Y", "X"))
    parser.add_argument("--features", type=int, nargs="+", default=(32, 64, 128, 256))
    parser.add_argument("--patch", type=int, nargs=3, default=(128, 160, 160), metavar=("Z", "Y", "X"))
    parser.add_argument("--gpu-memory", type=int, nargs="+", default=[4096], metavar="MIB")
    parser.add_argument("--eager", action="store_true", help="leave out nnU-Net with its network compiled")
    add_table_option(parser)
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Measure every method that runs here and print the table; one that does not is named with the reason."""
    gpu = GpuMeter.find(int(args.device.removeprefix("cuda:")))
    if gpu is None:
        raise SystemExit(f"no GPU {args.device} that NVML knows; this benchmark needs one")
    with TemporaryDirectory() as scratch:
        work = Path(scratch)
        images, stem = prepare(args, work)
        copies = work / "copies"
        copies.mkdir()
        for index in range(_COPIES):
            (copies / f"{index}_0000.nii.gz").symlink_to(images / f"{stem}_0000.nii.gz")
        results: list[_Result] = []
        tiles = 0
        theirs = {"nnU-Net": {"nnUNet_compile": "f"}, "nnU-Net, compiled": {"nnUNet_compile": "1"}}
        for name, environment in [*theirs.items()][: 1 if args.eager else 2]:
            try:
                result, tiles = _theirs(name, args, work, images, gpu, environment)
                results.append(result)
            except RuntimeError as error:
                print(f"{name}: not measured: {str(error).splitlines()[-1]}", flush=True)
        for mib, (backend, precision) in product(args.gpu_memory, _ENGINES):
            try:
                results.append(_ours(backend, precision, mib, args, work, images, gpu))
            except RuntimeError as error:
                reason = str(error).splitlines()[-1]
                print(f"{backend} {precision} within {mib} MiB: not measured: {reason}", flush=True)
        gmac = Bundle.open(work / "bundle").manifest.network.gmac
        print(f"\n{gpu.name}, {'x'.join(map(str, args.shape))} voxels, {tiles} tiles of {gmac:g} GMAC\n")
        table = Table.measured("make bench-gpu", _COLUMNS, _rows(results, tiles, gmac, stem))
        print(table.markdown)
        if args.table:
            table.write(args.table)


def _theirs(
    name: str,
    args: argparse.Namespace,
    work: Path,
    images: Path,
    gpu: GpuMeter,
    environment: dict[str, str],
) -> tuple[_Result, int]:
    target = work / name.replace(", ", "_")

    def predict(source: Path) -> Measurement:
        command = (str(work / "model"), "all", str(source), str(target), args.device)
        return run_module("benchmarks.nnunet_predict", *command, gpu=gpu, **environment)

    cold, many = predict(images), predict(work / "copies")
    found = re.search(r"network_s=([\d.]+) tiles=(\d+)", cold.output)
    assert found, cold.output
    warm = (many.wall_s - cold.wall_s) / (_COPIES - 1)
    return _Result(name, None, cold, warm, float(found[1]), target), int(found[2])


def _ours(
    backend: str,
    precision: str,
    mib: int,
    args: argparse.Namespace,
    work: Path,
    images: Path,
    gpu: GpuMeter,
) -> _Result:
    target, report = work / f"{backend}_{precision}_{mib}", work / "report.json"
    options = ["--device", args.device, "--backend", backend, "--precision", precision, "--report", str(report)]
    options += ["-m", str(work / "bundle"), "--gpu-memory", str(mib), "-o", str(target)]
    if backend == "tensorrt":
        run_module("flare_export.cli", "trt", str(work / "bundle"), "--device", args.device)
    cache = {} if backend == "tensorrt" else {"XDG_CACHE_HOME": f"{target}_cache"}
    first = run_module("flare_runtime.cli", "-i", str(images), *options, **cache)
    many = run_module("flare_runtime.cli", "-i", str(work / "copies"), *options, gpu=gpu, **cache)
    cold = run_module("flare_runtime.cli", "-i", str(images), *options, gpu=gpu, **cache)
    record = json.loads(report.read_text(encoding="utf-8"))["cases"][0]
    timings = ", ".join(f"{stage} {seconds:.3f}" for stage, seconds in record["timings_s"].items())
    name = f"{backend} {precision}"
    print(f"{name} within {mib} MiB: {timings}; GPU memory {record['gpu_memory_mib']}", flush=True)
    warm = (many.wall_s - cold.wall_s) / (_COPIES - 1)
    if mib != args.gpu_memory[0]:
        name = f"{name}, {mib} MiB"
    return _Result(name, first.wall_s, cold, warm, record["timings_s"]["network"], target)


def _rows(results: Sequence[_Result], tiles: int, gmac: float, stem: str) -> Iterator[tuple[Cell, ...]]:
    """Yield a row for each result; agreement is with float32 on ONNX Runtime."""
    masks = {result.name: read_volume(result.mask / f"{stem}.nii.gz").voxels for result in results}
    reference = masks.get(_REFERENCE)
    for result in results:
        tile_s = result.network_s / max(tiles, 1)
        idle = result.cold.idle_device_mib or 0.0
        used = [max((sample.device_mib or 0.0) - idle, 0.0) for sample in result.cold.samples]
        dice = None if reference is None else compare(reference, masks[result.name]).dice
        seconds = (result.first_s, result.cold.wall_s, result.warm_s)
        speed = (1000 * tile_s, 2e-3 * gmac / max(tile_s, 1e-9))
        yield result.name, *seconds, *speed, max(used, default=0), sum(used) * INTERVAL_S, dice


if __name__ == "__main__":
    run(parse_args())
