"""A table as CSV or Parquet, written row by row."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from flare_runtime.cohort.cases_table import Column, Kind
from flare_runtime.errors import OutputError, UsageError, install_hint
from flare_runtime.files.target import IsOurs, check_targets
from flare_runtime.run.lesion_table import line_of

SUFFIXES = (".csv", ".parquet")
# Rows that are written together, and are in memory until then.
_GROUP_ROWS = 10_000
# Says in a Parquet file what it is a table of.
_KEY = b"flare-lite table"


class Rows(Protocol):
    """Takes the rows of a table."""

    def add(self, cells: Sequence[object]) -> None:
        """Write a row, or keep it until there are many."""


def check_table(target: Path, what: str, is_ours: IsOurs, head_bytes: int) -> None:
    """Refuse a file that is no table of this kind, and a suffix that no table has.

    Args:
        target: the file to be written.
        what: it is to be a table of.
        is_ours: whether a CSV that begins so is one of them.
        head_bytes: how much of the beginning it needs.

    Raises:
        UsageError: for the suffix, or where Parquet cannot be written.
        OutputError: where the file must not be replaced.
    """
    if target.suffix not in SUFFIXES:
        raise UsageError(f"{target}: a table is a {' or '.join(SUFFIXES)} file")
    if target.suffix == ".csv":
        check_targets([target], over=is_ours, head_bytes=head_bytes)
        return
    check_targets([target])
    parquet = _parquet(target)
    if target.is_file() and target.stat().st_size and _table_in(target, parquet) != what:
        raise OutputError(f"{target}: was not written by this command; move it, or choose another output")


def _table_in(target: Path, parquet: Any) -> str | None:
    """Return what a Parquet file says it is a table of."""
    import pyarrow

    try:
        metadata = parquet.read_schema(target).metadata or {}
    except (pyarrow.ArrowException, OSError):
        return None
    return str(metadata.get(_KEY, b""), errors="replace")


def rows_in(file: BinaryIO, target: Path, what: str, columns: Sequence[Column]) -> AbstractContextManager[Rows]:
    """Begin a table in an open file, as the suffix of `target` says; it is whole after the block."""
    if target.suffix == ".csv":
        return nullcontext(_CsvRows(file, columns))
    return _ParquetRows(file, what, columns, _parquet(target))


def _parquet(target: Path) -> Any:
    try:
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise UsageError(f"{target}: Parquet needs {error.name}; {install_hint('parquet')}, or write .csv") from None
    return parquet


class _CsvRows:
    def __init__(self, file: BinaryIO, columns: Sequence[Column]) -> None:
        self._file = file
        self.add([column.name for column in columns])

    def add(self, cells: Sequence[object]) -> None:
        self._file.write(line_of(cells).encode())


class _ParquetRows:
    def __init__(self, file: BinaryIO, what: str, columns: Sequence[Column], parquet: Any) -> None:
        import pyarrow

        types: dict[Kind, Any] = {
            "text": pyarrow.string(),
            "whole": pyarrow.int64(),
            "number": pyarrow.float64(),
            "yes or no": pyarrow.bool_(),
        }
        fields = [(column.name, types[column.kind]) for column in columns]
        self._schema = pyarrow.schema(fields, metadata={_KEY: what.encode()})
        self._writer = parquet.ParquetWriter(file, self._schema)
        self._batch_of = pyarrow.RecordBatch.from_arrays
        self._array_of = pyarrow.array
        self._rows: list[Sequence[object]] = []

    def add(self, cells: Sequence[object]) -> None:
        self._rows.append(cells)
        if len(self._rows) == _GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        columns = zip(*self._rows, strict=True) if self._rows else ((),) * len(self._schema)
        try:
            arrays = [self._array_of(cells, kind) for cells, kind in zip(columns, self._schema.types, strict=True)]
        except OverflowError as error:
            raise OutputError("a record holds a whole number of more than 64 bits; Parquet cannot, CSV can") from error
        self._writer.write_batch(self._batch_of(arrays, schema=self._schema))
        self._rows.clear()

    def __enter__(self) -> "_ParquetRows":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        try:
            if kind is None:
                self._flush()
        finally:
            self._writer.close()  # else it would write when it is forgotten, and the file is closed by then
