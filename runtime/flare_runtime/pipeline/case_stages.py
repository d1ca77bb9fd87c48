"""What a case is between the stages of its way to a mask."""

from collections.abc import Mapping
from dataclasses import dataclass

from flare_runtime.compute.arrays import MaskArray
from flare_runtime.imaging.orientation import Turn
from flare_runtime.imaging.volume import Remark, Template
from flare_runtime.pipeline.inference import BlendedScores
from flare_runtime.pipeline.preprocessing import Prepared


@dataclass(frozen=True)
class PreviousResult:
    """What a cascade's previous stage made of a case.

    Attributes:
        mask: uint8 labels (z, y, x) on the input's grid.
        timings_s: seconds by stage, as of a segmentation.
        remarks: what was odd.
        gpu_memory_mib: of a GPU, as of a segmentation.
    """

    mask: MaskArray
    timings_s: Mapping[str, float]
    remarks: tuple[Remark, ...]
    gpu_memory_mib: Mapping[str, int] | None


@dataclass(frozen=True)
class PreparedCase:
    """A case on the network's grid.

    Attributes:
        prepared: what the network is to see; None where every voxel was zero.
        template: of the input.
        turn: how the input was turned before it was prepared.
        remarks: what was odd about it.
        seconds: how long preparing took.
        previous: of a cascade what its previous stage made of it, and in which time beside.
    """

    prepared: Prepared | None
    template: Template
    turn: Turn
    remarks: tuple[Remark, ...]
    seconds: float
    previous: PreviousResult | None = None


@dataclass
class BlendedCase:
    """A case of which the network has seen all.

    Attributes:
        case: as it was prepared.
        blended: its scores; None where every voxel was zero, and once they are restored.
        seconds: how long the network and blending took.
    """

    case: PreparedCase
    blended: BlendedScores | None
    seconds: float
