"""What tests ask of processes on Linux: to do work in a fork, whether one has ended, how much memory this one takes."""

import gc
import os
import traceback
from collections.abc import Callable
from pathlib import Path


def fork(work: Callable[[], object]) -> int:
    """Do some work in a fork, which exits with 0, or with 1 where it raises, and return the fork's process ID."""
    process = os.fork()
    if process == 0:
        code = 1
        gc.disable()  # a network in a cycle of garbage would wait here for its threads, of which a fork has none
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:  # or the fork would go on as a second pytest
            os._exit(code)
    return process


def has_ended(process: int) -> bool:
    """Return whether a process has ended; one that nobody waited for, as PID 1 of a container may not, has too."""
    try:
        status = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return True
    return status.rpartition(")")[2].split()[0] in "ZX"


def reset_peak_memory() -> None:
    """Let `VmHWM` of this process begin anew at the memory that it takes now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def memory_bytes(field: str) -> int:
    """Return a size of this process, such as `VmRSS` (its memory now) or `VmHWM` (the most since the last reset)."""
    with open("/proc/self/status", encoding="ascii") as file:  # noqa: PTH123 (cheaper, and called for each fuzz input)
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(field))
