"""Signals end the program in order, whatever it is doing: at once, or with what it has in work where they ask so."""

from __future__ import annotations

import os
import signal
import threading
import time

TYPE_CHECKING = False  # of `typing`: until this module is there, SIGINT is a traceback
if TYPE_CHECKING:
    from collections.abc import Callable

# The word for the end, by signal.
_WORDS: dict[int, str] = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "terminated",
    signal.SIGHUP: "hung up",
    signal.SIGUSR1: "preempted",
    signal.SIGUSR2: "preempted",
}
# By which schedulers say that the program will be ended soon.
_WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)
# Within this time a second warning is the first again: schedulers send one to a program, and to what started it, which
# passes it on.
_SAME_S = 1.0


class Interruption:
    """Ends the program on a signal with 128 and the signal's number, from a thread of its own.

    SIGINT, SIGTERM and SIGHUP end it at once. SIGUSR1 and SIGUSR2 are warnings: the first one has it finish what it has
    in work, another one ends it at once.

    Python's handlers run in the main thread, and only when an engine or a read there has returned. The number of a
    signal is written to a pipe the moment it arrives, and the thread that reads the pipe does not wait for them.

    Attributes:
        final_steps: functions that are called before the end with the word for it, such as `interrupted`, each with the
            seconds that it may take; one that hangs, as on a share that does not answer, is abandoned.
        finish: is called at the first warning, and lets the program end soon; where it is None, a warning ends it.
        warned_by: the number of the first warning that `finish` was called for, else 0.
    """

    def __init__(self) -> None:
        self.final_steps: list[tuple[Callable[[str], None], float]] = []
        self.finish: Callable[[], None] | None = None
        self.warned_by = 0
        self._warned_at_s = 0.0
        self._pipe = os.pipe()

    def begin(self) -> None:
        """Handle the signals from here on, but for one that this process was started to ignore."""
        os.set_blocking(self._pipe[1], False)
        signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        threading.Thread(target=self._watch, name="signals", daemon=True).start()
        for number in _WORDS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, lambda _number, _frame: None)

    def _watch(self) -> None:
        number = 0
        while number not in _WORDS or self._is_warning(number):
            number = os.read(self._pipe[0], 1)[0]
        try:
            for step, limit_s in self.final_steps:
                thread = threading.Thread(target=step, args=(_WORDS[number],), daemon=True)
                thread.start()
                thread.join(limit_s)
        finally:
            os._exit(128 + number)

    def _is_warning(self, number: int) -> bool:
        """Whether the program may go on for a while after this signal."""
        if number not in _WARNINGS or self.finish is None:
            return False
        if self.warned_by:
            return time.monotonic() - self._warned_at_s < _SAME_S
        self.warned_by, self._warned_at_s = number, time.monotonic()
        threading.Thread(target=self.finish, daemon=True).start()  # it may hang
        return True
