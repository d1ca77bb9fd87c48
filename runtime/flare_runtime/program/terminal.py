"""What the programs say, on streams that may be closed, full or broken: talking costs no work."""

from __future__ import annotations

import io
import os
import sys
import threading

from flare_runtime.files.naming import visible, visible_lines

TYPE_CHECKING = False  # of `typing`, which takes longer to import than all of this
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TextIO, TypeVar

    from _typeshed import ReadableBuffer

    Item = TypeVar("Item")

_CLEAR_LINE = "\r\x1b[K"
# From here on a person wonders whether anything happens.
_PATIENCE_S = 0.3


def open_streams() -> None:
    """Put streams that never fail in the place of standard output and error, unless others have taken it already."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: the next file opened would take its number, and get what libraries print there
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stdout is sys.__stdout__:
        sys.stdout = _stream(1, sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _stream(2, sys.stderr)


def print_line(text: object) -> None:
    """Print one line of results on standard output."""
    print(visible(text), flush=True)  # flushed: a kill would lose what waits for a file


def say(text: str) -> None:
    """Print one line on standard error."""
    say_lines(visible(text))


def say_lines(text: str) -> None:
    """Print a text of several lines, such as a traceback, on standard error."""
    for line in tuple(_PASSING):
        line.end()
    print(visible_lines(text), file=sys.stderr, flush=True)


def clear_line() -> None:
    """Take a progress bar off a terminal's line."""
    if sys.stderr.isatty():
        print(_CLEAR_LINE, end="", file=sys.stderr, flush=True)


def progress_bar(items: Iterable[Item], name: str, unit: str, total: int | None = None) -> Iterable[Item]:
    """Return the items under a progress bar that goes when they end; there is one only on a terminal."""
    if not sys.stderr.isatty():
        return items
    from tqdm import tqdm

    bar: Iterable[Item] = tqdm(items, desc=visible(name), unit=unit, total=total, leave=False)
    return bar


class PatientLine:
    """A line that a terminal shows while the block takes long, and that goes with it or before whatever is said."""

    def __init__(self, text: str) -> None:
        self._text = visible(text)
        self._lock = threading.Lock()
        self._timer = threading.Timer(_PATIENCE_S, self._show)
        self._timer.daemon = True

    def __enter__(self) -> PatientLine:
        if sys.stderr.isatty():
            self._timer.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.end()

    def end(self) -> None:
        """Take the line away again, or do not show it any more."""
        self._timer.cancel()
        with self._lock:
            if self in _PASSING:
                clear_line()
                _PASSING.remove(self)

    def _show(self) -> None:
        with self._lock:
            if not self._timer.finished.is_set():
                print(self._text, end="", file=sys.stderr, flush=True)
                _PASSING.add(self)


_PASSING: set[PatientLine] = set()


class _Unfailing(io.FileIO):
    """A standard stream's file that takes everything, also when nobody does."""

    def write(self, data: ReadableBuffer, /) -> int:
        size = memoryview(data).nbytes
        try:
            written = super().write(data)
        except OSError:
            # Nor shall programs fail that are started from here on.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return size
        return size if written is None else written  # None: it would have to be waited for


def _stream(descriptor: int, usual: TextIO | None) -> TextIO:
    """Return a stream like the usual one of this descriptor, which is None where it was closed."""
    file = _Unfailing(descriptor, "w", closefd=False) if usual else _Unfailing(os.devnull, "w")
    encoding = usual.encoding if usual else "utf-8"
    live = descriptor == 2 or file.isatty()
    return io.TextIOWrapper(io.BufferedWriter(file), encoding=encoding, errors="backslashreplace", line_buffering=live)
