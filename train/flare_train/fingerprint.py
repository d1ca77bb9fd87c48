"""nnU-Net's fingerprint of a raw data set."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flare_runtime.errors import UsageError

_FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed")


@dataclass(frozen=True)
class Fingerprint:
    """What nnU-Net measured.

    Attributes:
        content: spacings, shapes after cropping, foreground intensities.
        dataset_name: in full.
        preprocessed: where nnU-Net keeps it, and the plans.
    """

    content: dict[str, Any]
    dataset_name: str
    preprocessed: Path


def fingerprint(dataset: str, workers: int) -> Fingerprint:
    """Measure a raw data set with nnU-Net, and put its dataset.json beside the result.

    Args:
        dataset: its number or name.
        workers: processes.

    Raises:
        UsageError: where nnU-Net's folders are not named, or it finds no such data set in them.
    """
    missing = [name for name in _FOLDERS if not os.environ.get(name)]
    if missing:
        raise UsageError(f"set {' and '.join(missing)}: nnU-Net finds its data by these environment variables")
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprint_dataset
    from nnunetv2.utilities.dataset_name_id_conversion import convert_dataset_name_to_id, maybe_convert_to_dataset_name

    raw, preprocessed = (Path(os.environ[name]) for name in _FOLDERS)
    try:
        name = maybe_convert_to_dataset_name(int(dataset) if dataset.isdigit() else dataset)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise UsageError(f"{dataset}: {str(error).splitlines()[0]}") from error
    if not (raw / name / "dataset.json").is_file():
        raise UsageError(f"{raw / name}: holds no dataset.json; make the data set with `flare-train select`")
    content = extract_fingerprint_dataset(convert_dataset_name_to_id(name), num_processes=workers, verbose=False)
    shutil.copyfile(raw / name / "dataset.json", preprocessed / name / "dataset.json")
    return Fingerprint(content, name, preprocessed / name)
