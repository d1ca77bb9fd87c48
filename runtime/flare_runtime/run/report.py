"""The report of a run: a JSON file of its records, and of what made them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import msgspec

from flare_runtime.cases.record_format import REPORT_FORMAT
from flare_runtime.files.json_file import write_json
from flare_runtime.run.record import SCHEMA_VERSION, CaseRecord

_PACKAGES = (
    "flare-lite",
    "numpy",
    "scipy",
    "nibabel",
    "openvino",
    "onnxruntime",
    "onnxruntime-gpu",
    "cupy-cuda13x",
    "nvidia-cudnn-cu13",
    "nvidia-cudnn-frontend",
    "tensorrt",
    "tensorrt-rtx-cu13",
)


@dataclass(frozen=True)
class RunTime:
    """When and how a run was made.

    Attributes:
        started: date and time in UTC, ISO 8601.
        duration_s: from then until the report is written.
        command: the command line, word by word; empty where it was none.
    """

    started: str
    duration_s: float
    command: list[str]


def write_report(
    target: Path,
    run: RunTime,
    records: Sequence[CaseRecord | msgspec.Raw],
    not_begun: Sequence[str],
    kept: int = 0,
) -> None:
    """Write the report of a run.

    Args:
        target: the file.
        run: when and how it was made.
        records: of the cases that were done, refused or failed, as they are or as JSON.
        not_begun: the names of the others; where there are any, the run was interrupted and the report says so.
        kept: how many cases stay as another run has left them.

    Raises:
        OutputError: where it cannot be written.
    """
    content = {
        "format": REPORT_FORMAT,
        "schema_version": SCHEMA_VERSION,
        **asdict(run),
        "complete": not not_begun,
        "not_begun": list(not_begun),
        **({"kept": kept} if kept else {}),
        "cases": list(records),
    }
    write_json(target, {**content, "environment": environment()})


def environment() -> dict[str, str]:
    """Return the versions that decide what a run computes."""
    import platform  # as importlib.metadata below: a case without a report is not to wait for their import

    packages = {name: _version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), "system": platform.platform(), "cpu": platform.machine(), **packages}


@cache
def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
