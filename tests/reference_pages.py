"""The options of every command as docs/reference/commands.md holds them: `python -m tests.reference_pages` writes it.

A page says where a command's options go by two comments, `<!-- options: COMMAND -->` and `<!-- end of options -->`;
tests/test_docs.py holds the page to the programs.
"""

import argparse
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from unittest.mock import patch

from flare_runtime.cluster import ray_options
from flare_runtime.cluster.cli import _add_array

COMMANDS_PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "commands.md"
PROGRAMS = {
    "flare-infer": "flare_runtime.cli",
    "flare-export": "flare_export.cli",
    "flare-eval": "flare_eval.cli",
    "flare-train": "flare_train.cli",
    "python -m flare_phantom": "flare_phantom.phantom",
    "python -m flare_eval.show": "flare_eval.show",
}
_PLACE = re.compile(r"(<!-- options: ([^>]+) -->\n).*?(<!-- end of options -->)", re.DOTALL)
# What Markdown would take for itself in the text of an option.
_MARKUP, _ESCAPED = re.compile(r"([|<*])"), r"\\\1"


class _Parser(BaseException):
    """Carries a program's parser out of it."""


def parser_of(program: str, *words: str) -> argparse.ArgumentParser:
    """Return the parser that a program uses for a command line that begins with these words."""

    def parse_known_args(parser: argparse.ArgumentParser, *_args: object) -> None:
        raise _Parser(parser)

    with patch.object(argparse.ArgumentParser, "parse_known_args", parse_known_args):
        try:
            import_module(PROGRAMS[program]).main([*words])
        except _Parser as caught:
            parser: argparse.ArgumentParser = caught.args[0]
            return parser
    raise AssertionError(f"{program} parses nothing")


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of a parser's subcommands by name."""
    found = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return {name: one for action in found for name, one in action.choices.items()}


def commands() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield every command that takes options of its own, with its parser."""
    for program in PROGRAMS:
        parser = parser_of(program)
        below = subcommands(parser)
        yield from ((f"{program} {name}", one) for name, one in below.items())
        if not below:
            yield program, parser
    for name in ("status", "merge"):
        yield f"flare-infer {name}", subcommands(parser_of("flare-infer", name))[name]
    # Beside those of a run, which stand in its own table.
    for name, add_group in (("slurm", _add_array), ("ray", ray_options.add_group)):
        parser = argparse.ArgumentParser(add_help=False)
        add_group(parser)
        yield f"flare-infer {name}", parser
    for name in ("trt", "int8", "triton"):
        yield f"flare-export {name}", parser_of("flare-export", name)


def options(command: str, parser: argparse.ArgumentParser) -> str:
    """Return a command's options as a table, in which each group that the help names has a row of its own."""
    lines = [f"| `{command}` | |", "|---|---|"]
    for group in parser._action_groups:
        if group not in (parser._positionals, parser._optionals):
            lines.append(f"| **{group.title}** | |")
        for action in group._group_actions:
            if not isinstance(action, argparse._HelpAction | argparse._VersionAction):
                text = parser._get_formatter()._expand_help(action) if action.help else ""
                need = " (required)" if action.required and action.option_strings else ""
                lines.append(f"| `{_written(parser, action)}` | {_MARKUP.sub(_ESCAPED, text)}{need} |")
    return "\n".join(lines) + "\n"


def _written(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """Return an argument as it is written on a command line."""
    formatter = parser._get_formatter()
    if not action.option_strings:
        return formatter._format_args(action, formatter._get_default_metavar_for_positional(action))
    value = formatter._format_args(action, formatter._get_default_metavar_for_optional(action))
    return f"{', '.join(action.option_strings)} {value}".rstrip()


def filled(page: str) -> str:
    """Return a page with every command's options made anew."""
    parsers = dict(commands())
    return _PLACE.sub(lambda place: f"{place[1]}\n{options(place[2], parsers[place[2]])}\n{place[3]}", page)


if __name__ == "__main__":
    from tests.completion_scripts import scripts  # which imports this module

    for path, script in scripts().items():
        path.write_text(script, encoding="utf-8")
    COMMANDS_PAGE.write_text(filled(COMMANDS_PAGE.read_text(encoding="utf-8")), encoding="utf-8")
