"""The GPUs that TensorRT for RTX builds engines for, by what NVIDIA's compilers call their compute capability."""

TARGETS = {"sm75": "Turing", "sm86": "Ampere", "sm89": "Ada Lovelace", "sm120": "Blackwell"}
# What people ask for in vain.
_DATA_CENTRE = {"sm80": "A100", "sm90": "H100, H200", "sm100": "B200", "sm103": "B300"}


def target_of(compute_capability: str) -> str:
    """Return the target of a compute capability: `sm89` of `8.9`."""
    return f"sm{compute_capability.replace('.', '')}"


def compute_capability_of(target: str) -> str:
    """Return the compute capability of a target: `8.9` of `sm89`."""
    return f"{target[2:-1]}.{target[-1]}"


def why_not(target: str) -> str:
    """Return in one line why there are no engines for a target; nothing where there are."""
    if target in TARGETS:
        return ""
    cards = f" ({_DATA_CENTRE[target]})" if target in _DATA_CENTRE else ""
    known = ", ".join(f"{name} ({family})" for name, family in TARGETS.items())
    return f"TensorRT for RTX does not support {target}{cards}, only {known}"
