"""Which cases to train on, each kept or dropped for a written reason, and the nnU-Net raw data set of them."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from flare_eval.sources import PSEUDO_LABELLED, VALIDATION
from flare_runtime.errors import OutputError, UsageError
from flare_runtime.files.output import check_folder, replacing
from flare_runtime.files.target import check_targets
from flare_runtime.imaging.file_names import MASK_SUFFIX, image_name, mask_name
from flare_train.data.cases import MADE_LABELS
from flare_train.data.inspection import CaseFacts
from flare_train.data.nnunet_folders import SPLITS
from flare_train.data.partial_labels import IGNORE, PartialLabel, remove_partial_labels, write_partial_labels

MANIFEST = "selection.jsonl"
_LINKED, _DATASET = ("imagesTr", "labelsTr"), "dataset.json"


class Choice(msgspec.Struct, frozen=True):
    """A case, whether it is trained on, and why not.

    Attributes:
        stem, source: of the case.
        image, label: the files, as they were found.
        kept: whether it is trained or validated on.
        reason: why not.
        validation: whether it is held out of fold 0.
        ignore_beyond_mm: for a case of which not every lesion is labelled, how far from the labelled ones the
            background still counts; nnU-Net then gets a label made of `label`.
    """

    stem: str
    source: str
    image: str
    label: str
    kept: bool
    reason: str
    validation: bool = False
    ignore_beyond_mm: float | None = None

    @property
    def partial(self) -> bool:
        """Whether nnU-Net gets a label that leaves out what is not known."""
        return self.ignore_beyond_mm is not None


@dataclass(frozen=True)
class SelectionRules:
    """Which cases are trained on.

    Attributes:
        pseudo_labels: keep cases whose labels a model drew; the paper leaves them out.
        empty_labels: keep cases without a lesion.
        cap: at most so many cases of a source; which ones depends on their names alone, so that a larger cap keeps
            what a smaller one kept.
        exclude: stems to leave out, or patterns of them such as `STS_00*`.
        validation: stems or patterns of cases to validate on, which then are not trained on in fold 0.
        partial: sources of which not every lesion is labelled. Their cases, but for those to validate on, are trained
            on near their labelled lesions alone, and never without one.
        ignore_beyond_mm: how far from a lesion that is.
    """

    pseudo_labels: bool = False
    empty_labels: bool = False
    cap: int | None = None
    exclude: Sequence[str] = ()
    validation: Sequence[str] = ()
    partial: Sequence[str] = ()
    ignore_beyond_mm: float = 20.0


_PAPER = SelectionRules()


def select(facts: Iterable[CaseFacts], rules: SelectionRules = _PAPER) -> list[Choice]:
    """Decide on every case of `inspect_cases`, in their order.

    Raises:
        UsageError: where no case is of a source in `rules.partial`, the distance is not above 0, or two cases have one
            name.
    """
    facts = list(facts)
    _check_names(facts)
    _check_partial(rules.partial, {case.source for case in facts}, rules.ignore_beyond_mm)
    choices = [_choice(case, rules) for case in facts]
    return _capped(choices, rules.cap) if rules.cap is not None else choices


def _choice(case: CaseFacts, rules: SelectionRules) -> Choice:
    partial = case.source in rules.partial
    reason = _reason_against(case, rules, {"empty_label"} if rules.empty_labels and not partial else set())
    held_out = not reason and _matches(case.stem, rules.validation)
    beyond_mm = rules.ignore_beyond_mm if partial and not reason and not held_out else None
    return Choice(case.stem, case.source, case.image, case.label, not reason, reason, held_out, beyond_mm)


def _reason_against(case: CaseFacts, rules: SelectionRules, allowed: set[str]) -> str:
    """Return why a case is left out, empty where it is not; `allowed` are problems that do not count."""
    if _matches(case.stem, rules.exclude):
        return "excluded by name"
    if case.source == PSEUDO_LABELLED and not rules.pseudo_labels:
        return "pseudo label"
    if case.source == VALIDATION:
        return "validation set"
    return ", ".join(problem for problem in case.problems if problem not in allowed)


def _check_names(facts: Sequence[CaseFacts]) -> None:
    twice = [stem for stem, count in Counter(case.stem for case in facts).items() if count > 1]
    if twice:
        raise UsageError(f"{twice[0]}: names two cases; inspect the data set again")


def _check_partial(partial: Sequence[str], sources: set[str], beyond_mm: float) -> None:
    if unknown := sorted(set(partial) - sources):
        raise UsageError(f"no case is of {', '.join(unknown)}; the sources are {', '.join(sorted(sources))}")
    if not 0 < beyond_mm < float("inf"):
        raise UsageError(f"{beyond_mm:g} mm around a lesion leave nothing to train on; give a distance above 0")


def _matches(stem: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(stem, pattern) for pattern in patterns)


def _capped(choices: list[Choice], cap: int) -> list[Choice]:
    order = sorted(
        (choice for choice in choices if choice.kept and not choice.validation), key=lambda choice: _lot(choice.stem)
    )
    seen: Counter[str] = Counter()
    surplus = set()
    for choice in order:
        seen[choice.source] += 1
        if seen[choice.source] > cap:
            surplus.add(choice.stem)
    return [
        msgspec.structs.replace(choice, kept=False, reason=f"more than {cap} of {choice.source}", ignore_beyond_mm=None)
        if choice.stem in surplus
        else choice
        for choice in choices
    ]


def _lot(stem: str) -> bytes:
    return hashlib.sha256(stem.encode()).digest()


def write_manifest(choices: Sequence[Choice], target: Path) -> None:
    """Write one JSON line a case.

    Raises:
        OutputError: where it cannot be written.
    """
    with replacing(target) as file:
        for choice in choices:
            file.write(msgspec.json.encode(choice) + b"\n")


def original_labels(raw: Path) -> dict[str, Path]:
    """Return the labels, by stem, that a raw data set was made of; none where no selection made it.

    Raises:
        UsageError: where the manifest cannot be read.
    """
    file = raw / MANIFEST
    if not file.is_file():
        return {}
    try:
        choices = [msgspec.json.decode(line, type=Choice) for line in file.read_bytes().splitlines()]
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{file}: cannot be read ({error}); make it again with `flare-train select`") from error
    return {choice.stem: Path(choice.label) for choice in choices if choice.kept}


def write_raw_dataset(choices: Sequence[Choice], folder: Path, workers: int = 1) -> int:
    """Make an nnU-Net raw data set of links to the kept cases; return how many.

    Labels that leave out what is not known are made in a folder of their own and linked like the others.

    Where some were chosen to validate on, splits_final.json tells nnU-Net's fold 0 apart.

    A folder that an earlier selection made is brought up to date: links that no longer belong to it are removed.
    Any other folder that holds something is refused.

    Args:
        choices: from `select`.
        folder: of the raw data set.
        workers: processes that make labels.

    Raises:
        OutputError: where a link or label cannot be made, or another file is in the way.
        UsageError: where a label to be changed cannot be read.
    """
    _check_ours(folder)
    kept = [choice for choice in choices if choice.kept]
    check_folder(folder)
    write_manifest(choices, folder / MANIFEST)  # first of all: it says that the folder is ours
    partial = write_partial_labels(_partial_labels_of(kept), folder / MADE_LABELS, workers)
    wanted: Mapping[str, dict[str, str]] = {
        "imagesTr": {image_name(choice.stem): choice.image for choice in kept},
        "labelsTr": {mask_name(choice.stem): str(partial.get(choice.stem, choice.label)) for choice in kept},
    }
    for name, links in wanted.items():
        _link(folder / name, links)
    remove_partial_labels(folder / MADE_LABELS, partial.values())
    dataset = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "lesion": 1} | ({"ignore": IGNORE} if partial else {}),
        "numTraining": len(kept),
        "file_ending": MASK_SUFFIX,
    }
    _write_json(folder / _DATASET, dataset)
    split = {
        name: [choice.stem for choice in kept if choice.validation == held_out]
        for name, held_out in (("train", False), ("val", True))
    }
    if split["val"]:
        _write_json(folder / SPLITS, [split])
    else:
        (folder / SPLITS).unlink(missing_ok=True)
    return len(kept)


def _check_ours(folder: Path) -> None:
    """Refuse a folder that holds what no selection put there, before anything is changed."""
    check_targets(folder / name for name in (MANIFEST, _DATASET, SPLITS))
    try:
        if not folder.exists() or not any(folder.iterdir()):
            return
        for path in (path for name in _LINKED if (folder / name).exists() for path in (folder / name).iterdir()):
            if not path.is_symlink():
                raise OutputError(f"{path}: is no link; name a folder that holds nothing else")
        if not (folder / MANIFEST).is_file():
            raise OutputError(f"{folder}: holds no {MANIFEST} of `flare-train select`; name a new folder")
        original_labels(folder)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be read ({error.strerror or error})") from error
    except UsageError as error:
        raise OutputError(f"{folder / MANIFEST}: is not what this command writes; name a new folder") from error


def _partial_labels_of(kept: Sequence[Choice]) -> list[PartialLabel]:
    return [
        PartialLabel(choice.stem, Path(choice.label), choice.ignore_beyond_mm)
        for choice in kept
        if choice.ignore_beyond_mm is not None
    ]


def _write_json(target: Path, content: object) -> None:
    with replacing(target) as file:
        file.write(json.dumps(content, indent=2).encode() + b"\n")


def _link(folder: Path, links: Mapping[str, str]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            if path.name not in links or str(path.readlink()) != os.path.realpath(links[path.name]):
                path.unlink()
        for name, target in links.items():
            path = folder / name
            if not Path(target).is_file():
                raise OutputError(f"{target}: is not there any more; inspect the data set again")
            if not path.is_symlink():
                path.symlink_to(os.path.realpath(target))
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror or error})") from error
