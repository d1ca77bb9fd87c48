"""Stand-ins for objects of a store: files of their sizes and times, which may begin as they do."""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

from flare_runtime.stores.mirror import Mirror
from flare_runtime.stores.store import ObjectStatus

_LOG = logging.getLogger(__name__)
# Of places: None of a folder.
Found: TypeAlias = dict[Path, ObjectStatus | None]


class StandIns:
    """The stand-ins in a mirror.

    Args:
        mirror: the local places of objects.
    """

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror

    def listed(self, folder: Path, *, nested: bool) -> Found:
        """Return what lies below a place; of what can have no place a warning is logged."""
        found, odd = self._mirror.listed(folder, nested=nested)
        if odd:
            _LOG.warning("%s: left out %d object(s) whose names can be no paths", folder, odd)
        return found

    def put(self, found: Found, source: Path) -> None:
        """Put stand-ins in the places of what was found below a source."""
        odd = sum(not self._mirror.stand_in(path, status) for path, status in found.items())
        if odd:
            _LOG.warning("%s: left out %d object(s) of the name of a prefix", source, odd)

    def fill(self, paths: Iterable[Path], found: Found, size: int | None) -> Iterator[tuple[Path, bytes]]:
        """Let stand-ins begin as their objects do, for `size` bytes or all, and yield how."""
        statuses = {path: status for path in paths if (status := found[path])}
        for path, status in statuses.items():
            if not status.size:  # of which no store gives a part
                self._mirror.stand_in(path, status)
        for path, head in self._mirror.heads((path for path, status in statuses.items() if status.size), size):
            self._mirror.stand_in(path, statuses[path], head)
            yield path, head
