"""Which cases of a raw data set the folds train and validate on."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from flare_runtime.errors import UsageError
from flare_runtime.files.output import replacing
from flare_runtime.imaging.file_names import mask_name, strip_suffix
from flare_train.data.nnunet_folders import SPLITS, DatasetFolders

Split = dict[str, list[str]]


class _Fold(msgspec.Struct):
    train: list[str]
    val: list[str]


_FOLDS = 5


def stems_of(dataset: DatasetFolders) -> list[str]:
    """Return the stems of all cases of a raw data set, in order."""
    return sorted(strip_suffix(path.name) for path in (dataset.raw / "labelsTr").glob(mask_name("*")))


def read_split(dataset: DatasetFolders, fold: int) -> Split:
    """Return the stems that a numbered fold trains and validates on, `train` and `val`.

    The split of `flare-train select` comes first and is put where nnU-Net looks for it. Without one nnU-Net's own five
    folds are used, which are made where there are none.

    Raises:
        UsageError: where the split cannot be read, has no such fold or is of other cases, or there are too few for
            nnU-Net's.
    """
    ours, theirs = dataset.raw / SPLITS, dataset.preprocessed / SPLITS
    stems = stems_of(dataset)
    if ours.is_file():
        splits = _read(ours)
    elif theirs.is_file():
        splits = _read(theirs)
        if foreign := {stem for split in splits for stem in split["train"] + split["val"]} - set(stems):
            raise UsageError(f"{theirs}: names {min(foreign)}, which is not in the data set any more; remove the file")
    else:
        splits = _nnunet_folds(dataset, stems)
    content = json.dumps(splits, indent=2).encode()
    if not theirs.is_file() or theirs.read_bytes() != content:
        with replacing(theirs) as file:
            file.write(content)
    if fold >= len(splits):
        raise UsageError(f"fold {fold}: {theirs} has {len(splits)}, counted from 0")
    return splits[fold]


def _read(file: Path) -> list[Split]:
    try:
        folds = msgspec.json.decode(file.read_bytes(), type=list[_Fold])
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{file}: cannot be read ({error}); remove it, or select again") from error
    return [{"train": fold.train, "val": fold.val} for fold in folds]


def _nnunet_folds(dataset: DatasetFolders, stems: list[str]) -> list[Split]:
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    if len(stems) < _FOLDS:
        raise UsageError(f"{dataset.name}: {len(stems)} cases make no {_FOLDS} folds; choose --fold all")
    folds: list[Split] = generate_crossval_split(stems)
    return folds
