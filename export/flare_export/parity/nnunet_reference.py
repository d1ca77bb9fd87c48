"""Predicts a case with nnU-Net itself, and says how close to undecided it was at each voxel."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from flare_export.parity.nnunet_folder import CHECKPOINT, write_nnunet_folder
from flare_export.source.model_folder import ModelFolder
from flare_export.source.nnunet_trainer import load_problem, quiet
from flare_runtime.compute.arrays import MaskArray, Shape3
from flare_runtime.compute.box import Box
from flare_runtime.errors import UsageError, install_hint
from flare_runtime.files.temporary import temporary_folder
from flare_runtime.pipeline.tiling import PEAK_WEIGHT, TileGrid, gaussian_profile, padded_shape


@dataclass(frozen=True)
class ReferencePrediction:
    """What nnU-Net made of a case.

    Attributes:
        mask: uint8 (z, y, x), what `nnUNetv2_predict` would write.
        logits: its float16 logits on the cropped, transposed input grid, (outputs, z, y, x).
        resolution: the smallest difference its float16 accumulators can hold there, (z, y, x).
        properties: nnU-Net's own record of the crop.
        previous: what a cascade's previous stage made of it.
    """

    mask: MaskArray
    logits: npt.NDArray[np.float16]
    resolution: npt.NDArray[np.float32]
    properties: dict[str, Any]
    previous: "ReferencePrediction | None" = None


class NnunetReference:
    """nnU-Net's predictor over a model folder, on the CPU, through the functions `nnUNetv2_predict` runs.

    Raises:
        UsageError: where nnunetv2 is not installed, or does not load the model.
    """

    def __init__(self, folder: ModelFolder, *, tta: bool = False, step: float = 0.5) -> None:
        try:
            with quiet():
                from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
        except ImportError as error:
            raise UsageError(f"comparing with nnU-Net needs it installed; {install_hint('train')}") from error
        self._predictor = nnUNetPredictor(
            tile_step_size=step,
            use_mirroring=tta,
            perform_everything_on_device=False,
            device=torch.device("cpu"),
            allow_tqdm=False,
        )
        folds = tuple(checkpoint.fold for checkpoint in folder.checkpoints)
        with temporary_folder(Path(gettempdir())) as copy:
            write_nnunet_folder(folder, copy)
            try:
                with quiet():
                    self._predictor.initialize_from_trained_model_folder(str(copy), folds, CHECKPOINT)
            except Exception as error:  # nnU-Net imports trainers one after the other, and whatever they import
                trainer = folder.checkpoints[0].trainer
                raise UsageError(f"nnU-Net does not load the model of {trainer}: {load_problem(error)}") from error
        self._configuration = self._predictor.configuration_manager
        self._previous = None if folder.previous is None else NnunetReference(folder.previous, tta=tta, step=step)

    def predict(self, channels: Sequence[Path], previous: ReferencePrediction | None = None) -> ReferencePrediction:
        """Predict the case whose channel images lie at `channels`.

        Args:
            channels: the files.
            previous: of a cascade what the network is to see of the stage before, in place of what nnU-Net predicts.
        """
        from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape

        predictor, configuration = self._predictor, self._configuration
        plans = predictor.plans_manager
        with quiet():
            if previous is None and self._previous is not None:
                previous = self._previous.predict(channels)
            image, properties = self._prepare(channels, previous)
            logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(image))
            mask = convert_predicted_logits_to_segmentation_with_correct_shape(
                logits, plans, configuration, predictor.label_manager, properties
            )
            spacing = [properties["spacing"][axis] for axis in plans.transpose_forward]
            first = 3 - len(configuration.patch_size)  # of the axes that the network sees
            grid_spacing = spacing[:first] + list(configuration.spacing)
            shape = properties["shape_after_cropping_and_before_resampling"]
            z, y, x = (1, *configuration.patch_size)[-3:]
            resolution = float16_resolution(logits.numpy(), (z, y, x), predictor.tile_step_size)
            fine, resolution_fine = (
                np.asarray(configuration.resampling_fn_probabilities(grid, shape, grid_spacing, spacing))
                for grid in (logits, resolution[None])
            )
        return ReferencePrediction(mask.astype(np.uint8), fine, resolution_fine[0], properties, previous)

    def _prepare(
        self, channels: Sequence[Path], previous: ReferencePrediction | None
    ) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """Return what the network sees of a case, and nnU-Net's record of it, as `predict_from_files` prepares it."""
        from nnunetv2.utilities.label_handling.label_handling import convert_labelmap_to_one_hot

        predictor, configuration = self._predictor, self._configuration
        plans, preprocessor = predictor.plans_manager, configuration.preprocessor_class(verbose=False)
        files = [str(path) for path in channels]
        if previous is None:
            image, _, properties = preprocessor.run_case(files, None, plans, configuration, predictor.dataset_json)
            return image, properties
        with temporary_folder(Path(gettempdir())) as scratch:
            mask = str(scratch / f"mask{predictor.dataset_json['file_ending']}")
            plans.image_reader_writer_class().write_seg(previous.mask, mask, previous.properties)
            image, labels, properties = preprocessor.run_case(files, mask, plans, configuration, predictor.dataset_json)
        one_hot = convert_labelmap_to_one_hot(labels[0], predictor.label_manager.foreground_labels, image.dtype)
        return np.vstack((image, one_hot)), properties


def largest_margin(
    reference: ReferencePrediction, mask: MaskArray, transpose: Sequence[int], *, regions: bool
) -> tuple[float, float]:
    """Return how decided nnU-Net was where `mask` differs from its own.

    The margin of an exclusive-class voxel is the difference of the two largest logits, of a region voxel the
    smallest absolute logit.

    Args:
        reference: nnU-Net's prediction.
        mask: ours, (z, y, x) on the input grid.
        transpose: the plan's `transpose_forward`.
        regions: whether the logits are those of overlapping regions.

    Returns:
        The largest margin among the differing voxels, and the largest in steps, each what `float16_resolution` gives
        for its voxel; both 0 where nothing differs.
    """
    differs = (mask != reference.mask).transpose(transpose)
    box = Box.between(*np.transpose(reference.properties["bbox_used_for_cropping"]))
    logits = reference.logits[:, differs[box]].astype(np.float64)
    if not logits.size:
        return 0.0, 0.0
    if regions:
        margins = np.abs(logits).min(axis=0)
    else:
        second, first = np.sort(logits, axis=0)[-2:]
        margins = first - second
    return float(margins.max()), float((margins / reference.resolution[differs[box]]).max())


def float16_resolution(logits: npt.NDArray[np.float16], patch: Shape3, step: float) -> npt.NDArray[np.float32]:
    """Return what nnU-Net's accumulators can resolve of each voxel's logits, (z, y, x) on the network's grid.

    They hold the sum of logit times Gaussian weight in float16. Towards the volume's edges and corners the weights
    fall to 1e-6 and less, where float16 has few bits or none.
    """
    z, y, x = logits.shape[1:]
    padded = padded_shape((z, y, x), patch)
    grid = TileGrid.covering(padded, patch, step)
    totals = [np.zeros(n) for n in padded]
    for total, size, starts in zip(totals, patch, grid.starts, strict=True):
        for start in starts:
            total[start : start + size] += gaussian_profile(size)
    tz, ty, tx = (total[side] for total, side in zip(totals, Box.centred((z, y, x), padded), strict=True))
    weight = PEAK_WEIGHT * tz[:, None, None] * ty[:, None] * tx
    # Weights below float16's smallest number are raised to it by nnU-Net.
    weight = np.maximum(weight, np.finfo(np.float16).smallest_subnormal)
    largest = np.abs(logits.astype(np.float32)).max(axis=0)
    return np.asarray(np.spacing((largest * weight).astype(np.float16)) / weight, np.float32)
