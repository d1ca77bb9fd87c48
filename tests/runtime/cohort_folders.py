"""Folders of results as runs leave them, made of the records alone."""

import os
from pathlib import Path

from flare_runtime.files.json_file import encode_json
from flare_runtime.imaging.volume import Remark
from flare_runtime.pipeline.lesions import LabelTotal, Lesion
from flare_runtime.run.record import CaseRecord


def lesion(number: int = 1, volume_ml: float = 1.5, name: str = "tumour") -> Lesion:
    return Lesion(
        1, 100, volume_ml, (1.0, 2.0, 3.0), (3.0, 3.0, 3.0), name, (-10.0, 20.0, 30.5), number, touches_border=False
    )


def done(case: str, count: int = 1, **fields) -> CaseRecord:
    """A case with lesions of 1.5 ml, 2 s of work and one channel."""
    return CaseRecord(
        case=case,
        status="done",
        **{
            "inputs": [f"/scans/{case}_0000.nii.gz"],
            "mask": f"/out/{case}.nii.gz",
            "timings_s": {"network": 1.25, "total": 2.0},
            "shape": (20, 30, 40),
            "spacing_mm": (2.5, 1.0, 0.5),
            "lesions": [lesion(number + 1) for number in range(count)],
            "totals": [LabelTotal(1, "tumour", count, 1.5 * count)] if count else [],
            "remarks": [Remark("thin", "few slices")],
            "model": {"name": "tiny", "step": 0.5, "tta": False},
            **fields,
        },
    )


def refused(case: str, reason: str = "truncated") -> CaseRecord:
    return CaseRecord(case=case, status="refused", reason=reason, message=f"{case}: cut short", inputs=[f"{case}.nii"])


def failed(case: str, reason: str = "internal") -> CaseRecord:
    return CaseRecord(case=case, status="failed", reason=reason, message="ValueError: odd", inputs=[f"{case}.nii"])


def put(folder: Path, record: CaseRecord, *, seconds_ago: float = 0, now: float = 0) -> Path:
    """Write a record beside its mask, `seconds_ago` from `now`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record.case}.json"
    path.write_bytes(encode_json(record))
    path.with_name(f"{record.case}.nii.gz").touch()
    if now:
        os.utime(path, (now - seconds_ago,) * 2)
    return path
