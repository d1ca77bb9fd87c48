"""nnU-Net's fingerprint of a raw data set."""

from __future__ import annotations

import shutil
from typing import Any

from flare_train.nnunet_folders import DatasetFolders

SPLITS = "splits_final.json"


def fingerprint(dataset: DatasetFolders, workers: int) -> dict[str, Any]:
    """Measure a raw data set with nnU-Net: spacings, shapes after cropping, foreground intensities.

    Its dataset.json, and the split of `flare-train select` if there is one, are put beside nnU-Net's result.
    """
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprint_dataset

    content: dict[str, Any] = extract_fingerprint_dataset(dataset.number, num_processes=workers, verbose=False)
    for name in ("dataset.json", SPLITS):
        if (dataset.raw / name).is_file():
            shutil.copyfile(dataset.raw / name, dataset.preprocessed / name)
    return content
