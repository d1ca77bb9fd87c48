"""What the documentation says is what the programs do: options, exit codes, reasons, fields, figures, examples."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import msgspec
import pytest
from benchmarks.tables import Table, filled, pages

from flare_runtime import errors
from flare_runtime.imaging.volume import Remark
from flare_runtime.model import manifest
from flare_runtime.pipeline.lesions import Lesion
from flare_runtime.run.record import CaseRecord
from tests import reference_pages
from tests.reference_pages import COMMANDS_PAGE, PROGRAMS
from tests.runtime.nifti_files import blobs, write_nifti

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
README = ROOT / "README.md"


def page(name: str) -> str:
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


def first_cells(text: str, heading: str) -> set[str]:
    """Return the words in the first cells of the table under a heading."""
    below = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return {
        word
        for line in below.splitlines()
        if line.startswith("| `")
        for word in re.findall(r"`(\w+)`", line.split("|")[1])
    }


# --- generated parts


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.name)
def test_every_table_of_figures_is_made_of_its_json(path):
    text = path.read_text(encoding="utf-8")
    assert text == filled(text), "run python -m benchmarks.tables"


@pytest.mark.parametrize("path", sorted((DOCS / "benchmarks").glob("*.json")), ids=lambda path: path.stem)
def test_every_figure_is_shown_with_all_its_digits(path):
    table = Table.read(path)
    for row in table.rows:
        for cell, column in zip(row, table.columns, strict=True):
            assert not isinstance(cell, float) or round(cell, column.digits) == cell, (row[0], column.name)


def test_every_file_of_figures_is_shown():
    shown = "".join(path.read_text(encoding="utf-8") for path in pages())
    for figures in (DOCS / "benchmarks").glob("*.json"):
        assert f"<!-- table: {figures.stem} -->" in shown


def test_the_options_are_the_programs_own():
    text = COMMANDS_PAGE.read_text(encoding="utf-8")
    assert text == reference_pages.filled(text), "run python -m tests.reference_pages"
    for command, _ in reference_pages.commands():
        assert f"<!-- options: {command} -->" in text


# --- exit codes


def test_exit_codes_are_those_that_every_program_names():
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in page("reference/exit-codes").splitlines()
        if line.startswith("|")
    ]
    for column, program in enumerate(rows[0][1:], start=1):
        program = program.strip("`")
        epilog = reference_pages.parser_of(program).epilog or ""
        named = set(re.findall(r"\b(\d+)\b", epilog.partition("exit codes:")[2]))
        listed = {row[0] for row in rows[2:] if row[column]}
        assert listed == named, program


def test_every_error_has_a_documented_exit_code():
    table = page("reference/exit-codes")
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.FlareError):
            assert f"\n| {kind.exit_code} |" in table


# --- reasons and remarks


def named(node: ast.Assign) -> Iterator[tuple[str, object]]:
    """Yield the names that an assignment gives constants, with these."""
    for target in node.targets:
        names = target.elts if isinstance(target, ast.Tuple) else [target]
        values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
        for name, value in zip(names, values, strict=False):
            if isinstance(name, ast.Name) and isinstance(value, ast.Constant):
                yield name.id, value.value


def words_given_to(name: str) -> Iterator[str]:
    """Yield the words that the runtime's code gives `name` as first argument, or as its `reason`."""
    for path in (ROOT / "runtime").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        constants = dict(pair for node in tree.body if isinstance(node, ast.Assign) for pair in named(node))
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == name:
                given = [*call.args[:1], *(word.value for word in call.keywords if word.arg == "reason")]
                for node in (node for one in given for node in ast.walk(one)):
                    value = constants.get(node.id) if isinstance(node, ast.Name) else getattr(node, "value", None)
                    if isinstance(value, str) and re.fullmatch(r"[a-z_]+", value):
                        yield value


def test_every_reason_to_refuse_has_its_cause_and_cure():
    given = {*words_given_to("CaseError"), errors.GpuMemoryError("").reason}
    assert first_cells(page("reference/refusals"), "Why a case is refused") == given


def test_every_reason_to_fail_has_its_cause_and_cure():
    documented = first_cells(page("reference/refusals"), "Why a case failed")
    assert {*words_given_to("CaseRecord")} <= documented
    assert documented == {"worker_lost", "output", "memory", "internal"}


def test_every_remark_is_documented():
    assert first_cells(page("reference/refusals"), "Remarks") == {*words_given_to("Remark")}


# --- JSON


def fields(struct: type) -> set[str]:
    return {field.encode_name for field in msgspec.structs.fields(struct)}


def test_every_field_of_a_record_is_documented():
    documented = set(re.findall(r"`(\w+)`", page("reference/records")))
    assert fields(CaseRecord) | set(Lesion.__dataclass_fields__) | set(Remark.__dataclass_fields__) <= documented


def test_every_field_of_a_report_is_documented(tiny_bundle, tmp_path):
    write_nifti(tmp_path / "a.nii.gz", blobs((20, 30, 30), 1), spacing_mm=(3, 2, 1.5))
    command = ["-i", str(tmp_path / "a.nii.gz"), "-o", str(tmp_path / "mask.nii.gz"), "-m", str(tiny_bundle)]
    report = tmp_path / "run.json"
    subprocess.run(
        [sys.executable, "-m", "flare_runtime.cli", *command, "--report", str(report)], check=True, timeout=300
    )
    content = json.loads(report.read_bytes())
    documented = set(re.findall(r"`([\w-]+)`", page("reference/records")))
    case = content["cases"][0]
    keys = {*content, *content["environment"], *case, *case["model"], *case["timings_s"]}
    keys |= {key for lesion in case["lesions"] for key in lesion}
    assert keys <= documented


def test_every_field_of_a_manifest_is_documented():
    documented = set(re.findall(r"`(\w+)`", page("reference/bundle")))
    structs = [one for one in vars(manifest).values() if isinstance(one, type) and issubclass(one, msgspec.Struct)]
    assert {field for struct in structs for field in fields(struct)} <= documented


# --- words and examples


def test_every_folder_of_the_runtime_is_in_the_architecture():
    contracts = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    layers = re.search(r'containers = \["flare_runtime"\].*?layers = \[(.*?)\]', contracts, re.DOTALL)
    assert layers
    page_words = set(re.findall(r"`(\w+)`", page("explanation/architecture")))
    assert set(re.findall(r"\b[a-z]\w+", layers[1])) <= page_words


def test_every_page_is_two_clicks_from_the_front_page():
    def linked(path: Path) -> set[Path]:
        targets = re.findall(r"\]\(([^)#:]+\.md)[^)]*\)", path.read_text(encoding="utf-8"))
        return {(path.parent / target).resolve() for target in targets}

    near = linked(README)
    assert {path.resolve() for path in DOCS.rglob("*.md")} <= near.union(*map(linked, near))


def test_the_front_page_is_short():
    text = README.read_text(encoding="utf-8")
    assert len(text.split()) <= 900


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.name)
def test_no_link_leads_nowhere(path):
    """Forges show these pages as well, so links are to files, from where they are."""
    for target in re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", [README, DOCS / "reference" / "python.md"], ids=lambda path: path.name)
def test_the_python_examples_run(path, tmp_path, monkeypatch):
    phantoms = import_module(PROGRAMS["python -m flare_phantom"])
    phantoms.main(["-o", str(tmp_path), *["--seed", "1", "--shape", "20", "40", "40", "--spacing", "6", "4", "4"]])
    (tmp_path / "scan.nii.gz").symlink_to(tmp_path / "imagesTr" / "phantom_0001_0000.nii.gz")
    (tmp_path / "scans").symlink_to(tmp_path / "imagesTr")
    (tmp_path / "BUNDLE").symlink_to(ROOT / "models" / "default")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(block, str(path), "exec"), names)
    assert (tmp_path / "mask.nii.gz").is_file()
