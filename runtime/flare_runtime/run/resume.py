"""Whether a case was done before, as its record and the files themselves say."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from flare_runtime.cases.case import Case
from flare_runtime.cases.fingerprints import Hash, has_hash, has_stamp, have_stamps, sha256_of
from flare_runtime.errors import UsageError
from flare_runtime.files.naming import visible
from flare_runtime.imaging.read import files_of
from flare_runtime.run.before import Before, lacked_room, read_before
from flare_runtime.run.identity import Identity, Recipe

DEFAULT_MAX_TRIES = 5
# Why a case failed that any run tries again: it is not its images that were wrong.
_TRIED_AGAIN = ("changed", "output")


@dataclass(frozen=True)
class ResumeRules:
    """Which cases a run that resumes leaves as they are.

    Attributes:
        failed_too: try those again that were refused or failed before.
        max_tries: the most runs that try a case that is refused, fails or costs its worker; with another model, other
            options or other images it is tried anew.
        verify_hashes: read every input and mask again and compare their SHA-256; otherwise a file whose size and time
            of change are those of the record is believed to be the same.

    Raises:
        UsageError: for a number that is not allowed.
    """

    failed_too: bool = False
    max_tries: int = DEFAULT_MAX_TRIES
    verify_hashes: bool = False

    def __post_init__(self) -> None:
        """Check the number."""
        if self.max_tries < 1:
            raise UsageError(f"max_tries is {self.max_tries}; it must be at least 1")


def look_at(
    case: Case,
    recipe: Recipe,
    rules: ResumeRules,
    hash_of: Hash = sha256_of,
    on_other_recipe: Callable[[Recipe], None] = lambda _other: None,
) -> tuple[Before | None, bool]:
    """Return what was made of a case before, by the same recipe from the same images, and whether it is to stay.

    None where nothing was, where it was made by another recipe, where files were changed since, where the disk had no
    room for it, however often, or where nobody can tell.
    """
    before = read_before(case.record)
    if before is None or before.identity is None:
        return None, False
    if before.identity.recipe != recipe:
        on_other_recipe(before.identity.recipe)
        return None, False
    if not _inputs_are_same(case, before, before.identity, rules, hash_of):
        return None, False
    if lacked_room(before.reason, before.message):
        return None, False
    if before.status != "done":
        tried_again = rules.failed_too or before.reason in _TRIED_AGAIN
        return before, not tried_again or before.tries >= rules.max_tries
    stays = _outputs_are_there(case, before, before.identity, rules, hash_of)
    return (before, True) if stays else (None, False)


def _inputs_are_same(case: Case, before: Before, identity: Identity, rules: ResumeRules, hash_of: Hash) -> bool:
    is_hashed = before.status == "done"
    is_read_anyway = is_hashed and rules.verify_hashes
    # Files of one size and time may change their names, or their channels in a list.
    if before.is_of(case.places) and not is_read_anyway and have_stamps(case.sources, identity.inputs):
        return True
    channels, known = [files_of(image) for image in case.sources], before.inputs_sha256
    return is_hashed and len(known) == len(channels) and all(map(partial(has_hash, hash_of=hash_of), channels, known))


def _outputs_are_there(case: Case, before: Before, identity: Identity, rules: ResumeRules, hash_of: Hash) -> bool:
    hashes, stamps = before.hashes, identity.outputs
    # Records hold names as they are shown.
    masks = paths = {visible(path.name): path for path in case.masks}
    if not stamps.keys() <= masks.keys():
        paths = masks | {visible(side.path.name): side.path for side in case.side_files}
    if not masks.keys() <= hashes.keys() <= stamps.keys() <= paths.keys():
        return False

    def is_same(path: Path, stamp: str, known: str | None) -> bool:
        if known is None:  # of a picture no hash is kept
            return os.path.isfile(path)  # noqa: PTH113 - raises nothing, whatever is wrong there
        return (not rules.verify_hashes and has_stamp(path, stamp)) or has_hash([path], known, hash_of)

    return all(is_same(paths[name], stamp, hashes.get(name)) for name, stamp in stamps.items())
