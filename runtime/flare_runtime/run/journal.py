"""The records of a run so far, its report and its table of lesions, which are written once, whatever ends the run."""

import zlib
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import msgspec

from flare_runtime import __version__
from flare_runtime.cases.case import Case
from flare_runtime.files.commit_lock import committing
from flare_runtime.files.naming import visible
from flare_runtime.run.lesion_table import rows_of, write_table
from flare_runtime.run.record import CaseRecord, read_record
from flare_runtime.run.report import RunTime, write_report

if TYPE_CHECKING:  # of use where a run resumes another
    from flare_runtime.run.claims import Kept


class Journal:
    """Counts the cases of a run and collects their records for the report.

    Args:
        report: the file for its report, if there is to be one.
        cases: of the run.
        command: the command line, word by word.
        lesions: the file for the table of all lesions, if there is to be one.

    Attributes:
        count: of cases that are done, refused or failed.
        failed: those of them that are not done.
        kept: of cases that another run has done, or has refused or failed; of the latter `kept_failed`.
        kept_of: of those that it has done, how many each other version of flare-lite has.
    """

    def __init__(
        self,
        report: Path | None,
        cases: Sequence[Case],
        command: Sequence[str] = (),
        lesions: Path | None = None,
    ) -> None:
        self.count = 0
        self.failed = 0
        self.kept = 0
        self.kept_failed = 0
        self.kept_of = Counter[str]()
        self._report = report
        self._not_begun = dict.fromkeys(case.name for case in cases) if report else {}
        # As compressed JSON they take a tenth of the memory.
        self._records: list[bytes] = []
        self._lesions = lesions
        self._rows: list[str] = []
        self._written = False
        self._command = [visible(word) for word in command]
        self._started = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self._started_s = perf_counter()

    def add(self, record: CaseRecord) -> None:
        """Add the record of a case."""
        self._not_begun.pop(record.case, None)
        if self._report:
            self._records.append(zlib.compress(msgspec.json.encode(record), 1))
        if self._lesions:
            self._rows.append(rows_of(record))
        # Last of all: an interruption waits for it.
        self.failed += record.status != "done"
        self.count += 1

    def keep(self, kept: "Kept") -> None:
        """Count a case that stays as another run has left it."""
        self._not_begun.pop(kept.case.name, None)
        if self._lesions and (record := read_record(kept.case.record)):
            self._rows.append(rows_of(record))
        self.kept_failed += kept.status != "done"
        self.kept += 1
        if kept.version not in ("", __version__):
            self.kept_of[kept.version] += 1

    @property
    def done(self) -> int:
        """How many cases are done."""
        return self.count - self.failed

    def write(self) -> None:
        """Write the report and the table, if there are to be any and they were not written yet.

        Raises:
            OutputError: where one cannot be written.
        """
        with committing:  # which an interruption takes before it writes
            if self._written:
                return
            self._written = True
            if self._lesions:
                write_table(self._lesions, self._rows)
            if self._report:
                run = RunTime(self._started, round(perf_counter() - self._started_s, 3), self._command)
                records = [msgspec.Raw(zlib.decompress(record)) for record in self._records]
                write_report(self._report, run, records, list(self._not_begun), self.kept)
