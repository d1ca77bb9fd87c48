"""A parser of command lines whose errors are one line, which names what was meant where a word is nearly right."""

from __future__ import annotations

import argparse
import sys

from flare_runtime.errors import UsageError
from flare_runtime.program.terminal import say

TYPE_CHECKING = False  # of `typing`, which takes longer to import than all of this
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, NoReturn

# Of so many words what was given may be the beginning.
_MOST_MEANT = 3


class Parser(argparse.ArgumentParser):
    """Takes options by their whole names alone: an abbreviation may be another option's, or none, in a later version.

    Subcommands have such parsers too.

    Args:
        options: those of `argparse.ArgumentParser`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Print one line, and end the program."""
        say(f"{self.prog}: {message}{'' if message.endswith('?') else f'; see {self.prog} --help'}")
        self.exit(UsageError.exit_code)

    def parse_known_args(  # type: ignore[override]  # whose overloads say the same at length
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse words as argparse does, but refuse an unknown option first: one that is required may be misspelt."""
        words = sys.argv[1:] if args is None else list(args)
        for word in words:
            if word == "--" or (self._subparsers and not word.startswith("-")):
                break  # what follows are no options, or those of a subcommand
            if self._is_unknown(word):
                name = word.partition("=")[0]
                self.error(f"{name}: there is no such option{meant(name, self._option_string_actions)}")
        return super().parse_known_args(words, namespace)

    def _is_unknown(self, word: str) -> bool:
        """Whether a word is an option that there is not; -output is one, which argparse takes for -o with a value."""
        name, known = word.partition("=")[0], self._option_string_actions
        if len(word) < 2 or word[0] != "-" or " " in word or _is_number(word) or name in known:
            return False
        return word[:2] not in known or f"-{name}" in known

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            allowed = [str(one) for one in action.choices]
            text = f"{value!r} is none of {', '.join(allowed)}{meant(str(value), allowed)}"
            raise argparse.ArgumentError(action, text)


def meant(word: str, known: Iterable[str]) -> str:
    """Return the end of an error that asks for what was meant by an unknown word; empty where nothing is like it."""
    from difflib import get_close_matches  # seldom needed

    known = list(known)
    begun = [one for one in known if word and one.startswith(word)]
    found = begun[:_MOST_MEANT] or get_close_matches(word, known, 1)
    return f"; did you mean {' or '.join(found)}?" if found else ""


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
