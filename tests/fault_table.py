"""Every input and event that must do no harm: what happens, and what shows it. `python -m tests.fault_table` prints it.

docs/reference/faults.md is this table; tests/test_faults.py runs its files and holds the document to it.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Verdict = Literal["passed", "failed", "not run", "open"]
GENERATED = "tests/test_faults.py::test_a_file_is_treated_as_the_table_says"

HEAD = """\
# Bad input and faults: what happens

Generated from the table in `tests/fault_rows.py`, which the test suite runs: `make test` ends with the rows that were
covered and passed. A case that is *refused* gets no mask, a record with the reason, and exit code 4; the others go on.
A case that *works* with a remark has the remark in its record. *Exit* means that nothing was begun.

| input or event | what happens | shown by |
|---|---|---|
"""


@dataclass(frozen=True)
class File:
    """One image that is made, segmented with all others of the table in one run of `flare-infer`, and looked at.

    Attributes:
        case: the name of its case.
        make: writes it.
        reason: why it is refused, or None where it has to work.
        remarks: the codes that its record holds.
        suffix: of its name.
        fails: why the program does not do this yet.
    """

    case: str
    make: Callable[[Path], object]
    reason: str | None = None
    remarks: tuple[str, ...] = ()
    suffix: str = ".nii.gz"
    fails: str = ""


@dataclass(frozen=True)
class Row:
    """One input or event.

    Attributes:
        fault: what is given, or what happens to the program.
        outcome: what it does.
        files: images that show it.
        tests: other tests that show it, "tests/FILE.py::NAME".
        open: why it is not covered, where it is not.
    """

    fault: str
    outcome: str
    files: tuple[File, ...] = ()
    tests: tuple[str, ...] = ()
    open: str = ""

    def test_ids(self) -> list[str]:
        """Return the ids of its tests; those with parameters have more behind it."""
        return [*(f"{GENERATED}[{file.case}]" for file in self.files), *self.tests]

    def verdict(self, outcomes: Mapping[str, Iterable[str]]) -> Verdict:
        """Say what became of it in a test run, from the outcomes (`passed`, `failed`, ...) by test id."""
        if self.open:
            return "open"
        found = [
            outcome
            for test, of_test in outcomes.items()
            if any(re.match(rf"{re.escape(name)}(\[|::|$)", test) for name in self.test_ids())
            for outcome in of_test
        ]
        if any(outcome in ("failed", "error", "xfailed") for outcome in found):
            return "failed"
        return "passed" if "passed" in found else "not run"


def document(rows: Iterable[Row]) -> str:
    """Return the table as Markdown."""
    return HEAD + "".join(f"| {row.fault} | {row.outcome} | {_shown_by(row)} |\n" for row in rows)


def _shown_by(row: Row) -> str:
    if row.open:
        return f"not covered: {row.open}"
    files = [f"{len(row.files)} made file{'s' if len(row.files) > 1 else ''}"] if row.files else []
    tests = sorted({test.partition("::")[0].removeprefix("tests/") for test in row.tests})
    return ", ".join([*files, *(f"`{test}`" for test in tests)])


def summary(rows: Iterable[Row], outcomes: Mapping[str, Iterable[str]]) -> list[str]:
    """Return a line for every row: what became of it, and why it was not covered where it was not."""
    lines, counts = [], dict.fromkeys(("passed", "failed", "not run", "open"), 0)
    for row in rows:
        verdict = row.verdict(outcomes)
        counts[verdict] += 1
        why = {"open": row.open, "not run": "its tests are slow, or need what this machine lacks"}.get(verdict, "")
        lines.append(f"{verdict:<8} {row.fault}{': ' if why else ''}{why}")
    return [*lines, ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)]


if __name__ == "__main__":
    from tests.fault_rows import ROWS

    print(document(ROWS), end="")  # noqa: T201
