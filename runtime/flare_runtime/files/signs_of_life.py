"""Signs of life for what a process holds, each given in a thread of its own: one that hangs delays no other."""

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Generic, TypeVar

Held = TypeVar("Held")


class SignsOfLife(Generic[Held]):
    """Gives a sign of life for each thing that is held, again and again; threads may use it at once.

    Args:
        held: returns what is held now.
        give: gives a sign of life for one of it; an error is dropped, as the next time may be better.
        beat_s: the time between two signs of life.
    """

    def __init__(self, held: Callable[[], Iterable[Held]], give: Callable[[Held], None], beat_s: float) -> None:
        self._held = held
        self._give = give
        self._beat_s = beat_s
        self._starting = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="leases", daemon=True)
        # Those whose last one is not given yet.
        self._coming: set[Held] = set()

    @property
    def is_closed(self) -> bool:
        """Whether no further one is given."""
        return self._closed.is_set()

    def start(self) -> None:
        """Begin, unless that was done before."""
        with self._starting:
            if self._thread.ident is None:
                self._thread.start()

    def close(self) -> None:
        """Begin with no further one."""
        self._closed.set()

    def _beat(self) -> None:
        while not self._closed.wait(self._beat_s):
            for one in set(self._held()) - self._coming:
                self._coming.add(one)
                try:
                    threading.Thread(target=self._give_one, args=(one,), name="lease", daemon=True).start()
                except RuntimeError:  # this machine allows no further thread
                    self._give_one(one)

    def _give_one(self, one: Held) -> None:
        try:
            with suppress(Exception):
                self._give(one)
        finally:
            self._coming.discard(one)
