"""The machine's memory: whether a case fits, said before the work instead of being killed in it; giving it back."""

import ctypes
import logging
from math import prod

from flare_runtime.available_memory import MORE_MEMORY, available_bytes
from flare_runtime.errors import CaseError
from flare_runtime.manifest import Manifest
from flare_runtime.memory_plan import MIB, CaseSize, MemoryPlan, plans

_LOG = logging.getLogger(__name__)
_FLOAT = 4


def needed_bytes(
    size: CaseSize, manifest: Manifest, precision: str, folds: int = 1, *, backend: str = "openvino"
) -> int:
    """Estimate what segmenting a case on the CPU takes beside the scan as read, the mask included.

    While it is prepared: the image and what is resampled in plane. While the network runs: three tensors of its first
    stage's features over the patch, in OpenVINO's bfloat16 two of them of 2 bytes a voxel, and in its float32 and int8
    two and a quarter; the image, and the blended scores. While it is restored: image and scores.
    """
    image = (size.channels + size.scores) * prod(size.padded) * _FLOAT
    widths = 3 * _FLOAT
    if backend == "openvino":
        widths = _FLOAT + 2 + 2 if precision == "bf16" else 2 * _FLOAT + 1
    network = (
        folds * widths * manifest.network.features[0] * prod(manifest.patch) + manifest.network.parameters * _FLOAT
    )
    # What a GPU would need to do it all but hold the scan, which is here already.
    _, streamed, *_ = plans(size)
    return max(streamed.peak_bytes, image + network) + prod(size.crop)


def give_back() -> None:
    """Return to the system what glibc keeps of freed memory, such as 50 MiB of compiling."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # not glibc
        return
    trim(0)


def check_fits(manifest: Manifest, backend: str, precision: str, folds: int, size: CaseSize) -> MemoryPlan | None:
    """Refuse a case that this machine cannot hold; nothing is planned for the host.

    Raises:
        CaseError: `too_little_memory`, with both figures.
    """
    needed, available = needed_bytes(size, manifest, precision, folds, backend=backend), available_bytes()
    _LOG.info("memory: about %s MiB beside the scan itself", f"{needed // MIB:,}")
    if available is not None and needed > available:
        raise CaseError(
            "too_little_memory",
            f"needs about {needed // MIB:,} MiB beside the scan itself, {available // MIB:,} MiB are to be had; "
            f"{MORE_MEMORY}",
        )
    return None
