"""The lesions of all cases of a run as one CSV, a row each."""

import csv
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

from flare_runtime.files.naming import as_cell
from flare_runtime.files.output import replacing
from flare_runtime.run.record import CaseRecord

_COLUMNS = (
    "id",
    "label",
    "name",
    "volume_ml",
    "diameter_mm",
    "perpendicular_mm",
    "diameter_slice",
    "largest_slice",
    "mean_intensity",
    "sd_intensity",
    "touches_border",
    "mean_probability",
)
_PLACES = ("centre_mm", "centre_lps_mm")
HEAD = ["case", "status", *_COLUMNS, *(f"{name}_{axis}" for name in _PLACES for axis in "xyz")]


def line_of(cells: Sequence[object]) -> str:
    """Return a row of a CSV, in which no text is a formula."""
    line = StringIO()
    csv.writer(line, lineterminator="\n").writerow([as_cell(cell) if isinstance(cell, str) else cell for cell in cells])
    return line.getvalue()


def cells_of(record: CaseRecord) -> list[list[object]]:
    """Return the rows of a case: one for each lesion, and one that names none where there is none."""
    rows: list[list[object]] = []
    for lesion in record.lesions or []:
        places = [side for name in _PLACES for side in getattr(lesion, name) or (None, None, None)]
        rows.append([record.case, record.status, *(getattr(lesion, name) for name in _COLUMNS), *places])
    return rows or [[record.case, record.status, *[None] * (len(HEAD) - 2)]]


def rows_of(record: CaseRecord) -> str:
    """Return the lines of a case; see `cells_of`."""
    return "".join(map(line_of, cells_of(record)))


def write_table(target: Path, rows: Sequence[str]) -> None:
    """Write the table of a run from what `rows_of` gave for its cases.

    Raises:
        OutputError: where it cannot be written.
    """
    with replacing(target) as file:
        file.write("".join([line_of(HEAD), *rows]).encode())


def is_table(head: bytes) -> bool:
    """Whether a file that begins so is a table of lesions."""
    return head.startswith(line_of(HEAD).encode())
