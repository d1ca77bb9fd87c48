"""Runs work in a worker process and replaces one that dies: in a process where CUDA has failed, it stays broken."""

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import TypeAlias

from flare_runtime.errors import FlareError, LostDeviceError
from flare_runtime.files.commit_lock import committing
from flare_runtime.files.naming import visible
from flare_runtime.program.terminal import open_streams
from flare_runtime.run.cases import Case
from flare_runtime.run.commit import alone_in, commit_failure
from flare_runtime.run.events import Event, Listener
from flare_runtime.run.record import CaseRecord, failed_record, traceback_of
from flare_runtime.run.worker_server import CONTEXT, start_early

# Segments cases in turn, yields the record of each, and calls the listener with events.
Work: TypeAlias = Callable[[Sequence[Case], Listener], Iterable[CaseRecord]]
_LOG = logging.getLogger(__name__)
_PACKAGE = __name__.partition(".")[0]
# How long a worker that is to be killed may take to write the record beside a mask.
_MOMENT_S = 0.3
_NAME = "flare-worker"
# That a case may cost by itself.
_MOST_LOSSES = 2


@dataclass(frozen=True)
class _LogLine:
    """A line that a worker logs, for the logger of the same name in this process."""

    logger: str
    level: int
    text: str


_Message: TypeAlias = CaseRecord | FlareError | Event | _LogLine


def supervise(
    work: Work, cases: Sequence[Case], listener: Listener = lambda _event: None, *, with_records: bool = True
) -> Iterator[CaseRecord]:
    """Yield what `work` yields of `cases`, each case in a worker process.

    Where the worker loses its device or is killed, the first case that it has not finished is tried once more by a
    worker that does nothing else: the one before may have died of a later case, of which it had several in work. A case
    that costs two workers by itself fails; another worker goes on behind it.

    Args:
        work: is pickled for the workers, which import its module; not the program's main one.
        cases: from `find_cases`.
        listener: is called in this process with the events of `work`.
        with_records: False writes none of a case that fails here.

    Raises:
        FlareError: what `work` raises, but for a lost device.
    """
    start_early()
    remaining = list(cases)
    suspect: Case | None = None
    losses = 0  # of workers that were at the suspect alone
    while remaining:
        alone = remaining[0] is suspect or len(remaining) == 1
        waiting = remaining[1:] if alone else []
        remaining = remaining[:1] if alone else remaining
        loss = yield from _one_worker(work, remaining, listener)
        losses = losses + 1 if alone and remaining else 0
        if losses == _MOST_LOSSES:
            losses = 0
            message = f"two workers were lost at this case ({loss})"
            lost = remaining.pop()
            record = failed_record(lost.name, LostDeviceError(message, loss.traceback))
            yield commit_failure(lost, record, with_record=with_records)
        suspect = remaining[0] if remaining else None
        if suspect:
            _LOG.warning("a worker was lost at %s (%s); it is tried again by itself", suspect.name, loss)
            if loss.traceback:
                _LOG.info(loss.traceback)
        remaining += waiting


def workers() -> list[BaseProcess]:
    """Return the workers of this process, and no other processes that a program may have started."""
    return [process for process in multiprocessing.active_children() if process.name == _NAME]


def _one_worker(work: Work, remaining: list[Case], listener: Listener) -> Generator[CaseRecord, None, LostDeviceError]:
    """Yield records and take their cases off `remaining` until the worker ends; return what it died of."""
    folder = remaining[0].mask.parent
    ours, theirs = CONTEXT.Pipe(duplex=False)
    level = logging.getLogger(_PACKAGE).getEffectiveLevel()
    process = CONTEXT.Process(target=_worker, args=(work, tuple(remaining), theirs, level), name=_NAME, daemon=True)
    try:
        with committing, _main_module_hidden():
            process.start()
    except (EOFError, OSError) as error:
        with committing:  # where a signal has ended the process that starts workers, this one ends here too
            pass
        return LostDeviceError(f"no worker could be started ({type(error).__name__})", traceback_of(error))
    finally:
        theirs.close()
    loss: LostDeviceError | None = None
    try:
        while (message := _receive(ours)) is not None:
            if isinstance(message, CaseRecord):
                del remaining[0]
                yield message
            elif isinstance(message, LostDeviceError):
                loss = message
            elif isinstance(message, FlareError):
                raise message
            elif isinstance(message, _LogLine):
                logging.getLogger(message.logger).log(message.level, "%s", message.text)
            else:
                listener(message)
        process.join()
        with committing:  # where a signal has ended the worker, this process ends here too
            pass
    finally:
        ours.close()
        with alone_in(folder, _MOMENT_S):  # not between a mask and its record
            process.kill()
            process.join()
    return loss or LostDeviceError(f"the worker ended with {process.exitcode}")


@contextmanager
def _main_module_hidden() -> Iterator[None]:
    """Keep multiprocessing from running the program's main module again in the worker, which would begin it anew."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _receive(results: Connection) -> _Message | None:
    try:
        message: _Message = results.recv()
    except (EOFError, OSError):  # ended, perhaps in the middle of a message
        return None
    return message


class _Forwarder(logging.Handler):
    def __init__(self, send: Callable[[_Message], None]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        self._send(_LogLine(record.name, record.levelno, self.format(record)))


def _worker(work: Work, cases: Sequence[Case], results: Connection, log_level: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and ends this process
    signal.set_wakeup_fd(-1)
    open_streams()
    one_at_a_time = threading.Lock()

    def send(message: _Message) -> None:
        with one_at_a_time:
            results.send(message)

    def notify(message: _Message) -> None:
        with suppress(OSError):  # the parent is gone; the case at hand is finished all the same
            send(message)

    logging.getLogger().addHandler(_Forwarder(notify))
    logging.getLogger(_PACKAGE).setLevel(log_level)
    try:
        for record in work(cases, notify):
            send(record)
    except FlareError as error:
        send(error)
    except BrokenPipeError:  # the parent is gone
        pass
    except Exception as error:
        send(LostDeviceError(f"{type(error).__name__}: {visible(error)}", traceback_of(error)))
    finally:
        results.close()
        # Not the usual way out: CUDA's own clean-up can hang once it has failed.
        os._exit(0)
