"""How far this process is with many files that it looks at, for whoever shows that."""

from __future__ import annotations

TYPE_CHECKING = False  # of `typing`, which takes longer to import than all of this
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import TypeVar

    Item = TypeVar("Item")

_counts: list[tuple[int, int]] = []


def looking_at(results: Iterable[Item], total: int) -> Iterator[Item]:
    """Yield what comes of each of so many files, and count them."""
    try:
        for done, result in enumerate(results, 1):
            _counts[:] = [(done, total)]
            yield result
    finally:
        _counts.clear()


def looked_at() -> str:
    """Return how many of how many files were looked at, such as ` 1,200 of 3,000 files`; nothing where none are."""
    return "".join(f" {done:,} of {total:,} files" for done, total in tuple(_counts))
