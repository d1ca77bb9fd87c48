"""One task of a job array: a worker in a process of its own, which ends in time and goes on when the task does."""

import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence

from submitit import JobEnvironment
from submitit.helpers import DelayedSubmission

from flare_runtime.program.terminal import say

# Workers that the task may lose: what a case costs ends by `--max-tries`, what every worker dies of has to end as well.
_MOST_LOST = 20
_LOOK_S = 0.1
# How long a worker may take that is told to drop its case; it needs less than two seconds.
_DROP_S = 5.0
# Between a signal that ended the worker and the same signal here, at which this task is queued again.
_NOTICE_S = 10.0
# How long the scheduler may take to answer.
_ANSWER_S = 60.0
_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)
# What somebody sends who wants no other worker; it kills one that is only just starting.
_ENDINGS = (*_SIGNALS, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class ArrayTask:
    """Runs a worker, and what goes on in its place when the scheduler queues the task again; as submitit asks for it.

    Args:
        command: the worker, which finishes its case and ends at SIGUSR2.
        folder: that it runs in.
        grace_s: how long that may take before it is ended by SIGTERM.
    """

    def __init__(self, command: Sequence[str], folder: str, grace_s: float) -> None:
        self._arguments = (tuple(command), folder, grace_s)
        self._worker: subprocess.Popen[bytes] | None = None
        self._is_ending = False
        self._code: int | None = None

    def __call__(self) -> int:
        """Run the worker to its end and return its exit code; where a signal killed it, 128 and the signal's number."""
        for one, other in (_SIGNALS, _SIGNALS[::-1]):
            if signal.getsignal(one) == signal.SIG_DFL:  # submitit minds only one of them
                signal.signal(one, signal.getsignal(other))
        # Not in this thread, in which the signals are handled: whatever it is in the middle of has to go on meanwhile.
        threading.Thread(target=self._work, daemon=True).start()
        try:
            code = self._wait()
            assert code is not None
            if code == 128 + signal.SIGTERM and _is_preempted():
                os.kill(os.getpid(), signal.SIGUSR2)
            if code > 128:
                time.sleep(_NOTICE_S)
            return code
        finally:
            self._drop()

    def checkpoint(self) -> DelayedSubmission:
        """End the worker in time, and return what goes on in its place."""
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # a second one changes nothing
        _, _, grace_s = self._arguments
        self._is_ending = True
        self._send(signal.SIGUSR2)
        if self._wait(grace_s) is None:
            self._drop()
        return DelayedSubmission(type(self)(*self._arguments))

    def _work(self) -> None:
        command, folder, _ = self._arguments
        code = 1
        try:
            for _ in range(_MOST_LOST):
                self._worker = subprocess.Popen(command, cwd=folder)
                code = self._worker.wait()
                if code >= 0 or -code in _ENDINGS or self._is_ending:
                    break
                say(f"a worker was lost ({signal.Signals(-code).name}); another one takes its place")
        finally:
            self._code = code if code >= 0 else 128 - code

    def _wait(self, limit_s: float = math.inf) -> int | None:
        """Return the exit code once there is one, None where that takes longer."""
        until_s = time.monotonic() + limit_s
        while self._code is None and time.monotonic() < until_s:
            time.sleep(_LOOK_S)
        return self._code

    def _send(self, number: int) -> None:
        while self._worker is None and self._code is None:  # it is just being started
            time.sleep(_LOOK_S)
        if self._worker is not None:
            self._worker.send_signal(number)

    def _drop(self) -> None:
        """End the worker, where it has not ended."""
        self._is_ending = True
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._code is None:
                self._send(number)
                self._wait(_DROP_S)


def _is_preempted() -> bool:
    """Whether SLURM has sent SIGTERM for another job's sake; it does the same where somebody cancels the task."""
    if os.environ.get("SUBMITIT_EXECUTOR") != "slurm":
        return False
    question = ["squeue", "--noheader", "--format=%T", f"--jobs={JobEnvironment().job_id}"]
    try:
        answer = subprocess.run(question, capture_output=True, text=True, timeout=_ANSWER_S)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.stdout.strip() == "RUNNING"
