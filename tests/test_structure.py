"""How large files and functions may be: what is larger is to be taken apart."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MOST_FILE_LINES, MOST_FUNCTION_LINES, MOST_PARAMETERS = 400, 40, 7
TOPS = ("runtime", "export", "train", "eval", "benchmarks", "tests")


def lines_of(function: ast.FunctionDef) -> int:
    """Count a function's lines without its decorators and docstring."""
    first = function.body[0]
    has_docstring = ast.get_docstring(function) is not None
    docstring = first.end_lineno - first.lineno + 1 if has_docstring else 0
    return function.end_lineno - function.lineno + 1 - docstring


def parameters_of(function: ast.FunctionDef) -> int:
    names = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def is_table_of_options(function: ast.FunctionDef) -> bool:
    return function.name.startswith(("parse_args", "_add_"))


def too_large(path: Path) -> Iterator[str]:
    text = path.read_text(encoding="utf-8")
    if (lines := text.count("\n")) > MOST_FILE_LINES:
        yield f"{path}: {lines} lines"
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef):
            continue
        if not is_table_of_options(node) and (lines := lines_of(node)) > MOST_FUNCTION_LINES:
            yield f"{path}:{node.lineno}: {node.name} has {lines} lines"
        if (count := parameters_of(node)) > MOST_PARAMETERS:
            yield f"{path}:{node.lineno}: {node.name} has {count} parameters"


def test_files_and_functions_are_small_enough_to_be_read_at_once():
    files = [path for top in TOPS for path in (ROOT / top).rglob("*.py")]
    assert len(files) > 300
    assert [line for path in files for line in too_large(path)] == []
