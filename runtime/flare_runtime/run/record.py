"""The record of a case: what was done with it, or why it was not."""

import traceback
from pathlib import Path
from typing import Literal

import msgspec

from flare_runtime import __version__
from flare_runtime.cases.record_format import RECORD_FORMAT
from flare_runtime.compute.available_memory import lacked_memory
from flare_runtime.errors import CaseError, FlareError, GpuMemoryError, LostDeviceError
from flare_runtime.files.naming import visible, visible_lines
from flare_runtime.imaging.volume import Remark
from flare_runtime.pipeline.lesions import LabelTotal, Lesion
from flare_runtime.run.identity import Identity
from flare_runtime.segmentation import Segmentation
from flare_runtime.segmenter import Segmenter

# 1 held the whole of `model` as strings, and less beside it.
SCHEMA_VERSION = 2


class CaseRecord(msgspec.Struct, kw_only=True, omit_defaults=True, tag_field="format", tag=RECORD_FORMAT):
    """What was done with a case, how long it took, and the lesions in it.

    Attributes:
        status: `done`; `refused` for an input that cannot be trusted or is too large; `failed` for anything else.
        reason, message: why it was not done: a stable code and one line.
        traceback: of an error that is none of this package's.
        timings_s: seconds by stage; `read` is the wait for a case's images, of which all but the first are read while
            the case before is segmented; `total` is from before that wait until after writing. Where several cases are
            in work, on a GPU, `read` is their own time and `total` holds the waits between the stages.
        inputs, inputs_sha256: the images, and of a case that is done their hashes.
        other_masks: the files of the same mask in other formats, and their hashes.
        peak_memory_mib: of the process that segments, so far.
        gpu_memory_mib: of a GPU, all the process takes: `planned` for this case, and the most `measured` so far.
        lesions: the largest first, not more than MAX_LESIONS.
        totals: of each label with lesions, those that are not listed included.
        remarks: what was odd about the input.
        identity: what it was made of, by which `--resume` tells whether it still holds.
    """

    case: str
    status: Literal["done", "refused", "failed"]
    # A factory's value is written although it is the default.
    schema_version: int = msgspec.field(default_factory=lambda: SCHEMA_VERSION)
    reason: str | None = None
    message: str | None = None
    traceback: str | None = None
    inputs: list[str] = []
    inputs_sha256: list[str] = []
    mask: str | None = None
    mask_sha256: str | None = None
    other_masks: dict[str, str] = {}
    probabilities: str | None = None
    probabilities_sha256: str | None = None
    preview: str | None = None
    page: str | None = None
    structured_report: str | None = None
    structured_report_sha256: str | None = None
    timings_s: dict[str, float] = {}
    peak_memory_mib: float | None = None
    gpu_memory_mib: dict[str, int] | None = None
    shape: tuple[int, ...] | None = None
    spacing_mm: tuple[float, ...] | None = None
    lesions: list[Lesion] | None = None
    totals: list[LabelTotal] | None = None
    remarks: list[Remark] = []
    model: dict[str, str | float | bool] = {}
    identity: Identity | None = None

    @property
    def line(self) -> str:
        """The case in one line, for a terminal or a log."""
        odd = "".join(f"; note: {remark.text}" for remark in self.remarks)
        if self.status != "done":
            return f"{self.case}: {self.status} ({self.reason}): {self.message}{odd}"
        count = sum(total.lesions for total in self.totals or [])
        volume = sum(total.volume_ml for total in self.totals or [])
        timings = self.timings_s
        return (
            f"{self.case}: {count} lesion(s), {volume:.2f} ml, "
            f"{timings['total']:.2f} s (network {timings['network']:.2f} s){odd}"
        )


def done_record(case: str, result: Segmentation, timings_s: dict[str, float], segmenter: Segmenter) -> CaseRecord:
    """Return the record of a case that was segmented; paths and hashes are the caller's to add."""
    return CaseRecord(
        case=case,
        status="done",
        timings_s={stage: round(seconds, 4) for stage, seconds in timings_s.items()},
        peak_memory_mib=peak_memory_mib(),
        gpu_memory_mib=result.gpu_memory_mib,
        shape=result.mask.shape,
        spacing_mm=result.template.geometry.spacing_mm,
        lesions=result.lesions,
        totals=list(result.totals),
        remarks=list(result.remarks),
        model=model_identity(segmenter),
    )


def failed_record(case: str, error: Exception) -> CaseRecord:
    """Return the record of a case that was not segmented."""
    if isinstance(error, CaseError):
        status: Literal["failed", "refused"] = "failed" if isinstance(error, GpuMemoryError) else "refused"
        return CaseRecord(case=case, status=status, reason=error.reason, message=visible(error))
    if isinstance(error, LostDeviceError):
        message, evidence = visible(error), error.traceback
        return CaseRecord(case=case, status="failed", reason="worker_lost", message=message, traceback=evidence)
    if isinstance(error, FlareError):
        return CaseRecord(case=case, status="failed", reason="output", message=visible(error))
    message = f"{type(error).__name__}: {visible(error)}"
    reason = "memory" if lacked_memory(error) else "internal"
    return CaseRecord(case=case, status="failed", reason=reason, message=message, traceback=traceback_of(error))


def traceback_of(error: Exception) -> str:
    """Return an error's traceback as Python would print it."""
    return visible_lines("".join(traceback.format_exception(error)))


def model_identity(segmenter: Segmenter) -> dict[str, str | float | bool]:
    """Return which model ran, and how."""
    network, manifest = segmenter.network, segmenter.bundle.manifest
    stage = manifest.previous_stage
    return {
        "name": visible(manifest.name),
        "configuration": visible(manifest.provenance.configuration),
        **({"previous_stage": visible(stage.model.provenance.configuration)} if stage else {}),
        **({"caution": visible(manifest.caution)} if manifest.caution else {}),
        "bundle_sha256": segmenter.bundle.sha256,
        "backend": network.backend,
        "device": network.device,
        "precision": network.precision,
        "step": segmenter.step,
        "tta": segmenter.options.tta,
        "crop": segmenter.options.crop,
        "postprocessing": str(segmenter.postprocessing),
        "flare-lite": __version__,
    }


def read_record(path: Path) -> CaseRecord | None:
    """Return the record in a file; None where there is none that can be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=CaseRecord)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def peak_memory_mib() -> float:
    """Return the largest resident memory of this process so far, in MiB, as Linux counts it.

    Not `getrusage`'s: to a process that another has started it gives the peak of that one where it was larger.
    """
    lines = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines()
    kib = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return round(kib / 1024, 1)
