"""Patience with a store that fails: what it was asked is asked again, with growing waits, before it is given up."""

import asyncio
import errno
import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from flare_runtime.errors import StoreError, first_line

_LOG = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")
# Between two questions: it doubles from the first to the last.
_FIRST_WAIT_S, _LAST_WAIT_S = 1.0, 30.0
# A store that comes back within it costs nothing but the time; its library has tried several times before.
LIMIT_S = 600.0
# Asking again does not help: something is missing, not allowed, or no space is left on this machine.
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
# The libraries of stores have errors that are no OSError.
_LIBRARIES = ("adlfs", "aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google", "requests", "s3fs", "urllib3")


class Patience:
    """Asks a store again what has failed; one line says so for all that waits for it.

    Attributes:
        limit_s: after so long a question is given up; at once at first, when a name may be wrong.
    """

    def __init__(self) -> None:
        self.limit_s = 0.0
        self._is_away = False
        self._closed = threading.Event()

    def ask(self, question: Callable[[], _Answer]) -> _Answer:
        """Return the answer to a question that may be asked any number of times.

        Raises:
            OSError: an answer that will stay the same, such as that something is not there.
            StoreError: where the store does not answer at all.
        """
        until, wait_s = time.monotonic() + self.limit_s, _FIRST_WAIT_S
        while True:
            try:
                answer = question()
            except Exception as error:
                if not _is_passing(error):
                    raise
                self._wait(error, wait_s, until)
                wait_s = min(2 * wait_s, _LAST_WAIT_S)
            else:
                self._is_away = False
                return answer

    def close(self) -> None:
        """Wait no longer."""
        self._closed.set()

    def _wait(self, error: Exception, wait_s: float, until: float) -> None:
        why = f"the object store fails ({first_line(error)})"
        if time.monotonic() + wait_s > until:
            raise StoreError(why) from error
        if not self._is_away:
            self._is_away = True
            _LOG.warning("%s; it is tried again for up to %.0f minutes", why, self.limit_s / 60)
        if self._closed.wait(wait_s):
            raise StoreError(why) from error


def quiet_libraries() -> None:
    """Have the libraries of stores log nothing, unless somebody has asked them to: what they log they raise as well."""
    for name in _LIBRARIES:
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.CRITICAL)


def _is_passing(error: Exception) -> bool:
    if isinstance(error, OSError):
        # gcsfs has no error of its own for what is not allowed.
        is_final = isinstance(error, _FINAL) or str(error).startswith("Forbidden")
        return not is_final and error.errno not in _FULL
    # Before Python 3.11 asyncio's own is no OSError.
    return isinstance(error, asyncio.TimeoutError) or type(error).__module__.partition(".")[0] in _LIBRARIES
