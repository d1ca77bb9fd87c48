"""The process that workers are forks of: started afresh, so that they inherit nothing of CUDA from the program."""

import multiprocessing
import signal
from multiprocessing import forkserver, resource_tracker
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")


def start_early() -> None:
    """Start the process unless it runs; it imports what workers need while this one goes on."""
    CONTEXT.set_forkserver_preload(["flare_runtime.run.session"])
    resource_tracker.ensure_running()  # of which the server makes sure as well, and which would let signals in again
    # A terminal's Ctrl-C goes to that process too, and would be a traceback in its imports.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def may_need_worker(device: str) -> bool:
    """Whether a device that a person named may be a GPU, without a look at what is installed, which takes longer."""
    return device.startswith("cuda") or (device == "auto" and Path("/dev/nvidiactl").exists())
