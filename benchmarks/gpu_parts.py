"""Parts of `gpu_check.sh`: the time of a tile, the masks of real scans beside the CPU's, a worker that is killed.

usage: python -m benchmarks.gpu_parts tile BUNDLE BACKEND PRECISION MIB | agreement BUNDLE SCAN... | kill BUNDLE SCAN
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from flare_eval.efficiency.gpu import GpuMeter
from flare_export.parity.agreement import compare
from flare_runtime import Segmenter
from flare_runtime.backends.synthetic_patch import structured_patch
from flare_runtime.compute.device import as_gpu
from flare_runtime.imaging.read import read_volume
from flare_runtime.options import RunOptions
from flare_runtime.pipeline.gpu_memory import MIB

_ENGINES = (("auto", "auto"), ("cudnn", "fp16"), ("onnxruntime", "fp16"), ("onnxruntime", "fp32"))
_TILES, _COPIES = 20, 6


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=_PARTS)
    parser.add_argument("arguments", nargs="+", metavar="ARGUMENT")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Run one part."""
    _PARTS[args.part](*args.arguments)


def tile(bundle: str, backend: str, precision: str, mib: str) -> None:
    """Print the seconds until the network is there, and the milliseconds and the memory of a tile."""
    started = time.perf_counter()
    options = RunOptions("cuda:0", backend, precision, gpu_memory_mib=int(mib))
    segmenter = Segmenter.load(bundle, options)
    loaded = time.perf_counter() - started
    network, device = segmenter.network, as_gpu(segmenter.device)
    manifest = segmenter.bundle.manifest
    with device.active():
        there = device.upload(structured_patch(len(manifest.channels), manifest.patch))
        times = []
        for _ in range(_TILES):
            device.synchronize()
            began = time.perf_counter()
            network.run(there)
            device.synchronize()
            times.append(1000 * (time.perf_counter() - began))
        used, outside = device.memory.used_bytes() // MIB, device.memory.outside_bytes() // MIB
    exact = "NVML" if device.memory.is_exact else "memGetInfo"
    print(
        f"{backend} {precision} within {mib} MiB: loaded in {loaded:.2f} s, first tile {times[0]:.1f} ms, "
        f"{median(times[1:]):.2f} ms a tile ({min(times):.2f} to {max(times[1:]):.2f}); "
        f"{used} MiB in use, {outside} outside of the pool ({exact})"
    )


def agreement(bundle: str, *scans: str) -> None:
    """Print how far the masks of scans agree with those of the CPU in float32."""
    images = {Path(scan).name: read_volume(Path(scan)) for scan in scans}
    on_cpu = Segmenter.load(bundle, RunOptions(device="cpu", precision="fp32"))
    expected = {name: on_cpu.segment(image).mask for name, image in images.items()}
    for backend, precision in _ENGINES:
        segmenter = Segmenter.load(bundle, RunOptions("cuda:0", backend, precision))
        for name, image in images.items():
            result = segmenter.segment(image)
            agreed = compare(expected[name], result.mask)
            used = f"{segmenter.network.backend} {segmenter.network.precision}"
            print(
                f"{backend} ({used}) {name}: Dice {agreed.dice:.6f}, {agreed.voxel_agreement:.5%} of voxels equal, "
                f"{int((expected[name] > 0).sum())} voxels; {result.gpu_memory_mib} MiB",
                flush=True,
            )


def kill(bundle: str, scan: str) -> None:
    """Kill the worker of a run over a folder once its first mask is there; all masks have to come."""
    gpu = GpuMeter.find()
    assert gpu is not None
    with TemporaryDirectory() as scratch:
        source, target = Path(scratch, "in"), Path(scratch, "out")
        source.mkdir()
        for index in range(_COPIES):
            (source / f"{index}_0000.nii.gz").symlink_to(Path(scan).resolve())
        command = [sys.executable, "-m", "flare_runtime.cli", "-i", str(source), "-o", str(target), "-m", bundle]
        process = subprocess.Popen(
            [*command, "--device", "cuda:0", "--backend", "cudnn"], stderr=subprocess.PIPE, text=True
        )
        while process.poll() is None and not list(target.glob("*.json")):
            time.sleep(0.01)
        for worker in gpu.processes():
            os.kill(worker, signal.SIGKILL)
            print(f"killed {worker}")
        _, said = process.communicate()
        records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(target.glob("*.json"))]
        masks = {path.read_bytes() for path in target.glob("*.nii.gz")}
        print(said, end="")
        print(f"exit {process.returncode}, {len(records)} records, {len(masks)} different mask(s)")
        assert process.returncode == 0
        assert [record["status"] for record in records] == ["done"] * _COPIES
        assert len(masks) == 1


_PARTS: dict[str, Callable[..., None]] = {"tile": tile, "agreement": agreement, "kill": kill}


if __name__ == "__main__":
    run(parse_args())
