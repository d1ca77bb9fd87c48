"""What nnU-Net's own trainer classes build, told by their names; a test compares them with the installed nnU-Net."""

from collections.abc import Mapping
from typing import Any

DEFAULT_TRAINER = "nnUNetTrainer"
# That of flare_train, which builds what nnU-Net's default does.
FLARE_TRAINER = "FlareTrainer"
# These build the network of the plans, and the words follow `nnUNetTrainer` in a name.
_SUFFIXES = """
Adam Adam1en3 Adam3en4 Adan Adan1en1 Adan1en3 Adan3en4 AdanCosAnneal Benchmark_5epochs Benchmark_5epochs_noDataLoading
CELoss CELoss_5epochs CosAnneal DA5 DA5Segord0 DA5_10epochs DA5ord0 DiceCELoss_noSmooth DiceLoss DiceTopK10Loss NoDA
NoDeepSupervision NoMirroring Topk10Loss Topk10LossLS01 VanillaAdam VanillaAdam1en3 VanillaAdam3en4 _100epochs _10epochs
_1epoch _2000epochs _2000epochs_NoMirroring _20epochs _250epochs _250epochs_NoMirroring _4000epochs
_4000epochs_NoMirroring _500epochs _50epochs _5epochs _750epochs _8000epochs _8000epochs_NoMirroring _DASegOrd0
_DASegOrd0_NoMirroring _noDummy2DDA _onlyMirror01 _onlyMirror01_1500ep _onlyMirror01_DA5 _onlyMirror01_DASegOrd0
_probabilisticOversampling _probabilisticOversampling_010 _probabilisticOversampling_033 _warmup
"""
PLAIN_TRAINERS = frozenset(
    {DEFAULT_TRAINER, FLARE_TRAINER, "nnUNet_Trainer_BS8", *(DEFAULT_TRAINER + suffix for suffix in _SUFFIXES.split())}
)
BATCH_NORM_TRAINER = "nnUNetTrainerBN"
# These build transformers, and the words follow `nnUNet_Primus` in a name.
_TRANSFORMERS = """
V2B_Trainer V2L_Trainer V2M_Trainer V2S_Trainer V3B_Trainer V3L_Trainer V3M_Trainer V3S_Trainer _B_Trainer _L_Trainer
_M_Trainer _M_Trainer_BS8 _M_Trainer_BS8_2e4 _S_Trainer
"""
PRIMUS_TRAINERS = frozenset(
    {
        *("AbstractPrimus", "_Primus_B_96_BS1", "_Primus_L_48_BS1", "_Primus_M_96_BS1", "_Primus_S_96_BS1"),
        *(f"nnUNet_Primus{suffix}" for suffix in _TRANSFORMERS.split()),
    }
)


def with_batch_norm(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `architecture` block of what `nnUNetTrainerBN` builds of a plan's block."""
    two = str(architecture["arch_kwargs"].get("conv_op")).endswith("2d")
    norm = {"norm_op": f"torch.nn.BatchNorm{2 if two else 3}d", "norm_op_kwargs": {"eps": 1e-5, "affine": True}}
    return {**architecture, "arch_kwargs": {**architecture["arch_kwargs"], **norm}}
