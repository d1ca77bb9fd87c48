"""Every kind of model beside nnU-Net's own predictor, voxel by voxel: `python -m benchmarks.parity --table FILE`.

`tests/export/test_parity_table.py` asks the same of the rows below, of a few of them by default.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import nibabel as nib
import numpy as np

from benchmarks.samples.levels import staircase
from benchmarks.samples.model_folders import write_model_folder
from benchmarks.tables import Column, Table, add_table_option
from flare_export.bundle.conversion import Naming, export_bundle
from flare_export.parity.case_parity import CaseParity, measure_case_parity
from flare_export.source.model_folder import ModelFolder
from flare_runtime.compute.arrays import Shape3
from flare_runtime.options import RunOptions
from flare_runtime.segmenter import Segmenter

COMMAND = "python -m benchmarks.parity"
MIN_VOXEL_AGREEMENT, MIN_DICE = 0.9999, 0.999
BACKENDS = ("openvino", "onnxruntime")
MODEL = {"decided": 4.0, "features": (8, 16), "patch": (24, 24, 24), "spacing_mm": (3.0, 2.0, 2.0)}
# Shapes and spacings in mm, (z, y, x).
JOINT = ((44, 52, 56), (2.0, 1.2, 1.2))
THICK = ((14, 60, 56), (6.0, 1.2, 1.2))
THICK_LAST = ((56, 60, 14), (1.2, 1.2, 6.0))
THIN = ((5, 50, 46), (2.0, 1.2, 1.2))
TINY = ((14, 16, 15), (2.0, 1.2, 1.2))


@dataclass(frozen=True)
class Row:
    """A kind of model and of scan.

    Attributes:
        name: what is special about it.
        grid: shape and spacing of the scan, (z, y, x).
        tta: whether both mirror.
        axes: how the scan is stored, as nibabel's codes.
        quick: whether it is among the few that are always asked.
        least: the part of the voxels that has to be equal; less where the fit leaves more of them undecided.
        model: the options of `write_model_folder`.
    """

    name: str
    grid: tuple[Shape3, tuple[float, float, float]] = JOINT
    tta: bool = False
    axes: str = "LPS"
    quick: bool = False
    least: float = MIN_VOXEL_AGREEMENT
    model: Mapping[str, Any] = field(default_factory=dict)


def row(name: str, **options: Any) -> Row:
    """Return a row of the table, with what is not of `Row` itself as options of the model."""
    own = {key: options.pop(key) for key in ("grid", "tta", "axes", "quick", "least") if key in options}
    return Row(name, **own, model=options)


SLICES = {"patch": (32, 32), "spacing_mm": (2.0, 2.0), "mirror_axes": (0, 1)}
BATCH = {"norm_op": "torch.nn.BatchNorm3d", "norm_op_kwargs": {"eps": 1e-5, "affine": True}}
BATCH_2D = {"norm_op": "torch.nn.BatchNorm2d", "norm_op_kwargs": {"eps": 1e-5, "affine": True}}
BOTTLENECKS = {
    "block": "dynamic_network_architectures.building_blocks.residual.BottleneckD",
    "bottleneck_channels": 8,
}
GROUP = {"norm_op": "torch.nn.GroupNorm", "norm_op_kwargs": {"num_channels": 8}, "features_per_stage": [8, 8]}
DROPOUT = {"dropout_op": "torch.nn.Dropout3d", "dropout_op_kwargs": {"p": 0.3}}
THREE = {"least": 0.999, "decided": 1.0, "labels": {"background": 0, "liver": 1, "lesion": 2}}
REGIONS = {
    "labels": {"background": 0, "whole": (1, 2, 3), "core": (2, 3), "centre": 3},
    "regions_class_order": (1, 2, 3),
}
PET = {"channels": ("CT", "PET"), "normalisation": ("CTNormalization", "ZScoreNormalization")}
FOUR = {"channels": ("T1", "T1c", "T2", "FLAIR"), "normalisation": "ZScoreNormalization", "masked": True}
# nnU-Net's residual presets, at small width.
DEEP = {"least": 0.999, "decided": 1.0}
RESENC = {**DEEP, "network": "ResidualEncoderUNet", "features": (8, 8, 16, 16)}
BLOCKS_A_STAGE = {"n_blocks_per_stage": [1, 3, 4, 6], "n_conv_per_stage_decoder": [1, 1, 1]}
SWISH = {"trainer": "SwishTrainer", "trained_layers": {"nonlin": "torch.nn.SiLU"}}

ROWS = (
    row("nnU-Net's default", quick=True),
    row("thick slices", grid=THICK, quick=True),
    row("thick slices, stored last", grid=THICK_LAST),
    row("thick slices, never separate", grid=THICK, force_separate_z=False),
    row("always separate", force_separate_z=True),
    row("a scan thinner than the patch", grid=THIN),
    row("a scan smaller than the patch", grid=TINY, spacing_mm=(2.5, 1.5, 1.5)),
    row("anisotropic patch", patch=(16, 32, 24), spacing_mm=(3.0, 1.5, 1.8)),
    row("transposed", transpose_forward=(2, 0, 1), spacing_mm=(2.0, 3.0, 2.0)),
    row("transposed, thick slices", grid=THICK_LAST, transpose_forward=(1, 2, 0), patch=(24, 16, 24)),
    row("three classes", **THREE),
    row("regions", quick=True, **REGIONS),
    row("CT and PET", quick=True, **PET),
    row("four channels, z-score inside the mask", **FOUR),
    row("regions of four channels, three folds", folds=("0", "1", "2"), **REGIONS, **FOUR),
    row("rescaled to 0 to 1", normalisation="RescaleTo01Normalization", channels=("MR",)),
    row("two folds, two axes mirrored", grid=TINY, tta=True, quick=True, folds=("0", "1"), mirror_axes=(0, 2)),
    row("fold all", folds=("all",)),
    row("five folds", folds=("0", "1", "2", "3", "4")),
    row("three axes mirrored", tta=True),
    row("three axes mirrored, transposed, three classes", tta=True, transpose_forward=(2, 1, 0), **THREE),
    row("ResEnc M", quick=True, layers=BLOCKS_A_STAGE, **RESENC),
    row("ResEnc L, three classes", layers=BLOCKS_A_STAGE, **{**RESENC, **THREE, "features": (8, 16, 16, 24)}),
    row("ResEnc XL, mirrored", tta=True, layers=BLOCKS_A_STAGE, **{**RESENC, "features": (12, 16, 24, 32)}),
    row("residual encoder of bottlenecks", layers=BOTTLENECKS, **RESENC),
    row("residual encoder and decoder", network="ResidualUNet", **DEEP),
    row("residual encoder, BatchNorm", residual=True, layers=BATCH, **DEEP),
    row("nnUNetTrainerBN", quick=True, trainer="nnUNetTrainerBN"),
    row(
        "nnUNetTrainerBN, residual encoder, two folds",
        residual=True,
        trainer="nnUNetTrainerBN",
        folds=("0", "1"),
        **DEEP,
    ),
    row("BatchNorm without weights", layers={**BATCH, "norm_op_kwargs": {"affine": False}}),
    row("BatchNorm of each tile", layers={**BATCH, "norm_op_kwargs": {"track_running_stats": False}}),
    row("BatchNorm behind the activation", layers={**BATCH, "nonlin_first": True}),
    row("InstanceNorm without weights", layers={"norm_op_kwargs": {"affine": False}}),
    row("InstanceNorm of fixed numbers", layers={"norm_op_kwargs": {"affine": True, "track_running_stats": True}}),
    row("InstanceNorm behind the activation", layers={"nonlin_first": True}),
    row("GroupNorm of every channel", features=(8, 8), layers=GROUP),
    row("no norm", layers={"norm_op": None, "norm_op_kwargs": None}),
    row("no biases", decided=1.0, layers={"conv_bias": False}),
    row("dropout", layers=DROPOUT),
    row("ReLU", layers={"nonlin": "torch.nn.ReLU"}),
    row("GELU", quick=True, layers={"nonlin": "torch.nn.GELU", "nonlin_kwargs": {}}),
    row("SiLU, no biases, BatchNorm", layers={**BATCH, "nonlin": "torch.nn.SiLU", "conv_bias": False}),
    row("ELU, dropout", layers={"nonlin": "torch.nn.ELU", **DROPOUT}),
    row("a user's trainer", quick=True, **SWISH),
    row("a user's trainer, regions, mirrored", tta=True, **SWISH, **REGIONS),
    row("FlareTrainer", trainer="FlareTrainer", folds=("0", "1", "2")),
    row("2D", quick=True, **SLICES),
    row("2D, thick slices, mirrored", grid=THICK, tta=True, **SLICES),
    row("2D, transposed, three classes", transpose_forward=(2, 0, 1), **SLICES, **THREE),
    row("2D, regions, two folds", folds=("0", "1"), **SLICES, **REGIONS),
    row("2D, nnUNetTrainerBN", trainer="nnUNetTrainerBN", **SLICES),
    row("2D, residual encoder, BatchNorm", residual=True, layers=BATCH_2D, **SLICES, **DEEP),
    row("2D, CT and PET", **SLICES, **PET),
    row("SimpleITKIO, a scan stored PSR", axes="PSR"),
    row("SimpleITKIOWithReorient, a scan stored PSR", axes="PSR", quick=True, reader="SimpleITKIOWithReorient"),
    row("NibabelIO, a scan stored RAS", axes="RAS", reader="NibabelIO"),
    row(
        "NibabelIOWithReorient, stored ASL, transposed",
        axes="ASL",
        transpose_forward=(0, 2, 1),
        reader="NibabelIOWithReorient",
    ),
)


def measure(of: Row, folder: Path, backends: Sequence[str] = BACKENDS) -> list[CaseParity]:
    """Segment a scan with nnU-Net and with each backend in float32, and compare.

    Args:
        of: what.
        folder: for the model, its bundle and the scan.
        backends: which.
    """
    trainers = str(Path(__file__).parent / "samples" / "own_trainers")
    with patch.dict("os.environ", {"nnUNet_extTrainer": trainers}):
        model = ModelFolder.read(write_model_folder(folder / "model", **{**MODEL, **of.model}))
        bundle, _ = export_bundle(model, folder / "bundle", Naming())
        levels = model.outputs + (bundle.manifest.regions_class_order is not None)
        scans = [write_scan(folder / f"case_{index:04d}.nii.gz", of, levels, index) for index in range(model.inputs)]
        segmenters = [
            Segmenter.load(bundle.path, RunOptions("cpu", backend, "fp32", tta=of.tta, any_intensity=True))
            for backend in backends
        ]
        return list(measure_case_parity(model, segmenters, [scans], tta=of.tta))


def write_scan(path: Path, of: Row, levels: int, channel: int) -> Path:
    """Write a staircase in numbers like HU, with a margin of zeros, so that there is something to crop."""
    shape, spacing = of.grid
    voxels = (40 + 120 * staircase(shape, levels, seed=1) * (1 + channel)).astype(np.int16)
    voxels[0], voxels[:, :, -2:] = 0, 0
    image = nib.Nifti1Image(voxels.transpose(), np.diag([-spacing[2], -spacing[1], spacing[0], 1]))
    image.header.set_qform(image.affine, 1)
    to = nib.orientations.axcodes2ornt(of.axes)
    turned = image.as_reoriented(nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("LPS"), to))
    nib.save(turned, path)
    return path


COLUMNS = (
    Column("kind"),
    Column("nnU-Net's foreground, voxels"),
    Column("differing voxels"),
    Column("voxels equal, %", 4),
    Column("Dice", 6),
    Column("margin, steps", 1),
    Column("ONNX Runtime: voxels equal, %", 4),
    Column("ONNX Runtime: Dice", 6),
)


def cells(of: Row, results: Sequence[CaseParity]) -> list[Any]:
    """Return a line of the documentation's table: what OpenVINO and ONNX Runtime give."""
    first, second = results
    equal, other = first.agreement, second.agreement
    counts = [equal.foreground_voxels, first.differing]
    agreement = [100 * equal.voxel_agreement, equal.dice]
    return [of.name, *counts, *agreement, first.margin_steps, 100 * other.voxel_agreement, other.dice]


def main() -> None:
    """Measure every row, print it, and keep the figures where they are asked for."""
    # nnU-Net imports this module on its way to a trainer; it needs a torchvision made for this very build of torch.
    primus = "nnunetv2.training.nnUNetTrainer.primus.primus_trainers"
    sys.modules.setdefault(primus, ModuleType(primus))
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    add_table_option(parser)
    target = parser.parse_args().table
    lines = []
    for of in ROWS:
        with tempfile.TemporaryDirectory() as folder:
            lines.append(cells(of, measure(of, Path(folder))))
        print(*lines[-1], sep="\t", flush=True)
    if target:
        Table.measured(COMMAND, COLUMNS, lines).write(target)


if __name__ == "__main__":
    main()
