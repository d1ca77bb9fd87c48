"""After the benchmarks: each stage's ratio to its reference, and failure where one lost what it had."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.ratios import lost, ratios, read_baselines, stage_rows, write_baselines
from benchmarks.tables import Column, Table

HERE = Path(__file__).resolve().parent
_COLUMNS = (
    Column("stage"),
    Column("here, s", 3),
    Column("reference"),
    Column("reference, s", 3),
    Column("times as fast", 1),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--store-ratios", action="store_true", help="make this run's ratios the baselines")
    parser.addoption("--table", type=Path, help="write the figures there, as docs/benchmarks holds them")


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    yield
    measured = getattr(session.config, "_benchmarksession", None)
    found = ratios(measured.benchmarks) if measured else {}
    if measured and (path := session.config.getoption("table")):
        Table.measured("make bench", _COLUMNS, stage_rows(measured.benchmarks)).write(path)
    if session.config.getoption("store_ratios"):
        write_baselines(HERE, found)
    problems = lost(found, read_baselines(HERE))
    session.config.stash[_LINES] = [f"{group}: {ratio:.2f} times" for group, ratio in found.items()]
    session.config.stash[_PROBLEMS] = problems
    if problems and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for title, key in (("ratios to the references", _LINES), ("slower than the baselines allow", _PROBLEMS)):
        if lines := config.stash.get(key, []):
            terminalreporter.section(title)
            terminalreporter.write_line("\n".join(lines))


_LINES = pytest.StashKey[list[str]]()
_PROBLEMS = pytest.StashKey[list[str]]()
