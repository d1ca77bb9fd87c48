"""The completion of `flare-infer` by shells, made of its parsers; `python -m tests.reference_pages` writes it."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from flare_runtime import options
from flare_runtime.backends.registry import backend_names
from flare_runtime.cli import COMMANDS
from flare_runtime.introspection.completion import SHELLS, script_path
from flare_runtime.program.command_line import name_of, path_of, place_of, words_of
from tests.reference_pages import parser_of, subcommands

# What can be given where the parser takes any word, since a wrong one is refused later, by name.
CHOICES = {
    "device": ("auto", "cpu", "cuda"),
    "backend": ("auto", *backend_names()),
    "precision": ("auto", *options.PRECISIONS),
    "crop": options.CROPS,
    "keep_largest": options.KEEP_LARGEST,
    "probabilities": options.PROBABILITY_GRIDS,
    "output_types": options.OUTPUT_TYPES,
}
_BASH = """\
# Completion of flare-infer by bash, made by `python -m tests.reference_pages`.
_flare_infer() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD - 1]}} command="" first="" options words
    if [[ $word == = ]]; then
        word=""
    elif [[ $before == = ]]; then
        before=${{COMP_WORDS[COMP_CWORD - 2]}}
    fi
    ((COMP_CWORD > 1)) && case ${{COMP_WORDS[1]}} in
        {commands}) command=${{COMP_WORDS[1]}} ;;
    esac
    case $command in
{options}
    esac
    words=$options
    case "$command $before" in
{values}
    esac
    COMPREPLY=()
    if [[ $word == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$options" -- "$word")
    elif [[ $words == FILES ]]; then
        compopt -o default
    else
        [[ $word == *,* ]] && first=${{word%,*}},
        mapfile -t COMPREPLY < <(compgen -P "$first" -W "$words" -- "${{word#"$first"}}")
    fi
}}
complete -F _flare_infer flare-infer
"""
_ZSH = """\
#compdef flare-infer
# Completion of flare-infer by zsh, made by `python -m tests.reference_pages`.
_flare_infer() {{
    local -a commands=(
{commands}
    )
    if ((CURRENT > 2)); then
        case $words[2] in
{below}
        esac
    fi
    if ((CURRENT == 2)) && [[ $words[2] != -* ]]; then
        _describe command commands
        return
    fi
    _arguments \\
{arguments}
}}
if [[ $funcstack[1] == _flare_infer ]]; then
    _flare_infer "$@"
else
    compdef _flare_infer flare-infer
fi
"""


class Argument(NamedTuple):
    """One argument of a command: its names, none where it has a place; what it takes; and what it is for."""

    names: tuple[str, ...]
    takes: str  # of argparse's nargs: "" for no value, "?" for one or none, "1", or "*" for several
    words: tuple[str, ...] | None  # None for files
    commas: bool  # between several of them
    noun: str
    help: str


def arguments(parser: argparse.ArgumentParser) -> Iterator[Argument]:
    """Yield what a parser takes."""
    for action in parser._actions:
        several = action.nargs in ("*", "+")
        takes = "" if action.nargs == 0 else "?" if action.nargs == "?" else "*" if several else "1"
        words = tuple(action.choices or CHOICES.get(action.dest, ()))
        noun = parser._get_formatter()._metavar_formatter(action, action.dest)(1)[0]
        text = parser._get_formatter()._expand_help(action) if action.help else ""
        given = None if takes and action.type in (path_of, place_of, name_of) else words
        yield Argument(tuple(action.option_strings), takes, given, action.type is words_of, noun, text)


def commands() -> dict[str, tuple[str, list[Argument]]]:
    """Return the description and the arguments of every command by its name, "" for segmenting."""
    found = {"": parser_of("flare-infer")}
    for name in COMMANDS:
        parser = parser_of("flare-infer", name)
        found[name] = subcommands(parser).get(name, parser)
    return {name: (parser.description or "", list(arguments(parser))) for name, parser in found.items()}


def _bash() -> str:
    found = commands()
    options = [
        f'        {command or chr(34) * 2}) options="{" ".join(name for one in given for name in one.names)}" ;;'
        for command, (_, given) in found.items()
    ]
    values = [line for command, (_, given) in found.items() for line in _patterns(command, given)]
    return _BASH.format(commands=" | ".join(COMMANDS), options="\n".join(options), values="\n".join(values))


def _patterns(command: str, given: Sequence[Argument]) -> Iterator[str]:
    """Yield what a command and the word before may be, and the words that can follow; the first that fits counts."""
    options = [one for one in given if one.names and one.takes]
    for words in dict.fromkeys(map(_words, options)):
        before = [f'"{command} {name}"' for one in options if _words(one) == words for name in one.names]
        yield f'        {" | ".join(before)}) words="{words}" ;;'
    if not command:
        yield f'        " flare-infer" | " "*/flare-infer) words="{" ".join(COMMANDS)}" ;;'
    for one in given:
        if not one.names:
            yield f'        "{command} "*) words="{_words(one)}" ;;'


def _words(argument: Argument) -> str:
    return "FILES" if argument.words is None else " ".join(argument.words)


def _spec(argument: Argument) -> str:
    """Return an argument as zsh's `_arguments` takes it."""
    if argument.words is None:
        action = "_files"
    elif argument.commas:
        action = f"_values -s , {argument.noun} {' '.join(argument.words)}"
    else:
        action = f"({' '.join(argument.words)})" if argument.words else " "
    value = f":{argument.noun}:{action}" if argument.takes else ""
    if argument.takes == "?":
        value = f":{value}"
    if not argument.names:
        return _quoted(f"*{value}" if argument.takes == "*" else value)
    text = argument.help.translate({ord(mark): f"\\{mark}" for mark in "[]\\:"})
    names = [f"{name}{('=' if name.startswith('--') else '+') if argument.takes else ''}" for name in argument.names]
    before = f"({' '.join(argument.names)})" if len(names) > 1 else ""
    listed = f"{{{','.join(names)}}}" if len(names) > 1 else names[0]
    return f"{_quoted(before) if before else ''}{listed}{_quoted(f'[{text}]{value}')}"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _zsh() -> str:
    everything = commands()
    _, top = everything.pop("")
    described = [f"        {_quoted(name + ':' + text.replace(':', ' -'))}" for name, (text, _) in everything.items()]
    below = []
    for name, (_, found) in everything.items():
        specs = " \\\n".join(f"                    {_spec(argument)}" for argument in found)
        below += [f"            {name})", "                shift words", "                ((CURRENT--))"]
        below += [f"                _arguments \\\n{specs}", "                return ;;"]
    specs = " \\\n".join(f"        {_spec(argument)}" for argument in top)
    return _ZSH.format(commands="\n".join(described), below="\n".join(below), arguments=specs)


def scripts() -> dict[Path, str]:
    """Return the script of every shell by the path where it lies."""
    return {script_path(shell): make() for shell, make in zip(SHELLS, (_bash, _zsh), strict=True)}
