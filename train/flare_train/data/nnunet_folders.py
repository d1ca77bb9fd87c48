"""nnU-Net's three folders, which environment variables name, and the data sets in them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from flare_export.source.json_file import read_json
from flare_export.source.schema import Dataset, checked
from flare_runtime.errors import UsageError

RAW, PREPROCESSED, RESULTS = "nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"
# Which cases of a data set each fold trains and validates on.
SPLITS = "splits_final.json"


@dataclass(frozen=True)
class DatasetFolders:
    """Where nnU-Net keeps a data set.

    Attributes:
        name: of the data set, in full.
        number: its number.
        raw, preprocessed: its folders.
    """

    name: str
    number: int
    raw: Path
    preprocessed: Path


class _RawCase(msgspec.Struct):
    images: list[str]
    label: str


class _RawDataset(Dataset, kw_only=True):
    file_ending: Annotated[str, Meta(pattern=r"^\.[^/\x00-\x1f]+$")]
    dataset: dict[str, _RawCase] | None = None


def find_dataset(dataset: str, *also: str) -> DatasetFolders:
    """Return the folders of a raw data set.

    Args:
        dataset: its number or name.
        also: further variables that have to be set.

    Raises:
        UsageError: where a folder is not named, or nnU-Net finds no such data set in them.
        ModelError: where its dataset.json lacks something, or that is of a wrong type.
    """
    missing = [name for name in (RAW, PREPROCESSED, *also) if not os.environ.get(name)]
    if missing:
        raise UsageError(f"set {' and '.join(missing)}: nnU-Net finds its data by these environment variables")
    from nnunetv2.utilities.dataset_name_id_conversion import convert_dataset_name_to_id, maybe_convert_to_dataset_name

    try:
        name = str(maybe_convert_to_dataset_name(int(dataset) if dataset.isdigit() else dataset))
        number = convert_dataset_name_to_id(name)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise UsageError(f"{dataset}: {str(error).splitlines()[0]}") from error
    raw = Path(os.environ[RAW], name)
    if not (raw / "dataset.json").is_file():
        raise UsageError(f"{raw}: holds no dataset.json; make the data set with `flare-train select`")
    checked(read_json(raw / "dataset.json"), _RawDataset, str(raw / "dataset.json"), strict=False)
    return DatasetFolders(name, number, raw, Path(os.environ[PREPROCESSED], name))
