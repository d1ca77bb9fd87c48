"""The documentation's tables of figures, made of the JSON beside them: `python -m benchmarks.tables` writes them anew.

A page says where a table goes by two comments, `<!-- table: NAME -->` and `<!-- end of table -->`; what stands between
them is made of docs/benchmarks/NAME.json. The benchmarks write such files with `--table FILE`.
"""

import argparse
import json
import platform
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "docs" / "benchmarks"
SUMMARY = "summary"
_PLACE = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
Cell: TypeAlias = str | float | int | None


@dataclass(frozen=True)
class Column:
    """A column: its heading with the unit, the digits after the point, and whether each figure is compared.

    Attributes:
        ratio: says beside each figure how many times smaller it is than the first row's.
    """

    name: str
    digits: int = 0
    ratio: bool = False


@dataclass(frozen=True)
class Table:
    """Figures as they were measured: by which command, on which machine, on which day."""

    command: str
    machine: str
    date: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]

    @classmethod
    def measured(
        cls,
        command: str,
        columns: Sequence[Column],
        rows: Iterable[Sequence[Cell]],
        packages: Sequence[str] = ("nnunetv2", "openvino"),
    ) -> "Table":
        """Return what was measured here, just now, with these versions of packages."""
        from flare_eval.efficiency.costs import machine
        from flare_eval.efficiency.gpu import GpuMeter

        here, gpu = machine(GpuMeter.find(0)), ""
        if here["gpu"] != "none":
            gpu = f", {here['gpu']}"
        versions = ", ".join(f"{name} {version(name)}" for name in packages)
        place = f"{here['processor']}, {here['cores']} cores{gpu}; Python {platform.python_version()}, {versions}"
        rounded = (tuple(_rounded(*pair) for pair in zip(row, columns, strict=True)) for row in rows)
        return cls(command, place, date.today().isoformat(), tuple(columns), tuple(rounded))

    @classmethod
    def read(cls, path: Path) -> "Table":
        """Read a table of figures."""
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        content["columns"] = tuple(Column(**column) for column in content["columns"])
        content["rows"] = tuple(tuple(row) for row in content["rows"])
        return cls(**content)

    def write(self, path: Path) -> None:
        """Write the table, a row a line."""
        columns = ",\n".join(f"  {json.dumps(asdict(column))}" for column in self.columns)
        rows = ",\n".join(f"  {json.dumps(row)}" for row in self.rows)
        head = "".join(f" {json.dumps(name)}: {json.dumps(getattr(self, name))},\n" for name in _HEAD)
        text = f'{{\n{head} "columns": [\n{columns}\n ],\n "rows": [\n{rows}\n ]\n}}\n'
        path.write_text(text, encoding="utf-8")

    def column(self, name: str) -> list[Cell]:
        """Return a column's figures."""
        index = [column.name for column in self.columns].index(name)
        return [row[index] for row in self.rows]

    def figure(self, row: str, column: str) -> str:
        """Return one figure as it is shown."""
        index = [row[0] for row in self.rows].index(row)
        kind = next(one for one in self.columns if one.name == column)
        return _shown(self.column(column)[index], kind.digits)

    def span(self, column: str) -> str:
        """Return the least and the largest figure of a column as they are shown."""
        kind = next(one for one in self.columns if one.name == column)
        figures = [cell for cell in self.column(column) if isinstance(cell, int | float)]
        return f"{_shown(min(figures), kind.digits)} to {_shown(max(figures), kind.digits)}"

    @property
    def markdown(self) -> str:
        """The table, and below it how to measure it again."""
        lines = [_line(column.name for column in self.columns), self._rule()]
        lines += [_line(self._cells(row)) for row in self.rows]
        return "\n".join(lines) + f"\n\n`{self.command}`; {self.machine}; {self.date}.\n"

    def _rule(self) -> str:
        numbers = [any(isinstance(cell, int | float) for cell in self.column(one.name)) for one in self.columns]
        return f"|{'|'.join('---:' if number else '---' for number in numbers)}|"

    def _cells(self, row: tuple[Cell, ...]) -> list[str]:
        cells = []
        for cell, first, column in zip(row, self.rows[0], self.columns, strict=True):
            text = _shown(cell, column.digits)
            if (
                column.ratio
                and row is not self.rows[0]
                and isinstance(cell, int | float)
                and isinstance(first, int | float)
            ):
                text += f" (1/{first / cell:.{1 if first / cell < 10 else 0}f})"
            cells.append(text)
        return cells


_HEAD = ("command", "machine", "date")


def add_table_option(parser: argparse.ArgumentParser) -> None:
    """Let a benchmark keep its figures."""
    parser.add_argument(
        "--table", type=Path, metavar="FILE", help="write the figures there, as docs/benchmarks holds them"
    )


def _rounded(cell: Cell, column: Column) -> Cell:
    return round(cell, column.digits) if isinstance(cell, float) else cell


def _shown(cell: Cell, digits: int) -> str:
    return "" if cell is None else cell if isinstance(cell, str) else f"{cell:,.{digits}f}"


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |".replace("|  |", "| |")


def summary() -> str:
    """Return the six figures of the front page, each with the command that measures it again."""
    lines = ["| what | `flare-infer` | nnU-Net | measured by | machine, day |", "|---|---:|---:|---|---|"]
    for what, ours, theirs, command, table in _summary_rows():
        machine = table.machine.partition(",")[0].partition(" (")[0]
        lines.append(_line((what, ours, theirs, f"`{command}`", f"{machine}, {table.date}")))
    return "\n".join(lines) + "\n"


def _summary_rows() -> Iterator[tuple[str, str, str, str, Table]]:
    """Yield what was measured, ours, nnU-Net's, by which command, and the table that holds it."""
    names = ("side-by-side", "agreement", "whole-case-xeon", "gpu")
    sides, agreement, whole, gpu = (Table.read(FIGURES / f"{name}.json") for name in names)
    for what, name, unit in (("time, each of 7 real scans", "s", "s"), ("peak memory, the same", "peak MiB", "MiB")):
        ours, theirs = (f"{sides.span(f'{method}, {name}')} {unit}" for method in ("flare-infer_fp32", "nnU-Net"))
        yield what, ours, theirs, "python -m benchmarks.side_by_side", sides
    differing = max(cell for cell in agreement.column("differing voxels") if isinstance(cell, int))
    yield "voxels that differ, in each of 10 scans", f"at most {differing}", "", "make parity", agreement
    case = "time, the paper's network, 512 x 512 x 208"
    for what, name, unit in ((case, "wall, s", "s"), ("peak memory, the same", "peak memory, MiB", "MiB")):
        ours, theirs = (f"{whole.figure(row, name)} {unit}" for row in ("`--precision fp32`", "nnU-Net's predictor"))
        yield what, ours, theirs, "python -m benchmarks.whole_case", whole
    ours, theirs = (f"{gpu.figure(row, 'cold, s')} s" for row in ("cudnn fp16", "nnU-Net"))
    yield "time, the same on a GPU, 512 x 512 x 300", ours, theirs, "make bench-gpu", gpu


def filled(page: str) -> str:
    """Return a page with every table of it made anew."""

    def table(place: re.Match[str]) -> str:
        name = place[2]
        made = summary() if name == SUMMARY else Table.read(FIGURES / f"{name}.json").markdown
        return f"{place[1]}\n{made}\n{place[3]}"

    return _PLACE.sub(table, page)


def pages() -> list[Path]:
    """Return the pages that hold tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def main() -> None:
    """Write every table anew."""
    for page in pages():
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
