"""The process that workers are forks of: started afresh, so that they inherit nothing of CUDA from the program."""

import multiprocessing
import signal
from multiprocessing import forkserver, resource_tracker

CONTEXT = multiprocessing.get_context("forkserver")


def start_early() -> None:
    """Start the process unless it runs; it imports what workers need while this one goes on."""
    CONTEXT.set_forkserver_preload([f"flare_runtime.run.{name}" for name in ("session", "worker", "overlap")])
    # What schedulers send goes to all processes, and would end these.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGUSR2])
    try:
        resource_tracker.ensure_running()  # of which the server makes sure as well, and which would let SIGINT in again
        # A terminal's Ctrl-C goes to that process too, and would be a traceback in its imports.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
