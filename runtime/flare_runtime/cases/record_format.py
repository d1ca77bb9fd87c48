"""How the JSON files of a run name what they are, and by what those of an earlier run are known."""

# In a module of its own: whoever asks whether a file is a record is not to wait for the import of what writes them.

from collections.abc import Callable
from typing import Any

import msgspec

RECORD_FORMAT = "flare-lite record"
REPORT_FORMAT = "flare-lite report"


def is_record(data: bytes) -> bool:
    """Whether a file holds a case's record; one written before there was a `format` is recognised by its model."""
    return _is_ours(data, RECORD_FORMAT, _was_record)


def mask_in_record(data: bytes) -> str | None:
    """Return the mask that a file's content says was written, where that is a case's record."""
    mask = msgspec.json.decode(data, type=dict[str, Any]).get("mask") if is_record(data) else None
    return mask if isinstance(mask, str) else None


def is_report(data: bytes) -> bool:
    """Whether a file holds a run's report; one written before there was a `format` is recognised by its versions."""
    return _is_ours(data, REPORT_FORMAT, lambda content: "flare-lite" in content["environment"] and "cases" in content)


def _was_record(content: dict[str, Any]) -> bool:
    if content["status"] in ("refused", "failed"):
        return {"case", "reason", "message"} <= content.keys()
    return "bundle_sha256" in content["model"]


def _is_ours(data: bytes, wanted: str, was_ours: Callable[[dict[str, Any]], bool]) -> bool:
    try:
        content = msgspec.json.decode(data, type=dict[str, Any])
        return bool(content["format"] == wanted if "format" in content else was_ours(content))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError, TypeError):
        return False
