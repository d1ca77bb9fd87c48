"""nnU-Net plans with one configuration whose network is written out in full, so that nothing can replace it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np

from flare_export.source.plans import LAYERS, REQUIRES_IMPORT

CONFIGURATION = "3d_fullres"
SPACING_MM = (2.4, 1.6, 1.6)
PATCH = (128, 160, 160)
BATCH_SIZE = 2


@dataclass(frozen=True)
class Preset:
    """A plain-conv U-Net: two 3 x 3 x 3 convolutions a stage, every stage beyond the first at half the resolution."""

    name: str
    features: tuple[int, ...]

    @property
    def reduction(self) -> int:
        """What every side of a patch must be a multiple of."""
        return int(2 ** (len(self.features) - 1))


S4 = Preset("s4", (32, 64, 128, 256))  # as the paper describes its network
S6 = Preset("s6", (32, 64, 128, 256, 320, 320))  # what its published plan trains
PRESETS = {preset.name: preset for preset in (S4, S6)}


def architecture(features: Sequence[int]) -> dict[str, Any]:
    """Return a plan's complete `architecture` block for a plain-conv U-Net with these features a stage."""
    stages = len(features)
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": list(features),
            "kernel_sizes": [[3, 3, 3]] * stages,
            "strides": [[1, 1, 1]] + [[2, 2, 2]] * (stages - 1),
            "n_conv_per_stage": [2] * stages,
            "n_conv_per_stage_decoder": [2] * (stages - 1),
            **deepcopy(LAYERS),
        },
        "_kw_requires_import": list(REQUIRES_IMPORT),
    }


def _resampling(what: str, order: int) -> dict[str, Any]:
    return {
        f"resampling_fn_{what}": "resample_data_or_seg_to_shape",
        f"resampling_fn_{what}_kwargs": {
            "is_seg": what == "seg",
            "order": order,
            "order_z": 0,
            "force_separate_z": None,
        },
    }


def is_plans(data: bytes) -> bool:
    """Whether a file's content is the plans of some network."""
    try:
        return bool({"plans_name", "configurations"} <= json.loads(data).keys())
    except (ValueError, RecursionError, AttributeError):
        return False


def make_plans(
    fingerprint: Mapping[str, Any],
    dataset_name: str,
    plans_name: str,
    features: Sequence[int],
    *,
    spacing_mm: Sequence[float] = SPACING_MM,
    patch: Sequence[int] = PATCH,
    batch_size: int = BATCH_SIZE,
) -> dict[str, Any]:
    """Return nnU-Net plans for a data set, axes (z, y, x).

    Args:
        fingerprint: nnU-Net's own, of the data set.
        dataset_name: such as Dataset701_Lesions.
        plans_name: of the plans; also in the name of the preprocessed data, so that no other plan's are taken for it.
        features: of the network's stages.
        spacing_mm: what everything is resampled to.
        patch: voxels.
        batch_size: patches a step; several GPUs share them, and each needs one.
    """
    spacings, shapes = np.array(fingerprint["spacings"]), np.array(fingerprint["shapes_after_crop"])
    median_mm, median_shape = np.median(spacings, axis=0), np.median(shapes, axis=0)
    configuration = {
        "data_identifier": f"{plans_name}_{CONFIGURATION}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": batch_size,
        "patch_size": list(patch),
        "median_image_size_in_voxels": np.median(shapes * spacings / spacing_mm, axis=0).tolist(),
        "spacing": list(spacing_mm),
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        **_resampling("data", order=3),
        **_resampling("seg", order=1),
        **_resampling("probabilities", order=1),
        "architecture": architecture(features),
        "batch_dice": False,
    }
    return {
        "dataset_name": dataset_name,
        "plans_name": plans_name,
        "original_median_spacing_after_transp": median_mm.tolist(),
        "original_median_shape_after_transp": median_shape.round().astype(int).tolist(),
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {CONFIGURATION: configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": fingerprint["foreground_intensity_properties_per_channel"],
    }
