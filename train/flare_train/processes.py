"""Lets one process at a time train in a folder, and ends the processes that it forks when it ends."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from flare_runtime.errors import UsageError


@contextmanager
def only_process(lock: Path, otherwise: str, *, wait: bool = False) -> Iterator[None]:
    """Hold a lock that goes with the process, however it ends, and that its children do not inherit.

    Args:
        lock: a file.
        otherwise: the message where another process holds it.
        wait: for that process.

    Raises:
        UsageError: where another process holds it.
    """
    with lock.open("a") as file:  # whatever else it may hold stays
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            raise UsageError(otherwise) from error
        yield


@cache
def end_children_with_me() -> None:
    """Let every process that is forked from now on end when this one does, even by SIGKILL (Linux).

    nnU-Net's augmentation processes would go on for ever, with their memory and a core each.
    """
    from torch import multiprocessing

    # PyTorch's binding of prctl(PR_SET_PDEATHSIG), which the standard library lacks.
    end_with_parent: Any = multiprocessing._prctl_pr_set_pdeathsig  # type: ignore[attr-defined]
    os.register_at_fork(after_in_child=lambda: end_with_parent(signal.SIGKILL))
