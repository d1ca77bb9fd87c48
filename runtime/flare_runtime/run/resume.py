"""Whether a case was done before, as its record and the files themselves say."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Literal, TypeAlias

import msgspec

from flare_runtime.cases.case import Case
from flare_runtime.cases.fingerprints import sha256_of, stamp_of, stamps_of
from flare_runtime.cases.record_format import RECORD_FORMAT
from flare_runtime.errors import CaseError, UsageError
from flare_runtime.files.naming import visible
from flare_runtime.imaging.read import files_of
from flare_runtime.run.identity import Identity, Recipe

DEFAULT_MAX_TRIES = 5
# Gives the SHA-256 of files one after the other; see `sha256_of`.
Hash: TypeAlias = Callable[..., str]
# A record of the most lesions that are listed is much smaller.
_MOST_BYTES = 1 << 26


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


class Maker(msgspec.Struct, frozen=True):
    """What a record says of the program that made it: its version, of a case that was done."""

    version: str = msgspec.field(name="flare-lite", default="")


class Before(msgspec.Struct, tag_field="format", tag=RECORD_FORMAT):
    """What a record says of a case that is needed to resume; a record's other fields are not decoded."""

    case: str
    status: Literal["done", "refused", "failed"]
    reason: str = ""
    message: str = ""
    inputs: list[str] = []
    inputs_sha256: list[str] = []
    mask: str = ""
    mask_sha256: str = ""
    other_masks: dict[str, str] = {}
    probabilities: str = ""
    probabilities_sha256: str = ""
    structured_report: str = ""
    structured_report_sha256: str = ""
    model: Maker = Maker()
    identity: Identity | None = None

    @property
    def input_names(self) -> list[str]:
        """The names of the images, wherever they lie."""
        return [PurePath(path).name for path in self.inputs]

    @property
    def hashes(self) -> dict[str, str]:
        """The SHA-256 of results by their file names."""
        known = {
            self.mask: self.mask_sha256,
            self.probabilities: self.probabilities_sha256,
            self.structured_report: self.structured_report_sha256,
            **self.other_masks,
        }
        return {PurePath(path).name: sha256 for path, sha256 in known.items() if path}

    @property
    def tries(self) -> int:
        """How many runs have begun with the case."""
        return self.identity.tries if self.identity else 1


def look_at(
    case: Case,
    recipe: Recipe,
    rules: ResumeRules,
    hash_of: Hash = sha256_of,
    on_other_recipe: Callable[[Recipe], None] = lambda _other: None,
) -> tuple[Before | None, bool]:
    """Return what was made of a case before, by the same recipe from the same images, and whether it is to stay.

    None where nothing was, where it was made by another recipe, where files were changed since, or where nobody can
    tell.
    """
    before = _read(case.record)
    if before is None or before.identity is None:
        return None, False
    if before.identity.recipe != recipe:
        on_other_recipe(before.identity.recipe)
        return None, False
    if not _inputs_are_same(case, before, before.identity, rules, hash_of):
        return None, False
    if before.status != "done":
        tried_again = rules.failed_too or before.reason == "output"  # of which a full disk was to blame, not the case
        return before, not tried_again or before.tries >= rules.max_tries
    stays = _outputs_are_there(case, before, before.identity, rules, hash_of)
    return (before, True) if stays else (None, False)


def _read(path: Path) -> Before | None:
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(_MOST_BYTES), type=Before)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _inputs_are_same(case: Case, before: Before, identity: Identity, rules: ResumeRules, hash_of: Hash) -> bool:
    channels = [files_of(image) for image in case.sources]
    stamps = stamps_of(case.sources)
    if not stamps:
        return False
    # Files of one size and time may change their names, or their channels in a list.
    is_believed = stamps == identity.inputs and before.input_names == [visible(place.name) for place in case.places]
    if before.status != "done":  # such a record has no hashes
        return is_believed
    if is_believed and not rules.verify_hashes:
        return True
    known = before.inputs_sha256
    return len(known) == len(channels) and all(map(partial(_has_hash, hash_of), channels, known))


def _outputs_are_there(case: Case, before: Before, identity: Identity, rules: ResumeRules, hash_of: Hash) -> bool:
    hashes, stamps = before.hashes, identity.outputs
    # Records hold names as they are shown.
    paths = {visible(path.name): path for path in (*case.masks, *(side.path for side in case.side_files))}
    if not {visible(mask.name) for mask in case.masks} <= hashes.keys() <= stamps.keys() <= paths.keys():
        return False

    def is_same(path: Path, stamp: str, known: str | None) -> bool:
        if known is None:  # of a picture no hash is kept
            return os.path.isfile(path)  # noqa: PTH113 - raises nothing, whatever is wrong there
        return (not rules.verify_hashes and _has_stamp(path, stamp)) or _has_hash(hash_of, [path], known)

    return all(is_same(paths[name], stamp, hashes.get(name)) for name, stamp in stamps.items())


def _has_stamp(path: Path, stamp: str) -> bool:
    try:
        return stamp_of([path]) == stamp
    except OSError:
        return False


def _has_hash(hash_of: Hash, files: Iterable[Path], known: str) -> bool:
    try:
        return hash_of(*files) == known
    except (OSError, CaseError):
        return False
