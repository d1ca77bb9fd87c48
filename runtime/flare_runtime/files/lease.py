"""Leases: which of any number of workers, on any machines that share a folder, may write a target.

What this asks of a file system, with NFS in mind:

- A new file has one maker (`O_EXCL`), on NFS since version 3 (open(2)). A request that is sent again because its reply
  was lost is known by its verifier (RFC 1813, CREATE). Should a server forget that, the maker takes its own lease for
  another's; without a sign of life it is soon overtaken.
- No locks: a share may keep none, or show those of one machine to no other (flock(2)).
- What a client remembers of a file, or that there is none, may be a minute old (nfs(5): acregmax, acdirmax,
  lookupcache). It asks the server when it opens a file or a folder, unless mounted with `nocto`. So leases are opened
  to be looked at, and their folder before one is said to be missing.
- Ages are differences of times that the server set itself: `utimensat` without a time. A server of NFS 3 may keep the
  verifier in the times of a new file (RFC 1813; Linux does), which then looks old, or of the future, for a moment. So
  who takes a lease over looks at the old one again after making the new one.
- No lease is kept open, so none stays as a `.nfs` file when it is removed.

One thing no lease can exclude: a worker that stands still for more than `DEAD_AFTER_S` between asking whether its lease
is held and writing. Its target is then written twice.
"""

import os
import stat
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from flare_runtime.errors import OutputError
from flare_runtime.files import lease_file
from flare_runtime.files.lease_file import DEAD_AFTER_S, Holder, LeaseState, holder_of, is_lease_name, lease_path
from flare_runtime.files.signs_of_life import SignsOfLife
from flare_runtime.files.temporary import temporary_file
from flare_runtime.files.this_process import has_ended

__all__ = ["Holder", "Lease", "Leases", "holder_of", "is_lease_name", "lease_path"]

_ATTEMPTS = 3


@dataclass(frozen=True)
class Lease:
    """The right to write a target.

    Attributes:
        target: what may be written.
        generation: 1, or one more than that of a dead holder.
        token: stands in this lease alone.
    """

    target: Path
    generation: int
    token: str

    @property
    def lost_before(self) -> int:
        """How many workers were lost at the target before."""
        return self.generation - 1

    def is_held(self) -> bool:
        """Whether nobody has taken it over, which it also puts off; False where that cannot be known.

        It is asked right before the target is written, by this process or by one that works for it.
        """
        path = lease_path(self.target, self.generation)
        # Who takes it over makes his lease first and looks for a sign of life after that, and puts his lease in place
        # of this one when he is done. So in this order each sees what the other did.
        try:
            if not lease_file.touch(path, self.token):
                return False
            lease_file.forget_cached(self.target.parent)
            is_last = not lease_file.exists(lease_path(self.target, self.generation + 1))
            return is_last and lease_file.has_token(path, self.token)
        except OSError:
            return False


class Leases:
    """The leases of a process; threads give signs of life for them.

    Args:
        beat_s: the time between two signs of life.
        dead_after_s: without a sign of life for so long, a holder counts as dead.
    """

    def __init__(self, beat_s: float = 15.0, dead_after_s: float = DEAD_AFTER_S) -> None:
        self._beat_s = beat_s
        self._dead_after_ns = round(dead_after_s * 1e9)
        self._held: set[Lease] = set()
        self._signs = SignsOfLife(lambda: tuple(self._held), _give_sign, beat_s)
        # By file system: its time and this machine's, both in ns.
        self._clocks: dict[int, tuple[int, int]] = {}
        # Those whose last sign of life lies in the future: since when they have been seen, by this machine's clock.
        self._watched: dict[tuple[int, int, int], int] = {}

    def take(self, target: Path) -> Lease | None:
        """Take the lease of a target; None where somebody holds it who is alive, and after `close`.

        Which files there are in its folder is known afresh after that, on NFS too.

        Raises:
            OutputError: where it cannot be written.
        """
        try:
            return self._take(target)
        except OSError as error:
            raise OutputError(f"{target}: cannot be written (its lease: {error.strerror or error})") from error

    def release(self, lease: Lease) -> None:
        """Remove the lease of a target that is settled, and those of the workers that were lost at it."""
        self._held.discard(lease)
        with suppress(OSError):  # the next who takes it clears up
            _remove_all(lease)

    def clear(self, target: Path) -> None:
        """Remove the leases that dead workers left at a target that is settled, if that can be done."""
        with suppress(OSError, OutputError):
            lease = self.take(target) if _highest(target) else None
            if lease:
                self.release(lease)

    def give_back(self, lease: Lease) -> None:
        """Remove the lease of a target that is not settled; how many workers were lost there is kept for the next."""
        self._held.discard(lease)
        with suppress(OSError):
            if lease.is_held():
                lease_path(lease.target, lease.generation).unlink(missing_ok=True)

    def now_ns(self, folder: Path) -> int:
        """Return the time on the clock of a folder's file system, or a little less.

        Raises:
            OSError: where it cannot be known.
        """
        return self._now_ns(folder.stat().st_dev, folder)

    def close(self) -> None:
        """Give back what is held."""
        self._signs.close()
        for lease in tuple(self._held):
            self.give_back(lease)

    def _take(self, target: Path) -> Lease | None:
        for _ in range(_ATTEMPTS):
            last = _highest(target)
            before = lease_file.look_at(lease_path(target, last)) if last else None
            if before and not self._is_dead(before, target.parent):
                return None
            content = lease_file.new_content()
            lease = Lease(target, last + 1, content.token)
            path = lease_path(target, lease.generation)
            if (last and not before) or not lease_file.create(path, content):
                lease_file.forget_cached(target.parent)  # another was faster
                continue
            if before == (lease_file.look_at(lease_path(target, last)) if last else None) and lease.is_held():
                return self._hold(lease)
            self.give_back(lease)  # the other gave a sign of life just then, or somebody was faster
            return None
        return None

    def _is_dead(self, state: LeaseState, folder: Path) -> bool:
        if has_ended(state.content.process):
            return True
        age_ns = self._now_ns(state.device, folder) - state.mtime_ns
        if age_ns >= -self._dead_after_ns:
            return age_ns > self._dead_after_ns
        # The server's clock was set back, or a client of NFS was lost in the middle of making the file.
        now_ns = time.monotonic_ns()
        return now_ns - self._watched.setdefault(state.identity, now_ns) > self._dead_after_ns

    def _now_ns(self, device: int, folder: Path) -> int:
        """Return the time on the clock of a folder's file system, or a little less; no other clock is compared."""
        clock = self._clocks.get(device)
        if clock is None or time.monotonic_ns() - clock[1] > self._beat_s * 1e9:
            with temporary_file(folder) as (_, file):
                os.utime(file.fileno())
                server_ns = os.fstat(file.fileno()).st_mtime_ns
            clock = self._clocks[device] = (server_ns, time.monotonic_ns())
        return clock[0] + time.monotonic_ns() - clock[1]

    def _hold(self, lease: Lease) -> Lease | None:
        self._held.add(lease)
        self._signs.start()
        if self._signs.is_closed:  # by another thread, which may have missed this one
            self.give_back(lease)
            return None
        return lease


def _give_sign(lease: Lease) -> None:
    lease_file.touch(lease_path(lease.target, lease.generation), lease.token)


def _highest(target: Path) -> int:
    """Return the highest generation of a target's leases, 0 where there is none.

    One may be missing below it: see `_remove_all`.
    """
    generation = 0
    while True:
        step = next((n for n in (1, 2) if lease_file.exists(lease_path(target, generation + n))), 0)
        if step == 0:
            return generation
        generation += step


def _remove_all(lease: Lease) -> None:
    """Remove a lease and the earlier ones, unless it was taken over.

    At no moment may an earlier holder who was only suspended take himself for the last one, nor may a generation be
    found free below one that is held. So this one takes the names of the earlier ones, one after the other down to 1.
    Where it is taken over just then, a single generation is missing.
    """
    if not lease.is_held():
        return
    generation = lease.generation
    path = lease_path(lease.target, generation)
    while generation > 1:
        below = lease_path(lease.target, generation - 1)
        if not _may_be_replaced(below):
            break
        path.replace(below)
        path, generation = below, generation - 1
        later = range(generation + 1, lease.generation + 2)
        if any(lease_file.exists(lease_path(lease.target, number)) for number in later):
            return
    path.unlink()


def _may_be_replaced(path: Path) -> bool:
    """Whether a lease or nothing lies there."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return True
    return stat.S_ISREG(status.st_mode) and status.st_size <= lease_file.MOST_BYTES
