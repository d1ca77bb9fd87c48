"""Names of processes and of running systems, by which one process can find out whether another has ended."""

import os
from contextlib import suppress
from functools import cache
from pathlib import Path

# Places in /proc/PID/stat after the name, which may hold anything.
_STATE, _THREADS, _STARTED = 0, 17, 19


@cache
def system_id() -> str:
    """Return a text that all processes of one running kernel share, and no others; empty where it cannot be known."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


def process_id() -> str:
    """Return a text that no other process has, of whatever system, container or time."""
    return f"{_space()}/{os.getpid()}/{_started(_status('self'))}"


def process_number(process: str) -> int | None:
    """Return the PID of a `process_id` as its own container counts; None where that is no such text."""
    number = process.rsplit("/", 2)[1:-1]
    return int(number[0]) if number and number[0].isdecimal() else None


def has_ended(process: str) -> bool:
    """Whether the process of a `process_id` ran where this one does and is no more; False where it cannot be known."""
    number = process_number(process)
    space, _, started = process.rsplit("/", 2) if number else ("", "", "")
    if not number or not space or space != _space():
        return False
    try:
        os.kill(number, 0)  # asks only; unlike /proc, it counts as this process does, and hides nothing
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        pass  # another user's, for one
    # Without a mount of its own, /proc of a container shows the numbers of the system around it.
    status = _status(str(number)) if _link("/proc/self") == str(os.getpid()) else []
    # What nobody waits for has ended too, once its last thread has.
    is_left_over = bool(status) and status[_STATE] in "ZX" and int(status[_THREADS]) <= 1
    return is_left_over or (bool(status and started) and _started(status) != started)


def _space() -> str:
    """Return a text that the processes share which count PIDs as this one does; empty where it cannot be known."""
    namespace = _link("/proc/self/ns/pid")
    return f"{system_id()}/{namespace}" if system_id() and namespace else ""


def _link(path: str) -> str:
    with suppress(OSError):
        return str(Path(path).readlink())
    return ""


def _status(process: str) -> list[str]:
    with suppress(OSError):
        text = Path("/proc", process, "stat").read_text(encoding="utf-8", errors="replace")
        return text.rpartition(")")[2].split()
    return []


def _started(status: list[str]) -> str:
    """Return when a process began, in ticks since its system did, which tells it from one that has its number later."""
    return status[_STARTED] if status else ""
