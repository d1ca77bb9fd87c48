"""A door behind which everything goes wrong, one way an input."""

import os
import signal
import tempfile
import time
from pathlib import Path
from random import Random

import numpy as np

from flare_runtime.errors import CaseError

FAULTS = ("success", "refused", "traceback", "hang", "crash", "memory")


class FaultyDoor:
    """Does what the input says."""

    def make(self, rng: Random, folder: Path) -> Path:
        """Write a file with the name of a fault."""
        path = folder / "fault.txt"
        path.write_text(rng.choice(FAULTS), encoding="ascii")
        return path

    def enter(self, path: Path) -> None:
        """Do it."""
        tempfile.mkstemp()  # is left
        fault = path.read_text(encoding="ascii")
        if fault == "refused":
            raise CaseError("refused", "on purpose")
        if fault == "traceback":
            raise ValueError("on purpose")
        if fault == "hang":
            time.sleep(60)
        if fault == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if fault == "memory":
            np.empty(3 << 30, np.uint8)


def open_door(_workspace: Path) -> FaultyDoor:
    """Return the door."""
    return FaultyDoor()
