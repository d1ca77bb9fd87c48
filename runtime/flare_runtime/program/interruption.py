"""SIGINT, SIGTERM and SIGHUP end the program at once and in order, whatever it is doing."""

from __future__ import annotations

import os
import signal
import threading

TYPE_CHECKING = False  # of `typing`: until this module is there, SIGINT is a traceback
if TYPE_CHECKING:
    from collections.abc import Callable

# The word for the end, by signal.
_WORDS: dict[int, str] = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}


class Interruption:
    """Ends the program on SIGINT, SIGTERM or SIGHUP with 128 and the signal's number, from a thread of its own.

    Python's handlers run in the main thread, and only when an engine or a read there has returned. The number of a
    signal is written to a pipe the moment it arrives, and the thread that reads the pipe does not wait for them.

    Attributes:
        final_steps: functions that are called before the end with the word for it, such as `interrupted`, each with the
            seconds that it may take; one that hangs, as on a share that does not answer, is abandoned.
    """

    def __init__(self) -> None:
        self.final_steps: list[tuple[Callable[[str], None], float]] = []
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
        while number not in _WORDS:
            number = os.read(self._pipe[0], 1)[0]
        try:
            for step, limit_s in self.final_steps:
                thread = threading.Thread(target=step, args=(_WORDS[number],), daemon=True)
                thread.start()
                thread.join(limit_s)
        finally:
            os._exit(128 + number)
