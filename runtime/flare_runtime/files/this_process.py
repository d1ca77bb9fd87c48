"""Names of processes and of running systems, by which one process can find out whether another has ended."""

import os
from contextlib import suppress
from functools import cache
from pathlib import Path


@cache
def system_id() -> str:
    """Return a text that all processes of one running kernel share, and no others; empty where it cannot be known."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


def process_id() -> str:
    """Return this process's number on its system."""
    return f"{system_id()}/{os.getpid()}"


def has_ended(process: str) -> bool:
    """Whether the process of a `process_id` was one of this system and is no more."""
    system, _, number = process.rpartition("/")
    return system == system_id() and not Path("/proc", number).exists()
