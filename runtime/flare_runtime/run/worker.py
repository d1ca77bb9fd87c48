"""A process that does work on cases: it is given them one by one, and sends records, events, log lines and errors."""

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from queue import Empty, SimpleQueue
from types import ModuleType
from typing import Final, TypeAlias

from flare_runtime.cases.case import Case
from flare_runtime.errors import FlareError, LostDeviceError
from flare_runtime.files.commit_lock import committing
from flare_runtime.files.naming import visible
from flare_runtime.program.terminal import open_streams
from flare_runtime.run.commit import alone_in
from flare_runtime.run.events import Event, Listener
from flare_runtime.run.record import CaseRecord, traceback_of
from flare_runtime.run.worker_server import CONTEXT

# Segments cases as they come, yields the record of each in their order, and calls the listener with events.
Work: TypeAlias = Callable[[Iterable[Case], Listener], Iterable[CaseRecord]]
_PACKAGE = __name__.partition(".")[0]
# Sent in place of a case.
_RECALL: Final = "recall"
# How long a worker that is to be killed may take to write the record beside a mask.
_MOMENT_S = 0.3
_NAME = "flare-worker"


@dataclass(frozen=True)
class LogLine:
    """A line that a worker logs, for the logger of the same name in this process."""

    logger: str
    level: int
    text: str


Message: TypeAlias = CaseRecord | FlareError | Event | LogLine


class Worker:
    """One worker process, as its parent sees it.

    Args:
        work: is pickled for the process, which imports its module; not the program's main one.

    Attributes:
        connection: on which its messages come.

    Raises:
        LostDeviceError: where no process can be started.
    """

    def __init__(self, work: Work) -> None:
        self.connection, theirs = CONTEXT.Pipe()
        level = logging.getLogger(_PACKAGE).getEffectiveLevel()
        self._process = CONTEXT.Process(target=_run, args=(work, theirs, level), name=_NAME, daemon=True)
        try:
            with committing, main_module_hidden():
                self._process.start()
        except (EOFError, OSError) as error:
            self.connection.close()
            with committing:  # where a signal has ended the process that starts workers, this one ends here too
                pass
            message = f"no worker could be started ({type(error).__name__})"
            raise LostDeviceError(message, traceback_of(error)) from error
        finally:
            theirs.close()

    def give(self, case: Case | None) -> None:
        """Give the process a case, or say that none will come."""
        with suppress(OSError):  # it has ended, which its messages will show
            self.connection.send(case)

    def recall(self) -> None:
        """Have the process end behind the cases that it has begun."""
        with suppress(OSError):
            self.connection.send(_RECALL)

    def receive(self) -> Message | None:
        """Wait for a message; None where the process has ended."""
        try:
            message: Message = self.connection.recv()
        except (EOFError, OSError):  # perhaps in the middle of a message
            return None
        return message

    def wait(self) -> str:
        """Wait for the process, which has ended its messages, and say how it ended."""
        self._process.join()
        with committing:  # where a signal has ended the worker, this process ends here too
            pass
        return f"the worker ended with {self._process.exitcode}"

    def end(self, folders: Iterable[Path]) -> None:
        """End the process, but not between a mask and its record in one of these folders."""
        self.connection.close()
        with ExitStack() as held:
            for folder in folders:
                held.enter_context(alone_in(folder, _MOMENT_S))
            self._process.kill()
            self._process.join()


def workers() -> list[BaseProcess]:
    """Return the workers of this process, and no other processes that a program may have started."""
    return [process for process in multiprocessing.active_children() if process.name == _NAME]


@contextmanager
def main_module_hidden() -> Iterator[None]:
    """Keep multiprocessing from running the program's main module again in the worker, which would begin it anew."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


class LogForwarder(logging.Handler):
    """Sends what is logged in this process.

    Args:
        send: takes the lines.
    """

    def __init__(self, send: Callable[[LogLine], None]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        """Send one line."""
        self._send(LogLine(record.name, record.levelno, self.format(record)))


def _run(work: Work, connection: Connection, log_level: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):  # the parent gets them too, and ends this process
        signal.signal(number, signal.SIG_IGN)
    signal.set_wakeup_fd(-1)
    open_streams()
    one_at_a_time = threading.Lock()

    def send(message: Message) -> None:
        with one_at_a_time:
            connection.send(message)

    def notify(message: Message) -> None:
        with suppress(OSError):  # the parent is gone; the case at hand is finished all the same
            send(message)

    logging.getLogger().addHandler(LogForwarder(notify))
    logging.getLogger(_PACKAGE).setLevel(log_level)
    # Taken off the connection at once, so that the parent never waits.
    coming: SimpleQueue[Case | None] = SimpleQueue()
    threading.Thread(target=_take_cases, args=(connection, coming), daemon=True).start()
    try:
        for record in work(iter(coming.get, None), notify):
            send(record)
    except FlareError as error:
        send(error)
    except BrokenPipeError:  # the parent is gone
        pass
    except Exception as error:
        send(LostDeviceError(f"{type(error).__name__}: {visible(error)}", traceback_of(error)))
    finally:
        # Not the usual way out: CUDA's own clean-up can hang once it has failed.
        os._exit(0)


def _take_cases(connection: Connection, coming: "SimpleQueue[Case | None]") -> None:
    try:
        while (case := connection.recv()) != _RECALL:
            coming.put(case)
        with suppress(Empty):
            while True:
                coming.get_nowait()
    except (EOFError, OSError):  # the parent is gone
        pass
    finally:
        coming.put(None)
