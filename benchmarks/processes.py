"""A command in a fresh process: its wall time, and the peak memory of it and its children together."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_INTERVAL_S = 0.05


@dataclass(frozen=True)
class Run:
    """What one run of a command cost.

    Attributes:
        wall_s: from the start of the process to its end.
        peak_mib: the largest proportional set size of the process tree (shared pages counted once).
        output: its standard output.
    """

    wall_s: float
    peak_mib: float
    output: str


def measure(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Run:
    """Run a command to its end and measure it (Linux).

    Raises:
        RuntimeError: with its error output, where it fails.
    """
    started = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})}
    ) as process:
        peak = [0.0]
        sampler = threading.Thread(target=_sample, args=(process, peak), daemon=True)
        sampler.start()
        output, errors = process.communicate()
        wall = time.perf_counter() - started
        sampler.join()
    if process.returncode:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}:\n{errors[-3000:]}")
    return Run(wall, peak[0], output)


def _sample(process: "subprocess.Popen[str]", peak: list[float]) -> None:
    while process.poll() is None:
        peak[0] = max(peak[0], sum(map(_pss_mib, _tree(process.pid))))
        time.sleep(_INTERVAL_S)


def _tree(pid: int) -> list[int]:
    found = [pid]
    for parent in found:
        try:
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def _pss_mib(pid: int) -> float:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        pass
    return 0.0


def python(*arguments: str) -> list[str]:
    """Return a command line of this interpreter."""
    return [sys.executable, *arguments]
