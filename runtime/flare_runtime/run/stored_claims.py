"""Claims on cases whose results are objects of a store, under leases that are objects as well."""

import logging

from flare_runtime.cases.case import Case
from flare_runtime.cases.stored_places import StoredPlaces
from flare_runtime.files.lease import Lease
from flare_runtime.run.before import Before
from flare_runtime.run.claims import Claims, Kept
from flare_runtime.run.identity import Recipe
from flare_runtime.run.record import CaseRecord
from flare_runtime.run.resume import ResumeRules
from flare_runtime.run.stored_results import StoredResults
from flare_runtime.stores.lease import StoreLeases, creates_exclusively

_LOG = logging.getLogger(__name__)


class _LookingClaims(Claims):
    """Claims on cases whose images may have to be looked up in a store before it is known whether they are done.

    Args:
        rules: which cases stay as they are.
        recipe: of this run.
        places: of images and results.
    """

    def __init__(self, rules: ResumeRules, recipe: Recipe, places: StoredPlaces) -> None:
        super().__init__(rules, recipe, places.sha256_of)
        self._places = places

    def claim(self, case: Case) -> Case | Kept | CaseRecord | None:
        """Return what `Claims` does."""
        claimed = super().claim(case)
        if claimed is not None and not isinstance(claimed, Case):  # where another has it, it is looked at again soon
            self._places.images.drop(case)
        return claimed

    def _look_at(self, case: Case) -> tuple[Before | None, bool]:
        self._places.images.look_up(case)
        return super()._look_at(case)


class StoredClaims(_LookingClaims):
    """The cases that this process has claimed in a store."""

    def __init__(self, rules: ResumeRules, recipe: Recipe, places: StoredPlaces) -> None:
        super().__init__(rules, recipe, places)
        self._leases = self._store_leases = StoreLeases(places.mirror)

    def holds(self, lease: Lease) -> bool:
        """Whether no other worker has taken a case over."""
        return self._store_leases.holds(lease)

    def _look_again(self, case: Case) -> tuple[Before | None, bool]:
        self._places.refresh(case)
        return self._look_at(case)

    def _fail(self, case: Case, record: CaseRecord) -> CaseRecord:
        results = StoredResults(self._places.mirror)
        results.begin(case)
        super()._fail(case, record)
        return results.store(case) or record


def claims_of(rules: ResumeRules, recipe: Recipe, places: StoredPlaces) -> Claims:
    """Return the claims of a run whose images or results are in a store."""
    folder = places.target_folder
    if folder is None:
        return _LookingClaims(rules, recipe, places)
    if creates_exclusively(places.mirror, folder):
        return StoredClaims(rules, recipe, places)
    _LOG.warning(
        "%s: this store creates no object exclusively, so that workers cannot share cases; give each its --shard I/N",
        places.mirror.shown(str(folder)),
    )
    return _LookingClaims(rules, recipe, places)
