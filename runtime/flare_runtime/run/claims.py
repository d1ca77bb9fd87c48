"""Claims on cases: each is taken under a lease, unless its result stays as it is or another worker has it."""

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

from flare_runtime import __version__
from flare_runtime.cases.case import Case
from flare_runtime.cases.fingerprints import Hash, sha256_of
from flare_runtime.errors import LostDeviceError, OutputError, StoreError
from flare_runtime.files.lease import Lease, Leases
from flare_runtime.files.output import make_folder
from flare_runtime.run.before import Before, lacked_room
from flare_runtime.run.block_notes import BlockNotes
from flare_runtime.run.commit import commit_failure
from flare_runtime.run.identity import Recipe
from flare_runtime.run.record import CaseRecord, failed_record
from flare_runtime.run.resume import ResumeRules, look_at

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kept:
    """A case that this run leaves as it is: done, refused or failed in another one.

    Attributes:
        case: the case.
        status, reason, message: as in its record.
        version: of the flare-lite that has done it; empty where the record does not say.
    """

    case: Case
    status: Literal["done", "refused", "failed"]
    reason: str
    message: str
    version: str = ""

    @classmethod
    def of(cls, case: Case, record: Before) -> "Kept":
        """Return what a record says."""
        return cls(case, record.status, record.reason, record.message, record.model.version)


class _Leases(Protocol):
    """What keeps other workers away from targets; see `Leases`."""

    def take(self, target: Path) -> Lease | None: ...

    def release(self, lease: Lease) -> None: ...

    def give_back(self, lease: Lease) -> None: ...

    def clear(self, target: Path) -> None: ...

    def close(self) -> None: ...


class Claims:
    """The cases that this process has claimed.

    A case at which workers were lost is claimed by itself: no other one is then to be blamed for the next loss.

    Args:
        rules: which cases stay as they are.
        recipe: of this run.
        hash_of: hashes images and results.
    """

    def __init__(self, rules: ResumeRules, recipe: Recipe, hash_of: Hash = sha256_of) -> None:
        self._rules = rules
        self._recipe = recipe
        self._hash_of = hash_of
        self._leases: _Leases = Leases()
        self._claimed: set[Lease] = set()
        self._said: set[str] = set()

    @property
    def is_exclusive(self) -> bool:
        """Whether the case that is claimed is to be by itself."""
        return any(lease.lost_before for lease in self._claimed)

    def claim(self, case: Case) -> Case | Kept | CaseRecord | None:
        """Return a case with its lease, what it is kept as, or why it is given up.

        None where another worker has it, or where it is to be claimed by itself.
        """
        before, stays = self._look_at(case)
        if before and stays:
            return self._keep(Kept.of(case, before))
        try:
            make_folder(case.mask.parent)
            lease = self._leases.take(case.mask)
        except StoreError:  # it costs all
            raise
        except OutputError as error:
            record = failed_record(case.name, error)
            if lacked_room(record.reason, record.message):  # for so little: no case can be taken
                raise OutputError(f"{error}; make room, then --resume goes on") from error
            return record  # one bad folder must not cost the others
        if lease is None:
            return None
        try:
            before, stays = self._look_again(case)  # it may have been finished just now
        except BaseException:  # without this, everybody would wait for this process as long as it lives
            self._leases.give_back(lease)
            raise
        if before and stays:
            self._leases.release(lease)
            return self._keep(Kept.of(case, before))
        case = replace(case, lease=lease, tries=(before.tries if before else 0) + lease.lost_before + 1)
        if lease.lost_before >= self._rules.max_tries:
            return self._give_up(case, lease)
        if self._claimed and (lease.lost_before or self.is_exclusive):
            self._leases.give_back(lease)
            return None
        self._claimed.add(lease)
        return case

    def notes_of(self, cases: Sequence[Case]) -> BlockNotes | None:
        """Return the notes of all workers on these cases; None where images or results are in a store."""
        if self._hash_of is not sha256_of or not isinstance(self._leases, Leases):
            return None
        return BlockNotes(cases[0].mask.parent, f"{__version__} {self._recipe} {self._rules}", self._leases)

    def holds(self, lease: Lease) -> bool:
        """Whether no other worker has taken a claimed case over."""
        return lease.is_held()

    def release(self, case: Case) -> None:
        """Let others have what was made of a claimed case."""
        if case.lease is not None:
            self._claimed.discard(case.lease)
            self._leases.release(case.lease)

    def give_back(self, case: Case) -> None:
        """Let others have a claimed case of which nothing was made."""
        if case.lease is not None:
            self._claimed.discard(case.lease)
            self._leases.give_back(case.lease)

    def close(self) -> None:
        """Let others have all that is claimed."""
        self._leases.close()

    def _look_at(self, case: Case) -> tuple[Before | None, bool]:
        def on_other_recipe(other: Recipe) -> None:
            is_other_model = other.bundle_sha256 != self._recipe.bundle_sha256
            what = "another model (bundle_sha256)" if is_other_model else "other options (options_sha256)"
            if what not in self._said:
                self._said.add(what)
                _LOG.warning("%s: its record is of %s; such cases are done again", case.name, what)

        return look_at(case, self._recipe, self._rules, self._hash_of, on_other_recipe)

    def _look_again(self, case: Case) -> tuple[Before | None, bool]:
        return self._look_at(case)

    def _fail(self, case: Case, record: CaseRecord) -> CaseRecord:
        return commit_failure(case, record, self._recipe)

    def _give_up(self, case: Case, lease: Lease) -> CaseRecord:
        error = LostDeviceError(f"{lease.lost_before} workers were lost at this case; it is given up")
        record = self._fail(case, failed_record(case.name, error))
        self._leases.release(lease)
        return record

    def _keep(self, kept: Kept) -> Kept:
        with suppress(OutputError):  # what a worker left that was lost just behind its result
            self._leases.clear(kept.case.mask)
        return kept
