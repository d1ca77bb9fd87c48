"""Runs a command in a fresh process and samples its memory and its processor use as it runs (Linux)."""

import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from flare_eval.efficiency.gpu import GpuMeter
from flare_eval.results import Sample

INTERVAL_S = 0.1
_TICKS = os.sysconf("SC_CLK_TCK")
_TAIL_BYTES = 4000


@dataclass(frozen=True)
class Measurement:
    """What one run of a command cost.

    Attributes:
        exit_code: of the process; negative for a signal.
        wall_s: from the start of the process to its end.
        samples: memory and processor use, every `INTERVAL_S`.
        output: its standard output.
        error_tail: the end of its error output.
        idle_device_mib: in use on the GPU before the start; None without one.
    """

    exit_code: int
    wall_s: float
    samples: list[Sample]
    output: str
    error_tail: str
    idle_device_mib: float | None

    @property
    def peak_mib(self) -> float:
        """The largest memory of the process tree."""
        return max((sample.host_mib for sample in self.samples), default=0.0)


def measure(
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
    *,
    gpu: GpuMeter | None = None,
    whole_machine: bool = False,
) -> Measurement:
    """Run a command to its end and measure it; a failure is in the exit code.

    Args:
        command: the program and its arguments.
        environment: set on top of this process's own.
        gpu: read at every sample, where there is one.
        whole_machine: sample the memory of all processes beyond what they had before, and all processors,
            for a command whose work is done by a daemon.

    Raises:
        FileNotFoundError, PermissionError: where there is no such program.
    """
    idle = gpu.used_mib() if gpu else None
    scope: _Scope = _Machine() if whole_machine else _Tree()
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
        samples: list[Sample] = []
        ended = threading.Event()
        sampler = threading.Thread(target=_sample, args=(process.pid, scope, started, samples, ended, gpu), daemon=True)
        try:
            sampler.start()
            exit_code = process.wait()
        except BaseException:
            os.killpg(process.pid, 9)
            process.wait()
            raise
        finally:
            ended.set()
            if sampler.is_alive():
                sampler.join()
        wall = time.perf_counter() - started
        for file in (output, errors):
            file.seek(0)
        tail = errors.read()[-_TAIL_BYTES:].decode(errors="replace")
        return Measurement(exit_code, wall, samples, output.read().decode(errors="replace"), tail, idle)


class _Scope(Protocol):
    """Whose memory (MiB) and processor time (s) are sampled."""

    def read(self, tree: Sequence[int]) -> tuple[float, float]: ...


class _Tree:
    def read(self, tree: Sequence[int]) -> tuple[float, float]:
        return _memory_mib(tree), _cpu_seconds(tree)


class _Machine:
    def __init__(self) -> None:
        self._idle_mib, self._idle_s = _machine_memory_mib(), _machine_cpu_seconds()

    def read(self, tree: Sequence[int]) -> tuple[float, float]:
        return max(_machine_memory_mib() - self._idle_mib, 0.01), _machine_cpu_seconds() - self._idle_s


def _sample(
    root: int, scope: _Scope, started: float, samples: list[Sample], ended: threading.Event, gpu: GpuMeter | None
) -> None:
    """Take a sample at every multiple of the interval, late ones at once, until the process has ended."""
    cpu_before, at_before, turn = 0.0, started, 0
    while not ended.is_set():
        now = time.perf_counter()
        tree = _tree(root)
        memory, cpu = scope.read(tree)
        share = max(cpu - cpu_before, 0.0) / max(now - at_before, 1e-6)
        device, own = gpu.read(tree) if gpu else (None, None)
        if memory:
            samples.append(Sample(round(now - started, 4), memory, round(share, 3), device, own))
        cpu_before, at_before = cpu, now
        turn = max(turn + 1, int((time.perf_counter() - started) / INTERVAL_S))
        ended.wait(max(started + turn * INTERVAL_S - time.perf_counter(), 0.0))


def _tree(root: int) -> list[int]:
    """Return the process and all its descendants."""
    processes = [root]
    for parent in processes:
        try:
            for task in Path(f"/proc/{parent}/task").iterdir():
                processes += [int(child) for child in (task / "children").read_text(encoding="utf-8").split()]
        except OSError:  # it has ended
            continue
    return processes


def _memory_mib(tree: Sequence[int]) -> float:
    """Return the resident memory of the processes: what is private added up, what files map counted once.

    The kernel keeps these numbers at hand. The proportional set size is the exact one, but walks every page of every
    process: at ten times a second that costs half a core for a process of a few GiB.
    """
    private, mapped, shared = 0, 0, 0
    for pid in tree:
        try:
            lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
        except OSError:
            continue
        sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith("Rss")}
        private += sizes.get("RssAnon", 0)
        mapped, shared = max(mapped, sizes.get("RssFile", 0)), max(shared, sizes.get("RssShmem", 0))
    return round((private + mapped + shared) / 1024, 2)


def _cpu_seconds(tree: Sequence[int]) -> float:
    """Return the processor time of the processes so far, and of the children they waited for."""
    total = 0
    for pid in tree:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(map(int, fields[11:15]))  # utime, stime, and both of ended children, which are in no tree any more
    return total / _TICKS


def _machine_memory_mib() -> float:
    # Not what /proc/meminfo calls available: in a virtual machine its balloon takes and gives that as it likes.
    return _memory_mib([int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()])


def _machine_cpu_seconds() -> float:
    user, nice, system = map(int, Path("/proc/stat").read_text(encoding="utf-8").split()[1:4])
    return (user + nice + system) / _TICKS
