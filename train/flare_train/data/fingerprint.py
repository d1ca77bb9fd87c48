"""nnU-Net's fingerprint of a raw data set."""

from __future__ import annotations

from typing import Any

from flare_runtime.errors import UsageError
from flare_runtime.files.output import replacing
from flare_train.data.nnunet_folders import DatasetFolders
from flare_train.data.selection import MANIFEST, original_labels
from flare_train.data.split import stems_of


def fingerprint(dataset: DatasetFolders, workers: int) -> dict[str, Any]:
    """Measure a raw data set with nnU-Net: spacings, shapes after cropping, foreground intensities.

    nnU-Net takes every label above 0 for foreground, an ignored region as well; the intensities that images are
    normalised by would be those of whole bodies. So it is given the labels that the data set was made of.

    Its dataset.json is put beside nnU-Net's result.

    Raises:
        UsageError: where the data set holds no case, or its manifest lacks one.
    """
    if not stems_of(dataset):
        raise UsageError(f"{dataset.raw}: holds no labels of cases; make the data set with `flare-train select`")
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor

    extractor = DatasetFingerprintExtractor(dataset.name, workers)
    if originals := original_labels(dataset.raw):
        for stem, files in extractor.dataset.items():
            if stem not in originals:
                raise UsageError(f"{dataset.raw / MANIFEST}: lacks {stem}; make the data set with `flare-train select`")
            files["label"] = str(originals[stem])
    content: dict[str, Any] = extractor.run(overwrite_existing=True)
    with replacing(dataset.preprocessed / "dataset.json") as file:
        file.write((dataset.raw / "dataset.json").read_bytes())
    return content
