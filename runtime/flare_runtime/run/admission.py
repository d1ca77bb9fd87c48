"""How many cases may be in memory at once: as many as there is room for, and one in any case."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Condition
from typing import Generic, TypeVar

Need = TypeVar("Need")


class RunLeftError(Exception):
    """The run was left while a case waited to be admitted."""


class Admission(Generic[Need]):
    """Lets a case in where it fits beside those that are in already, else once they have left.

    Args:
        fit: whether cases of these needs fit at once.
    """

    def __init__(self, fit: Callable[[Sequence[Need]], bool]) -> None:
        self._fit = fit
        self._changed = Condition()
        self._inside: dict[object, Need] = {}
        self._is_closed = False

    def enter(self, case: object, need: Need) -> None:
        """Wait until a case fits, and let it in; of one that is in, the need is replaced.

        Raises:
            RunLeftError: where the run was left.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._has_room(case, need))
            if self._is_closed:
                raise RunLeftError
            self._inside[case] = need

    def _has_room(self, case: object, need: Need) -> bool:
        others = [taken for other, taken in self._inside.items() if other is not case]
        return not others or self._fit([*others, need])

    def leave(self, case: object) -> None:
        """Let the memory of a case be taken by others, where it was in."""
        with self._changed:
            self._inside.pop(case, None)
            self._changed.notify_all()

    def need_of(self, case: object) -> Need:
        """The need of a case that is in."""
        return self._inside[case]

    @property
    def needs(self) -> list[Need]:
        """The needs of those that are in."""
        with self._changed:
            return list(self._inside.values())

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until nobody is in, and let nobody in until the end of the block.

        Raises:
            RunLeftError: where the run was left.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or not self._inside)
            if self._is_closed:
                raise RunLeftError
            yield

    def close(self) -> None:
        """Let those that wait raise `RunLeftError`."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
