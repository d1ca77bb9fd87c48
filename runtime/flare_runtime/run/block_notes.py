"""Notes in which workers that share many cases tell each other which of them stay as they are.

Each worker has to know of each case how it ended, but not to look at it itself: a thousand workers would have a file
server look at each case a thousand times. So they look at blocks of cases, each in its own order, and leave a note of
each block. A note holds what its writer, or whose notes he believed, saw by the same rules. It is believed by workers
that had begun before the first of it was seen: to them it is as good as a look of their own. Both times are the file
system's. Who ends as the last removes the notes.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Literal

import msgspec

from flare_runtime.cases.case import Case
from flare_runtime.cases.output_checks import files_known
from flare_runtime.errors import OutputError
from flare_runtime.files import lease_file
from flare_runtime.files.lease import Lease, Leases, is_lease_name, lease_path
from flare_runtime.files.temporary import is_temporary_name, temporary_file

_FOLDER, _SUFFIX = ".cases.flare-seen", ".flare-seen"
# A note of a thousand cases that all failed is smaller.
_MOST_BYTES = 1 << 24
_ATTEMPTS = 3
# The time of what nobody is to believe, as no clock could be read.
_NEVER = 0
_SECOND_NS = 10**9


class SeenCase(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """How a case ended that stays as it is, as in its record."""

    status: Literal["done", "refused", "failed"]
    reason: str = ""
    message: str = ""
    version: str = ""


class BlockNote(msgspec.Struct):
    """What is known of a block of cases.

    Attributes:
        since_ns: when the first of it was seen, or before, by the file system's clock.
        seen: by their places in the block, the cases that stay.
    """

    since_ns: int
    seen: dict[int, SeenCase]


class BlockNotes:
    """The notes of all workers on the same cases; where none can be written, there are none.

    Args:
        around: the folder in which they get one of their own.
        terms: what must be the same for another worker to believe them, beside the cases.
        leases: of this process.
    """

    def __init__(self, around: Path, terms: str, leases: Leases) -> None:
        self._folder = around / _FOLDER
        self._terms = terms
        with suppress(OSError):  # it may be gone; of others, paths may be relative
            self._terms += f" {Path.cwd()}"
        self._leases = leases
        # Tells others that this process is still at it.
        self._presence: Lease | None = None
        self._begun_ns: int | None = None
        self._is_closed = False

    def read(self, block: Sequence[Case]) -> BlockNote:
        """Return what a note says of a block that can be believed; nothing, from now on, where none does."""
        try:
            if self._begun_ns is None:
                self._begin()
            now_ns = self._leases.now_ns(self._folder)
        except (OSError, OutputError):
            return BlockNote(_NEVER, {})
        note = _note_at(self._path_of(block))
        if note is None or self._begun_ns is None or note.since_ns <= self._begun_ns:
            return BlockNote(now_ns, {})
        return BlockNote(min(now_ns, note.since_ns), {n: one for n, one in note.seen.items() if 0 <= n < len(block)})

    def write(self, block: Sequence[Case], note: BlockNote) -> None:
        """Let others know what is known of a block."""
        if self._presence is None or note.since_ns == _NEVER:
            return
        with suppress(OSError), temporary_file(self._folder) as (path, file):
            file.write(msgspec.json.encode(note))
            file.flush()
            path.replace(self._path_of(block))

    def close(self) -> None:
        """Remove all notes, unless another worker is still at it."""
        self._is_closed = True
        presence, self._presence = self._presence, None
        with suppress(OSError):
            if presence is None:
                self._folder.rmdir()  # which was made where no presence could be
                return
            self._leases.release(presence)
            self._remove_all()

    def _begin(self) -> None:
        for attempt in range(_ATTEMPTS):
            if self._is_closed:
                return
            self._folder.mkdir(parents=True, exist_ok=True)
            if self._folder.is_symlink():  # what it leads to is not ours to clean up
                raise NotADirectoryError(self._folder)
            try:
                presence = self._leases.take(self._folder / os.urandom(8).hex())
            except OutputError:
                if attempt == _ATTEMPTS - 1:
                    raise
                continue  # another worker removed the folder just then
            if presence is not None:
                self._begun_ns = _end_of_tick(lease_path(presence.target, presence.generation).stat().st_mtime_ns)
                self._presence = presence
            return

    def _remove_all(self) -> None:
        names = os.listdir(self._folder)  # noqa: PTH208 - names are enough
        for name in filter(is_lease_name, names):
            self._leases.clear(self._folder / name.split(".")[1])  # of a worker that was lost
            if lease_file.look_at(self._folder / name):
                return
        for name in names:
            if name.endswith(_SUFFIX) or is_temporary_name(name):
                (self._folder / name).unlink(missing_ok=True)
        self._folder.rmdir()

    def _path_of(self, block: Sequence[Case]) -> Path:
        cases = [
            (case.name, case.masks, case.reports, sorted(case.images), case.places, files_known(case)) for case in block
        ]
        return self._folder / f"{sha256(repr((self._terms, cases)).encode()).hexdigest()}{_SUFFIX}"


def _end_of_tick(time_ns: int) -> int:
    """Return the latest that a file's time may mean: some file systems keep whole seconds, or every other one."""
    return time_ns if time_ns % _SECOND_NS else time_ns + 2 * _SECOND_NS


def _note_at(path: Path) -> BlockNote | None:
    try:
        with lease_file.opened(path) as descriptor:
            data = os.read(descriptor, min(os.fstat(descriptor).st_size, _MOST_BYTES))
        return msgspec.json.decode(data, type=BlockNote)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
