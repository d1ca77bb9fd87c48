"""The columns and rows of a table of cases: what every record says, and a column for each stage, label and fact."""

from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple, TypeAlias

from flare_runtime.run.lesion_table import HEAD, line_of
from flare_runtime.run.record import CaseRecord

Kind: TypeAlias = Literal["text", "whole", "number", "yes or no"]
_SEPARATOR = "; "


class Column(NamedTuple):
    """A column of a table: its name, and what its cells hold where they are not empty."""

    name: str
    kind: Kind


_LESION_KINDS: dict[str, Kind] = {
    "case": "text",
    "status": "text",
    "name": "text",
    "id": "whole",
    "label": "whole",
    "diameter_slice": "whole",
    "largest_slice": "whole",
    "touches_border": "yes or no",
}
LESION_COLUMNS = [Column(name, _LESION_KINDS.get(name, "number")) for name in HEAD]


def _joined(texts: Iterable[str]) -> str | None:
    return _SEPARATOR.join(texts) or None


def _side(sides: tuple[float, ...] | None, axis: int) -> float | None:
    return sides[axis] if sides and axis < len(sides) else None


def _lesions(record: CaseRecord) -> int | None:
    return None if record.totals is None else sum(total.lesions for total in record.totals)


def _volume_ml(record: CaseRecord) -> float | None:
    return None if record.totals is None else round(sum(total.volume_ml for total in record.totals), 3)


_FIXED: tuple[tuple[Column, Callable[[CaseRecord], object]], ...] = (
    (Column("case", "text"), lambda record: record.case),
    (Column("status", "text"), lambda record: record.status),
    (Column("reason", "text"), lambda record: record.reason),
    (Column("message", "text"), lambda record: record.message),
    (Column("lesions", "whole"), _lesions),
    (Column("volume_ml", "number"), _volume_ml),
    (Column("remarks", "text"), lambda record: _joined(remark.code for remark in record.remarks)),
    (Column("remark_texts", "text"), lambda record: _joined(remark.text for remark in record.remarks)),
    (Column("inputs", "text"), lambda record: _joined(record.inputs)),
    (Column("inputs_sha256", "text"), lambda record: _joined(record.inputs_sha256)),
    (Column("mask", "text"), lambda record: record.mask),
    (Column("mask_sha256", "text"), lambda record: record.mask_sha256),
    (Column("other_masks", "text"), lambda record: _joined(record.other_masks)),
    (Column("probabilities", "text"), lambda record: record.probabilities),
    (Column("preview", "text"), lambda record: record.preview),
    (Column("page", "text"), lambda record: record.page),
    (Column("structured_report", "text"), lambda record: record.structured_report),
    (Column("shape_z", "whole"), lambda record: _side(record.shape, 0)),
    (Column("shape_y", "whole"), lambda record: _side(record.shape, 1)),
    (Column("shape_x", "whole"), lambda record: _side(record.shape, 2)),
    (Column("spacing_z_mm", "number"), lambda record: _side(record.spacing_mm, 0)),
    (Column("spacing_y_mm", "number"), lambda record: _side(record.spacing_mm, 1)),
    (Column("spacing_x_mm", "number"), lambda record: _side(record.spacing_mm, 2)),
    (Column("peak_memory_mib", "number"), lambda record: record.peak_memory_mib),
    (Column("gpu_planned_mib", "whole"), lambda record: (record.gpu_memory_mib or {}).get("planned")),
    (Column("gpu_measured_mib", "whole"), lambda record: (record.gpu_memory_mib or {}).get("measured")),
    (Column("tries", "whole"), lambda record: record.identity.tries if record.identity else None),
)
# What no other table begins with; columns may be added behind it.
_BEGIN = line_of([column.name for column, _ in _FIXED[:8]]).rstrip("\n").encode()
HEAD_BYTES = len(_BEGIN)


def is_case_table(head: bytes) -> bool:
    """Whether a CSV that begins so is a table of cases."""
    return head.startswith(_BEGIN)


class CaseColumns:
    """The columns of a table of cases, which are known once all records were noted."""

    def __init__(self) -> None:
        # Sets that keep their order.
        self._stages: dict[str, None] = {}
        self._facts: dict[str, None] = {}
        self._labels: set[tuple[int, str]] = set()

    def note(self, record: CaseRecord) -> None:
        """Have a column for all that a record says."""
        self._stages.update(dict.fromkeys(record.timings_s))
        self._facts.update(dict.fromkeys(record.model))
        self._labels.update((total.label, total.name or "") for total in record.totals or [])

    def columns(self) -> list[Column]:
        """Return the columns in their order."""
        columns = [column for column, _ in _FIXED]
        for label, name in sorted(self._labels):
            end = f"{label}_{name}" if name else f"{label}"
            columns += [Column(f"lesions_{end}", "whole"), Column(f"volume_ml_{end}", "number")]
        columns += [Column(f"{stage}_s", "number") for stage in self._stages]
        return columns + [Column(f"model_{fact}", "text") for fact in self._facts] + [Column("record", "text")]

    def cells(self, record: CaseRecord, place: str) -> list[object]:
        """Return the row of a case, whose record lies at `place`; a label that is not in its mask has no lesions."""
        cells = [cell(record) for _, cell in _FIXED]
        totals = {(total.label, total.name or ""): total for total in record.totals or []}
        none: tuple[object, object] = (None, None) if record.totals is None else (0, 0.0)
        for label in sorted(self._labels):
            total = totals.get(label)
            cells += (total.lesions, total.volume_ml) if total else none
        cells += [record.timings_s.get(stage) for stage in self._stages]
        facts = (record.model.get(fact) for fact in self._facts)
        return [*cells, *(None if fact is None else str(fact) for fact in facts), place]
