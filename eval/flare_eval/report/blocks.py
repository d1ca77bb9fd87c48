"""What a report is made of, whatever it is written as: sections of paragraphs, tables, charts and figures."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from flare_eval.report.charts import Chart


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    kind: str = "text"


@dataclass(frozen=True)
class Facts:
    """Names and what they stand for."""

    pairs: Sequence[tuple[str, str]]
    kind: str = "facts"


@dataclass(frozen=True)
class Table:
    """A table whose first column is text and whose others are numbers."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    kind: str = "table"


@dataclass(frozen=True)
class Cell:
    """A cell of the table of all cases; `key` is what it is sorted by, None where there is nothing."""

    text: str
    key: str | float | None


@dataclass(frozen=True)
class CaseRow:
    """One method on one case."""

    method: str
    source: str
    status: str
    cells: Sequence[Cell]


@dataclass(frozen=True)
class CaseTable:
    """The table of all cases, which the HTML sorts and filters; `numbers` says which columns hold numbers."""

    caption: str
    head: Sequence[str]
    numbers: Sequence[bool]
    rows: Sequence[CaseRow]
    kind: str = "cases"

    @property
    def choices(self) -> dict[str, list[str]]:
        """The methods, sources and statuses to choose from."""
        return {of: sorted({str(getattr(row, of)) for row in self.rows}) for of in ("method", "source", "status")}


@dataclass(frozen=True)
class Charts:
    """Charts beside one another, each with the file that the Markdown links to."""

    caption: str
    charts: Sequence[tuple[str, Chart]]
    kind: str = "charts"


@dataclass(frozen=True)
class Figure:
    """A picture with the file that the Markdown links to."""

    caption: str
    file: str
    png: bytes
    kind: str = "figure"

    @property
    def data_uri(self) -> str:
        """The picture itself as an address."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


@dataclass(frozen=True)
class Legend:
    """What the colours of the outlines mean: names and #rrggbb."""

    colours: Sequence[tuple[str, str]]
    kind: str = "legend"


Block: TypeAlias = Text | Facts | Table | CaseTable | Charts | Figure | Legend


@dataclass(frozen=True)
class Section:
    """A part of the report."""

    title: str
    blocks: Sequence[Block]

    @property
    def anchor(self) -> str:
        """Its name in links."""
        return slug(self.title.lower())


def slug(text: str) -> str:
    """Return `text` as a part of a file name or link that needs no quoting anywhere."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.")[:60] or "unnamed"
