"""The machine's memory: whether a case fits, said before the work instead of being killed in it; giving it back."""

import ctypes
import logging
from math import prod
from pathlib import Path

from flare_runtime.errors import CaseError
from flare_runtime.manifest import Manifest
from flare_runtime.memory_plan import MIB, CaseSize, MemoryPlan, plans

_LOG = logging.getLogger(__name__)
_FLOAT = 4
_CGROUP = Path("/sys/fs/cgroup")
_RECLAIMED = ("inactive_file", "active_file", "slab_reclaimable")


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


def available_bytes(meminfo: Path = Path("/proc/meminfo"), cgroup: Path | None = None) -> int | None:
    """Return the memory that this process can still take, swap included; None where the system does not say."""
    try:
        lines = meminfo.read_text(encoding="utf-8").splitlines()
        kibibytes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
        machine = (kibibytes["MemAvailable"] + kibibytes.get("SwapFree", 0)) * 1024
    except (OSError, ValueError, KeyError, IndexError):
        return None
    groups = _own_groups() if cgroup is None else [cgroup]
    return min([machine, *(_of_group(group, machine) for group in groups)])


def give_back() -> None:
    """Return to the system what glibc keeps of freed memory, such as 50 MiB of compiling."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # not glibc
        return
    trim(0)


def _own_groups() -> list[Path]:
    """Return this process's group and those above it, as far as they can be seen here."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    path = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    own = _CGROUP / path
    return [group for group in (own, *own.parents) if group.is_relative_to(_CGROUP)]


def _of_group(cgroup: Path, machine: int) -> int:
    """Return what a container's limit leaves, or `machine` where there is none."""
    try:
        limit = (cgroup / "memory.max").read_text(encoding="utf-8").strip()
        used = int((cgroup / "memory.current").read_text(encoding="utf-8"))
        statistics = (cgroup / "memory.stat").read_text(encoding="utf-8").splitlines()
        # What the kernel gives back before it kills.
        cached = sum(int(line.split()[1]) for line in statistics if line.split()[0] in _RECLAIMED)
        return machine if limit == "max" else max(int(limit) - used + cached, 0)
    except (OSError, ValueError, IndexError):
        return machine


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
            f"needs about {needed // MIB:,} MiB beside the scan itself, {available // MIB:,} MiB are to be had; close "
            "other programs, or use a machine with more memory",
        )
    return None
