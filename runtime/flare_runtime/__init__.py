"""The lean runtime: a bundle and a CT in, a mask out; NumPy and an inference engine, never torch."""

from __future__ import annotations

from flare_runtime.program.telemetry import silence_engines

TYPE_CHECKING = False  # of `typing`, which takes longer to import than the command's first steps
if TYPE_CHECKING:
    from typing import Any

    from flare_runtime.cases.input_rules import InputRules
    from flare_runtime.errors import BundleError, CaseError, DeviceError, FlareError, OutputError, UsageError
    from flare_runtime.imaging.geometry import Geometry
    from flare_runtime.imaging.read import read_nifti, read_volume
    from flare_runtime.imaging.volume import Volume
    from flare_runtime.model.bundle import Bundle
    from flare_runtime.options import RunOptions
    from flare_runtime.run.events import CaseKept, CaseProgress, DeviceFallback, NetworkReady
    from flare_runtime.run.resume import ResumeRules
    from flare_runtime.run.session import Session
    from flare_runtime.segmentation import Segmentation
    from flare_runtime.segmenter import Segmenter

__all__ = [
    "Bundle",
    "BundleError",
    "CaseError",
    "CaseKept",
    "CaseProgress",
    "DeviceError",
    "DeviceFallback",
    "FlareError",
    "Geometry",
    "InputRules",
    "NetworkReady",
    "OutputError",
    "ResumeRules",
    "RunOptions",
    "Segmentation",
    "Segmenter",
    "Session",
    "UsageError",
    "Volume",
    "read_nifti",
    "read_volume",
]
__version__ = "0.1.0"

_HOMES = {
    "Bundle": "model.bundle",
    "BundleError": "errors",
    "CaseError": "errors",
    "CaseKept": "run.events",
    "CaseProgress": "run.events",
    "DeviceError": "errors",
    "DeviceFallback": "run.events",
    "FlareError": "errors",
    "Geometry": "imaging.geometry",
    "InputRules": "cases.input_rules",
    "NetworkReady": "run.events",
    "OutputError": "errors",
    "ResumeRules": "run.resume",
    "RunOptions": "options",
    "Segmentation": "segmentation",
    "Segmenter": "segmenter",
    "Session": "run.session",
    "UsageError": "errors",
    "Volume": "imaging.volume",
    "read_nifti": "imaging.read",
    "read_volume": "imaging.read",
}

silence_engines()


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `flare-infer --help` loads no array library."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """Return the public names, which are there before they are imported."""
    return [*globals(), *__all__]
