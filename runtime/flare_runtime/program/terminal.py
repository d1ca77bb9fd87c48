"""Printing on standard output and error: a stream that is closed, full or broken never ends a program."""

from __future__ import annotations

import io
import os
import sys
import threading
from itertools import islice

from flare_runtime.files.looking import looked_at
from flare_runtime.files.naming import visible, visible_lines

TYPE_CHECKING = False  # of `typing`, which takes longer to import than all of this
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TextIO, TypeVar

    from _typeshed import ReadableBuffer

    Item = TypeVar("Item")

_CLEAR_LINE = "\r\x1b[K"
_BEGIN_PAGE, _CLEAR_REST, _CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
# After so long a person wonders whether anything happens.
_DELAY_S = 0.3
# Between two looks at a count that is shown.
_ANEW_S = 0.2


def open_streams() -> None:
    """Replace standard output and error by streams whose writing never fails, unless something else replaced them."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: the next file opened would take its number, and get what libraries print there
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stdout is sys.__stdout__:
        sys.stdout = _stream(1, sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _stream(2, sys.stderr)


def drop_output() -> None:
    """Drop what is printed in this process from here on, by libraries too."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)


def print_line(text: object) -> None:
    """Print one line of results on standard output."""
    print(visible(text), flush=True)  # flushed: a kill would lose what waits for a file


def say(text: str) -> None:
    """Print one line on standard error."""
    say_lines(visible(text))


def say_lines(text: str) -> None:
    """Print a text of several lines, such as a traceback, on standard error."""
    for line in tuple(_SHOWN):
        line.end()
    print(visible_lines(text), file=sys.stderr, flush=True)


def clear_line() -> None:
    """Clear the terminal's current line, which may hold a progress bar."""
    if sys.stderr.isatty():
        print(_CLEAR_LINE, end="", file=sys.stderr, flush=True)


def show_page(lines: Iterable[str]) -> None:
    """Show lines on standard output, which is a terminal, in place of all that it shows, as far as it has room."""
    from shutil import get_terminal_size  # not needed by most

    room = get_terminal_size()  # where it does not say, 80 by 24
    shown = [visible(line)[: room.columns] for line in islice(lines, max(room.lines - 1, 1))]
    print(_BEGIN_PAGE + "".join(f"{line}{_CLEAR_REST}\n" for line in shown), end=_CLEAR_BELOW, flush=True)


def progress_bar(items: Iterable[Item], name: str, unit: str, total: int | None = None) -> Iterable[Item]:
    """Return the items, which on a terminal show a progress bar while they are iterated."""
    if not sys.stderr.isatty():
        return items
    from tqdm import tqdm

    bar: Iterable[Item] = tqdm(items, desc=visible(name), unit=unit, total=total, leave=False)
    return bar


class WaitingLine:
    """A line that a terminal shows while the block takes long; it is cleared after it and before other output.

    Where many files are looked at, it says again and again how many of them were.
    """

    def __init__(self, text: str) -> None:
        self._text = visible(text)
        self._lock = threading.Lock()
        self._shown = ""
        self._timer = self._show_after(_DELAY_S)

    def __enter__(self) -> WaitingLine:
        if sys.stderr.isatty():
            self._timer.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.end()

    def end(self) -> None:
        """Clear the line, or do not show it any more."""
        with self._lock:
            self._timer.cancel()
            if self in _SHOWN:
                clear_line()
                _SHOWN.remove(self)

    def _show_after(self, seconds: float) -> threading.Timer:
        timer = threading.Timer(seconds, self._show)
        timer.daemon = True
        return timer

    def _show(self) -> None:
        with self._lock:
            if self._timer.finished.is_set():
                return
            text = f"{self._text}{looked_at()}"
            if text != self._shown:
                print(f"{_CLEAR_LINE if self._shown else ''}{text}", end="", file=sys.stderr, flush=True)
            self._shown = text
            _SHOWN.add(self)
            self._timer = self._show_after(_ANEW_S)
            self._timer.start()


_SHOWN: set[WaitingLine] = set()


class _Unfailing(io.FileIO):
    """A standard stream's file whose writing never fails: what cannot be written is dropped."""

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
