"""What the programs of this project share: arguments' types, and errors as one line and an exit code."""

import argparse
import math
import sys
from collections.abc import Callable

from flare_runtime.errors import FlareError, UsageError
from flare_runtime.telemetry import silence_command


def positive(text: str) -> int:
    """Read a whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not at least 1")
    return number


def natural(text: str) -> int:
    """Read a whole number of at least 0."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{number} is below 0")
    return number


def above_zero(text: str) -> float:
    """Read a number above 0."""
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no number above 0")
    return number


def exit_code_of(program: str, run: Callable[[], int], extra: str) -> int:
    """Run a program and return its exit code; what is wrong becomes one line on standard error.

    Args:
        program: its name.
        run: does the work and returns the exit code.
        extra: of the packages that the program needs and a plain installation lacks.
    """
    silence_command()
    try:
        return run()
    except FlareError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        print(f"{program}: {error.name} is not installed; pip install 'flare-lite[{extra}]'", file=sys.stderr)
        return UsageError.exit_code
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return 130
