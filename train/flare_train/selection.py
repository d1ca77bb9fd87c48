"""Which cases to train on, each kept or dropped for a written reason, and the nnU-Net raw data set of them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from flare_runtime.errors import OutputError
from flare_runtime.output import replacing
from flare_runtime.sources import PSEUDO_LABELLED, VALIDATION
from flare_train.fingerprint import SPLITS
from flare_train.inspection import CaseFacts


class Choice(msgspec.Struct, frozen=True):
    """A case, whether it is trained on, and why not."""

    stem: str
    source: str
    image: str
    label: str
    kept: bool
    reason: str
    validation: bool = False


def select(
    facts: Iterable[CaseFacts],
    *,
    pseudo_labels: bool = False,
    empty_labels: bool = False,
    cap: int | None = None,
    exclude: Sequence[str] = (),
    validation: Sequence[str] = (),
) -> list[Choice]:
    """Decide on every case, in the order given.

    Args:
        facts: from `inspect_cases`.
        pseudo_labels: keep cases whose labels a model drew; the paper leaves them out.
        empty_labels: keep cases without a lesion.
        cap: at most so many cases of a source; which ones depends on their names alone, so that a larger cap keeps
            what a smaller one kept.
        exclude: stems to leave out, or patterns of them such as `STS_00*`.
        validation: stems or patterns of cases to validate on, which then are not trained on in fold 0.
    """
    choices = []
    for case in facts:
        problems = [p for p in case.problems if not (empty_labels and p == "empty_label")]
        if _matches(case.stem, exclude):
            reason = "excluded by name"
        elif case.source == PSEUDO_LABELLED and not pseudo_labels:
            reason = "pseudo label"
        elif case.source == VALIDATION:
            reason = "validation set"
        else:
            reason = ", ".join(problems)
        held_out = not reason and _matches(case.stem, validation)
        choices.append(Choice(case.stem, case.source, case.image, case.label, not reason, reason, held_out))
    return _capped(choices, cap) if cap is not None else choices


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
        msgspec.structs.replace(choice, kept=False, reason=f"more than {cap} of {choice.source}")
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


def write_raw_dataset(choices: Sequence[Choice], folder: Path) -> int:
    """Make an nnU-Net raw data set of links to the kept cases; return how many.

    Where some were chosen to validate on, splits_final.json tells nnU-Net's fold 0 apart.

    A folder that is there is brought up to date: links that no longer belong to it are removed, other files refused.

    Raises:
        OutputError: where a link cannot be made, or a file that is no link is in the way.
    """
    kept = [choice for choice in choices if choice.kept]
    wanted: Mapping[str, dict[str, str]] = {
        "imagesTr": {f"{choice.stem}_0000.nii.gz": choice.image for choice in kept},
        "labelsTr": {f"{choice.stem}.nii.gz": choice.label for choice in kept},
    }
    for name, links in wanted.items():
        _link(folder / name, links)
    dataset = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "lesion": 1},
        "numTraining": len(kept),
        "file_ending": ".nii.gz",
    }
    _write_json(folder / "dataset.json", dataset)
    split = {
        name: [choice.stem for choice in kept if choice.validation == held_out]
        for name, held_out in (("train", False), ("val", True))
    }
    if split["val"]:
        _write_json(folder / SPLITS, [split])
    else:
        (folder / SPLITS).unlink(missing_ok=True)
    return len(kept)


def _write_json(target: Path, content: object) -> None:
    with replacing(target) as file:
        file.write(json.dumps(content, indent=2).encode() + b"\n")


def _link(folder: Path, links: Mapping[str, str]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            if not path.is_symlink():
                raise OutputError(f"{path}: is no link; name a folder that holds nothing else")
            if path.name not in links or path.readlink() != Path(links[path.name]).resolve():
                path.unlink()
        for name, target in links.items():
            path = folder / name
            if not Path(target).is_file():
                raise OutputError(f"{target}: is not there any more; inspect the data set again")
            if not path.is_symlink():
                path.symlink_to(Path(target).resolve())
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror or error})") from error
