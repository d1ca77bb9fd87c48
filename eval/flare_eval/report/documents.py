"""`flare-eval report`: what accuracy and efficiency wrote, as one Markdown and one self-contained HTML file."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from flare_eval.report import tables
from flare_eval.report.blocks import Block, CaseTable, Charts, Facts, Figure, Legend, Section, Table, Text
from flare_eval.report.case_table import Method
from flare_eval.report.charts import STYLE
from flare_eval.report.sections import all_sections
from flare_eval.results import Accuracy, Efficiency, Result, load
from flare_runtime.errors import UsageError
from flare_runtime.files.naming import visible
from flare_runtime.files.output import check_folder, replacing
from flare_runtime.files.target import check_targets

_REPORTS = ("report.md", "report.html")
_MARKDOWN_SIGNS = str.maketrans({sign: f"\\{sign}" for sign in "\\`*[]|"} | dict.fromkeys("\r\n", " "))


def write_report(
    folders: Sequence[Path], output: Path, *, images: Path | None = None, gallery: int = 4, flare: bool = False
) -> list[Path]:
    """Write report.md, report.html, charts/*.svg and gallery/*.png into `output`; return the files.

    The HTML holds its charts and pictures and needs none of the other files.

    Args:
        folders: of accuracy.json and efficiency.json, or of one such folder per method.
        output: the folder.
        images: folder of <case>_0000.nii.gz or <case>.nii.gz, for the gallery.
        gallery: how many of the best and of the worst cases are shown.
        flare: whether the numbers of the FLARE25 paper stand beside.

    Raises:
        UsageError: where there is no result, or two of one kind for one method.
        OutputError: where a file cannot be written.
    """
    methods = load_methods(folders)
    check_report(output)
    title = f"Segmentation: {', '.join(method.name for method in methods)}"
    return write_sections(title, all_sections(methods, images, gallery, flare=flare), output)


def check_report(output: Path) -> None:
    """Refuse a folder that a report must not be written into, before any work is done, and make it if need be.

    Raises:
        OutputError: where one of its files is no regular file, or nothing can be written there.
    """
    check_targets(output / name for name in _REPORTS)
    check_folder(output)


def write_sections(title: str, sections: Sequence[Section], output: Path) -> list[Path]:
    """Write report.md, report.html and the charts and figures of `sections` into `output`; return the files.

    Raises:
        OutputError: where a file cannot be written.
    """
    texts = to_markdown(title, sections), to_html(title, sections)
    files = {name: text.encode() for name, text in zip(_REPORTS, texts, strict=True)}
    for block in (block for section in sections for block in section.blocks):
        if isinstance(block, Charts):
            files |= {name: chart.standalone.encode() for name, chart in block.charts}
        elif isinstance(block, Figure):
            files[block.file] = block.png
    check_targets(output / name for name in files)
    for name, content in files.items():
        check_folder((output / name).parent)
        with replacing(output / name) as file:
            file.write(content)
    return [output / name for name in files]


def load_methods(folders: Sequence[Path]) -> list[Method]:
    """Load the results of all methods, in the order of the folders.

    Raises:
        UsageError: where there is no result, or two of one kind for one method.
    """
    places = []
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"{folder}: there is no such folder; give one that flare-eval wrote results into")
        places += [folder.resolve(), *sorted(path.resolve() for path in folder.iterdir() if path.is_dir())]
    accuracies, efficiencies = _by_method(Accuracy, places), _by_method(Efficiency, places)
    names = list(dict.fromkeys([*accuracies, *efficiencies]))
    if not names:
        searched = ", ".join(map(str, folders)) or "no folder was given"
        raise UsageError(f"{searched}: no accuracy.json and no efficiency.json there, nor in a subfolder")
    return [Method(name, accuracies.get(name), efficiencies.get(name)) for name in names]


def _by_method(kind: type[Result], places: Sequence[Path]) -> dict[str, Result]:
    results: dict[str, Result] = {}
    for place in dict.fromkeys(places):
        result = load(kind, place)
        if result is None:
            continue
        if result.method in results:
            raise UsageError(f"{place}: there is another {kind.__name__.lower()}.json of method {result.method!r}")
        results[result.method] = result
    return results


def to_html(title: str, sections: Sequence[Section]) -> str:
    """Return the report as one HTML page that loads nothing."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("flare_eval"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.finalize = lambda value: visible(value) if type(value) is str else value  # not of markup
    return environment.get_template("report.html").render(title=title, sections=sections, chart_style=STYLE)


def to_markdown(title: str, sections: Sequence[Section]) -> str:
    """Return the report as Markdown that links to its charts and pictures."""
    parts = [f"# {_plain(title)}"]
    for section in sections:
        parts += [f"## {section.title}", *(_block(block) for block in section.blocks)]
    return "\n\n".join(parts) + "\n"


def _block(block: Block) -> str:
    match block:
        case Text(text):
            return _plain(text)
        case Facts(pairs):
            return "\n".join(f"- {_plain(name)}: {_plain(value)}" for name, value in pairs)
        case Table(caption, head, rows):
            return _table(caption, head, rows)
        case CaseTable(caption, head, _, rows):
            return _table(caption, head, [[cell.text for cell in row.cells] for row in rows])
        case Charts(caption, charts):
            links = "\n".join(f"![{_plain(chart.title)}]({name})" for name, chart in charts)
            return f"{_plain(caption)}\n\n{links}"
        case Figure(caption, file):
            return f"{_plain(caption)}\n\n![{_plain(caption)}]({file})"
        case Legend(colours):
            return f"Outlines: {', '.join(f'{name} {colour}' for name, colour in colours)}."


def _table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = ([_plain(cell) for cell in row] for row in rows)
    return f"**{_plain(caption)}**\n\n{tables.markdown([_plain(name) for name in head], cells)}"


def _plain(text: str) -> str:
    """Return text on one line in which Markdown and HTML see no markup."""
    return escape(visible(text.translate(_MARKDOWN_SIGNS)), quote=False)
