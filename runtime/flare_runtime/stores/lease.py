"""Leases in a store: which of any number of workers, on any machines, may write a target.

They follow `files.lease`: generation n is created exclusively, n = 1 or one more than that of a dead holder; a sign of
life writes the object anew; ages are differences of times that the store set. What this asks of a store: nobody can
create an object that is there (`If-None-Match: *` of S3), and who reads an object sees what was written last.

A worker that stands still for more than `DEAD_AFTER_S` between asking whether its lease is held and storing its results
stores them a second time.
"""

import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from flare_runtime.errors import OutputError
from flare_runtime.files.lease import Lease
from flare_runtime.files.lease_file import DEAD_AFTER_S, LeaseContent, lease_path, new_content
from flare_runtime.files.signs_of_life import SignsOfLife
from flare_runtime.files.this_process import has_ended
from flare_runtime.stores.mirror import Mirror
from flare_runtime.stores.store import Store

_PROBE_BYTES = 16
# How long the end of a run waits for the store to take its leases back.
_MOMENT_S = 0.7


@dataclass(frozen=True)
class StoreLease(Lease):
    """The right to store the results of a target; what is written to its place on the local disk is not asked about."""

    def is_held(self) -> bool:
        """Whether the local place may be written; `StoreLeases.holds` says whether the object may."""
        return True


class StoreLeases:
    """The leases of a process in one store; threads give signs of life for them.

    Args:
        mirror: of the targets.
        beat_s: the time between two signs of life.
        dead_after_s: without a sign of life for so long, a holder counts as dead.
    """

    def __init__(self, mirror: Mirror, beat_s: float = 15.0, dead_after_s: float = DEAD_AFTER_S) -> None:
        self._mirror = mirror
        self._beat_s = beat_s
        self._dead_after_s = dead_after_s
        self._held: dict[StoreLease, bytes] = {}
        self._signs = SignsOfLife(lambda: tuple(self._held), self._give_sign, beat_s)
        # The store's time, and this machine's.
        self._clock: tuple[float, float] | None = None
        # Leases without a sign of life, and since when they have been seen so.
        self._silent: dict[tuple[Path, int, bytes, int], float] = {}

    def take(self, target: Path) -> StoreLease | None:
        """Take the lease of a target; None where somebody holds it who is alive.

        Raises:
            OutputError: where the store does not answer, or must not be written.
        """
        try:
            return self._take(target)
        except OSError as error:
            raise OutputError(f"{self._mirror.shown(str(target))}: cannot be written (its lease: {error})") from error

    def holds(self, lease: Lease) -> bool:
        """Whether nobody has taken a lease over, which it also puts off; it is asked right before storing."""
        store, key = self._at(lease.target, lease.generation)
        data = self._held.get(StoreLease(lease.target, lease.generation, lease.token))
        while data is not None:
            asked_s = time.monotonic()
            if store.content(key) != data:
                return False
            store.write(key, data)
            if self._exists(lease.target, lease.generation + 1):
                return False
            if time.monotonic() - asked_s < self._dead_after_s / 2:
                return True  # else somebody may have taken it over while the answers were on their way
        return False

    def release(self, lease: Lease) -> None:
        """Remove the lease of a target that is settled, and those of the workers that were lost at it."""
        if not self._forget(lease) or self._exists(lease.target, lease.generation + 1):
            return  # somebody has taken it over, who removes all
        # Upwards: an earlier holder who was only suspended finds a later generation as long as there is his own.
        for generation in range(1, lease.generation + 1):
            store, key = self._at(lease.target, generation)
            store.remove(key)

    def clear(self, target: Path) -> None:
        """Remove the leases that dead workers left at a target that is settled, of which there are stand-ins.

        Raises:
            OutputError: where the store does not answer, or must not be written.
        """
        stand_ins = [lease_path(target, generation) for generation in (1, 2, 3)]
        if any(path.exists() for path in stand_ins) and (lease := self.take(target)):
            self.release(lease)

    def give_back(self, lease: Lease) -> None:
        """Remove the lease of a target that is not settled; how many workers were lost there is kept for the next.

        Raises:
            OutputError: where the store does not answer, or must not be written.
        """
        if self._forget(lease):
            store, key = self._at(lease.target, lease.generation)
            store.remove(key)

    def close(self) -> None:
        """Give back what is held."""
        self._signs.close()
        leases, self._held = list(self._held), {}
        threads = [threading.Thread(target=self._give_back, args=(lease,), daemon=True) for lease in leases]
        until = time.monotonic() + _MOMENT_S
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(until - time.monotonic(), 0.0))

    def _give_back(self, lease: StoreLease) -> None:
        store, key = self._at(lease.target, lease.generation)
        with suppress(Exception):  # of a store that is away, which the program does not wait for
            store.impatient().remove(key)

    def _forget(self, lease: Lease) -> bool:
        """Give no further sign of life for a lease; return whether it is still there."""
        data = self._held.pop(StoreLease(lease.target, lease.generation, lease.token), None)
        store, key = self._at(lease.target, lease.generation)
        return data is not None and store.content(key) == data

    def _take(self, target: Path) -> StoreLease | None:
        if lease := self._created(target, 1):  # in most cases without a further question who has it
            return lease
        last = self._highest(target)
        before = self._state(target, last)
        if before is None or not self._is_dead(target, last, before):
            return None
        lease = self._created(target, last + 1)
        if lease and self._state(target, last) != before:  # it gave a sign of life just then
            self.give_back(lease)
            return None
        return lease

    def _created(self, target: Path, generation: int) -> StoreLease | None:
        """Return a new lease; None where there is one, or a later one."""
        content = new_content()
        data = msgspec.json.encode(content)
        store, key = self._at(target, generation)
        if not store.create(key, data):
            return None
        lease = StoreLease(target, generation, content.token)
        self._held[lease] = data
        self._signs.start()
        if self._signs.is_closed or any(self._exists(target, generation + step) for step in (1, 2)):
            self.give_back(lease)
            return None
        return lease

    def _highest(self, target: Path) -> int:
        """Return the highest generation of a target's leases, 1 where there may be none any more."""
        generation = 1
        while any(self._exists(target, generation + step) for step in (1, 2)):
            generation += 1
        return generation

    def _state(self, target: Path, generation: int) -> tuple[bytes, int] | None:
        """Return what a lease says, and when its last sign of life was, by the store's clock; None where it is gone."""
        store, key = self._at(target, generation)
        content = store.content(key)
        try:
            return None if content is None else (content, store.status(key).written_s)
        except FileNotFoundError:
            return None

    def _is_dead(self, target: Path, generation: int, state: tuple[bytes, int]) -> bool:
        content, written_s = state
        with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            if has_ended(msgspec.json.decode(content, type=LeaseContent).process):
                return True
        if self._now_s(target.parent) - written_s <= self._dead_after_s:
            return False
        # Where the store was away, its holder comes back to it as we do.
        since_s = self._silent.setdefault((target, generation, *state), time.monotonic())
        return time.monotonic() - since_s > 2 * self._beat_s

    def _now_s(self, folder: Path) -> float:
        """Return the time on the store's clock, or a little less; no other clock is compared."""
        if self._clock is None or time.monotonic() - self._clock[1] > self._beat_s:
            store, key = self._mirror.object_at(folder / f".{os.urandom(_PROBE_BYTES).hex()}.flare-tmp")
            asked_s = time.monotonic()
            store.write(key, b"")
            self._clock = (store.status(key).written_s, asked_s)
            store.remove(key)
        return self._clock[0] + time.monotonic() - self._clock[1]

    def _give_sign(self, lease: StoreLease) -> None:
        data = self._held.get(lease)
        store, key = self._at(lease.target, lease.generation)
        store = store.apart
        if data is None or store.content(key) != data or lease not in self._held:
            return
        store.write(key, data)
        if lease not in self._held and store.content(key) == data:  # it was let go while that was under way
            store.remove(key)

    def _exists(self, target: Path, generation: int) -> bool:
        return self._mirror.status_of(lease_path(target, generation)) is not None

    def _at(self, target: Path, generation: int) -> tuple[Store, str]:
        return self._mirror.object_at(lease_path(target, generation))


def creates_exclusively(mirror: Mirror, folder: Path) -> bool:
    """Whether a store lets nobody create an object that is there."""
    store, key = mirror.object_at(folder / f".{os.urandom(_PROBE_BYTES).hex()}.flare-tmp")
    try:
        return store.create(key, b"first") and not store.create(key, b"other")
    except Exception:  # its library may not know how to ask
        return False
    finally:
        store.remove(key)
