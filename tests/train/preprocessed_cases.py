"""Preprocessed cases made by hand, as nnU-Net's preprocessor leaves them."""

from pathlib import Path

import numpy as np
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2


def write_case(folder: Path, identifier: str, label, *, ignore=False) -> None:
    """Write a case of a label (z, y, x) and noise; with an ignored label, nnU-Net also lists what is annotated."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob(f"{identifier}*"):  # blosc2 writes over no file
        path.unlink()
    image = np.random.default_rng(0).normal(size=(1, *label.shape)).astype(np.float32)
    segmentation = label[None].astype(np.int16)
    classes = [1, [-1, 0, 1]] if ignore else [1]
    locations = DefaultPreprocessor._sample_foreground_locations(segmentation, classes)
    blocks = (1, 8, 8, 8)
    nnUNetDatasetBlosc2.save_case(
        image, segmentation, {"class_locations": locations}, str(folder / identifier), chunks=blocks, blocks=blocks
    )
