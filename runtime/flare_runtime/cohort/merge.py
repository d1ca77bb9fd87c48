"""All records of a folder as one table of cases, and one of their lesions."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

import msgspec

from flare_runtime.cohort.cases_table import HEAD_BYTES, LESION_COLUMNS, CaseColumns, is_case_table
from flare_runtime.cohort.folder import listings, read_each
from flare_runtime.cohort.record_files import Unreadable, decoded, read_content
from flare_runtime.cohort.table_file import Rows, check_table, rows_in
from flare_runtime.errors import UsageError
from flare_runtime.files.naming import visible
from flare_runtime.files.output import check_folder, replacing
from flare_runtime.program.terminal import progress_bar
from flare_runtime.run.lesion_table import cells_of, is_table
from flare_runtime.run.record import CaseRecord

# A record of thousands of lesions takes megabytes.
_FILES_AT_ONCE = 8
_LESIONS_HEAD_BYTES = 1024
_RECORDS = msgspec.json.Decoder(CaseRecord)


class _Row(msgspec.Struct):
    """A record without its lesions, and where it lies."""

    place: str
    record: CaseRecord


_ROWS = msgspec.json.Decoder(_Row)


@dataclass(frozen=True)
class Merged:
    """What became of a folder's records.

    Attributes:
        cases: how many rows the table of cases has.
        unreadable: a line for each record or folder that cannot be read.
    """

    cases: int
    unreadable: list[str]


def merge(folder: Path, cases: Path, lesions: Path | None = None) -> Merged:
    """Write the records of a folder and of the folders in it as tables, in the order of their paths.

    Records are in memory one after the other. Until the columns of the table of cases are known, they are kept in a
    temporary file beside it.

    Args:
        folder: of the results.
        cases: the CSV or Parquet file for a row a case.
        lesions: that for a row a lesion; None for no such table.

    Raises:
        UsageError: where the folder cannot be read or holds no record, or a table cannot be of that name.
        OutputError: where a table cannot be written, or would replace something else.
    """
    _check(cases, lesions)
    unreadable: list[str] = []
    columns, count = CaseColumns(), 0
    with replacing(cases) as file, TemporaryFile(dir=cases.parent) as kept, _lesion_rows(lesions) as to_lesions:
        for place, record in _records(folder, unreadable):
            if to_lesions:
                for cells in cells_of(record):
                    to_lesions.add(cells)
            record.lesions = None
            columns.note(record)
            kept.write(msgspec.json.encode(_Row(place, record)) + b"\n")
            count += 1
        if not count:
            raise UsageError(f"{folder}: holds no record of a case that can be read")
        kept.seek(0)
        with rows_in(file, cases, "cases", columns.columns()) as to_cases:
            for line in kept:
                row = _ROWS.decode(line)
                to_cases.add(columns.cells(row.record, row.place))
    return Merged(count, unreadable)


def _check(cases: Path, lesions: Path | None) -> None:
    """Refuse tables that cannot or must not be written."""
    if lesions is not None and lesions.resolve() == cases.resolve():
        raise UsageError(f"{lesions}: is the table of cases as well; give the table of lesions another name")
    check_table(cases, "cases", is_case_table, HEAD_BYTES)
    check_folder(cases.parent)
    if lesions is not None:
        check_table(lesions, "lesions", is_table, _LESIONS_HEAD_BYTES)
        check_folder(lesions.parent)


@contextmanager
def _lesion_rows(lesions: Path | None) -> Iterator[Rows | None]:
    if lesions is None:
        yield None
        return
    with replacing(lesions) as file, rows_in(file, lesions, "lesions", LESION_COLUMNS) as rows:
        yield rows


def _records(folder: Path, unreadable: list[str]) -> Iterator[tuple[str, CaseRecord]]:
    """Yield where each record lies, below the folder, and what it says."""
    paths = (path for listing in listings(folder, unreadable.append) for path in listing.json_paths)
    contents = read_each(paths, read_content, _FILES_AT_ONCE)
    for content in progress_bar(contents, "merging", "file"):
        if isinstance(content, Unreadable):
            unreadable.append(content.line)
        elif content is not None:
            record = decoded(content, _RECORDS)
            if isinstance(record, Unreadable):
                unreadable.append(record.line)
            else:
                yield visible(Path(content.path).relative_to(folder)), record
