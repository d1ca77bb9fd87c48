"""How much memory this process can still take, and whether an error means that memory ran out."""

import resource
from pathlib import Path

from flare_runtime.errors import DeviceError

# A group's limit, what is used of it, and what of that the kernel gives back before it kills; cgroup 2, then 1.
_GROUP_FILES = (
    ("memory.max", "memory.current", ("inactive_file", "active_file", "slab_reclaimable")),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
)
# Limits of a process, and the field of /proc/self/statm that counts against each: all of it, and what it may write.
_PROCESS_LIMITS = ((resource.RLIMIT_AS, 0), (resource.RLIMIT_DATA, 5))
# What any engine's libraries, threads and their stacks take of a process's addresses.
_ENGINE_BYTES = 256 << 20
# What the user can do where it is too little.
MORE_MEMORY = "close other programs, raise the limit (the container's, ulimit -v) or use a machine with more memory"
_LACKED = (
    "bad_alloc",
    "bad allocation",
    "Failed to allocate",
    "Unable to allocate",
    "Cannot allocate memory",
    "failed to map segment",
    "can't alloc",
    # A thread takes memory for its stack.
    "can't start new thread",
    "Resource temporarily unavailable",
)


def available_bytes(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the memory that this process can still take, swap included; None where the system does not say.

    Args:
        proc: where the kernel tells of the machine and of this process.
        cgroups: where it tells of the limits of containers, cgroup 1 or 2.
    """
    try:
        lines = (proc / "meminfo").read_text(encoding="utf-8").splitlines()
        kibibytes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
        machine = (kibibytes["MemAvailable"] + kibibytes.get("SwapFree", 0)) * 1024
    except (OSError, ValueError, KeyError, IndexError):
        return None
    left = [machine, *process_limits(proc)]
    for group in _own_groups(proc, cgroups):
        left += _left_to_group(group)
    return max(min(left), 0)


def check_engine_fits() -> None:
    """Refuse to load an engine where a limit of this process leaves it no room: some end the process instead of saying.

    Raises:
        DeviceError: with both figures.
    """
    left = min(process_limits(), default=_ENGINE_BYTES)
    if left < _ENGINE_BYTES:
        raise DeviceError(
            f"the network's engine needs at least {_ENGINE_BYTES >> 20} MiB of addresses, the limit of this process "
            f"leaves {max(left, 0) >> 20}; {MORE_MEMORY}"
        )


def lacked_memory(error: BaseException) -> bool:
    """Whether an error, or what caused it, is that memory ran out; engines say so in words alone."""
    while not isinstance(error, MemoryError) and not any(text in str(error) for text in _LACKED):
        if error.__cause__ is None:
            return False
        error = error.__cause__
    return True


def process_limits(proc: Path = Path("/proc")) -> list[int]:
    """Return what each limit of this process (`ulimit -v`, `-d`) leaves, in bytes; none where there are none."""
    try:
        pages = [int(field) for field in (proc / "self" / "statm").read_text(encoding="utf-8").split()]
        limits = [(resource.getrlimit(limit)[0], pages[field]) for limit, field in _PROCESS_LIMITS]
    except (OSError, ValueError, IndexError):
        return []
    page = resource.getpagesize()
    return [limit - used * page for limit, used in limits if limit != resource.RLIM_INFINITY]


def _own_groups(proc: Path, cgroups: Path) -> list[Path]:
    """Return this process's groups and those above them, as far as they can be seen here.

    A container may be told its group's name and see that group as the root.
    """
    try:
        lines = (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    groups: list[Path] = []
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            root = cgroups
        elif "memory" in controllers.split(","):
            root = cgroups / "memory"
        else:
            continue
        own = root / path.lstrip("/")
        groups += [group for group in (own, *own.parents) if group.is_relative_to(root)]
    return groups


def _left_to_group(group: Path) -> list[int]:
    for limit_file, used_file, reclaimed in _GROUP_FILES:
        try:
            limit = (group / limit_file).read_text(encoding="utf-8").strip()
            used = int((group / used_file).read_text(encoding="utf-8"))
            statistics = (group / "memory.stat").read_text(encoding="utf-8").splitlines()
            cached = sum(int(line.split()[1]) for line in statistics if line.split()[0] in reclaimed)
            return [] if limit == "max" else [int(limit) - used + cached]
        except (OSError, ValueError, IndexError):
            continue
    return []
