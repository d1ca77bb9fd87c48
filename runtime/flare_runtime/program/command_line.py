"""What the command lines of this project share: types of arguments, and errors as one line and an exit code."""

import argparse
import logging
import math
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from flare_runtime import __version__
from flare_runtime.compute.available_memory import MORE_MEMORY, lacked_memory
from flare_runtime.errors import DeviceError, FlareError, UsageError, install_hint
from flare_runtime.paths import check_no_secret, is_url
from flare_runtime.program.parser import Parser
from flare_runtime.program.telemetry import silence_command
from flare_runtime.program.terminal import say, say_lines


def new_parser(program: str, description: str | None, epilog: str | None = None) -> Parser:
    """Return the parser of a program, with `--version`; its help prints `epilog`, such as the exit codes, as it is."""
    parser = Parser(
        prog=program, description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"{program} {__version__}")
    return parser


def name_of(text: str) -> str:
    """Read the name of a file or folder; an empty one, such as of an unset variable, would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("an empty name; give a file or folder, . for the current one")
    if is_url(text):
        try:
            check_no_secret(text)
        except UsageError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
    return text


def path_of(text: str) -> Path:
    """Read the path of a file or folder, of which a / at the end is no part; see `name_of`."""
    if is_url(text):
        raise argparse.ArgumentTypeError("a URL; give a local path")
    return Path(name_of(text))


def place_of(text: str) -> str | Path:
    """Read a path, see `path_of`, or a URL."""
    return name_of(text) if is_url(text) else path_of(text)


def number_of(text: str) -> float:
    """Read a number."""
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from error


def _whole(text: str) -> int:
    """Read a whole number, also as people write large ones: 2e9."""
    try:
        return int(text)
    except ValueError:
        number = number_of(text)
    if not number.is_integer():
        raise argparse.ArgumentTypeError(f"{text} is no whole number")
    return int(number)


def positive(text: str) -> int:
    """Read a whole number of at least 1."""
    number = _whole(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not at least 1")
    return number


def words_of(text: str) -> tuple[str, ...]:
    """Read words with commas between them."""
    return tuple(word.strip() for word in text.split(","))


def share_of(text: str) -> tuple[int, int]:
    """Read a share, I/N."""
    number, _, count = text.partition("/")
    try:
        return int(number), int(count)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text} is not I/N, such as 1/4") from error


def natural(text: str) -> int:
    """Read a whole number of at least 0."""
    number = _whole(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{number} is below 0")
    return number


def above_zero(text: str) -> float:
    """Read a number above 0."""
    number = number_of(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no number above 0")
    return number


def log_to_stderr(package: str, level: int) -> None:
    """Print what a package logs at `level` or above, each message as it is, on standard error."""
    logging.basicConfig(format="%(message)s", handlers=[_Printer()])
    logging.getLogger(package).setLevel(level)


def skip_model_converter() -> None:
    """Keep OpenVINO from importing its model converter, which takes as long as the rest of it and is not needed."""
    sys.modules.setdefault("openvino.tools.ovc", None)  # type: ignore[arg-type]


def skip_pydicom() -> None:
    """Keep nibabel from importing pydicom, which takes as long as the rest of it, until DICOM is looked for."""
    sys.modules.setdefault("pydicom", None)  # type: ignore[arg-type]


class _Printer(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say_lines(self.format(record))


def exit_code_of(program: str, run: Callable[[], int], extra: str | None = None) -> int:
    """Run a program and return its exit code; an error becomes one line on standard error.

    An error that is no `FlareError` is printed with its traceback, so that it can be reported.

    Args:
        program: its name.
        run: does the work and returns the exit code.
        extra: of the packages that the program needs and a plain installation lacks.
    """
    silence_command()
    try:
        return run()
    except FlareError as error:
        say(f"{program}: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        say(f"{program}: interrupted")
        return 130
    except Exception as error:
        if extra and isinstance(error, ModuleNotFoundError):
            say(f"{program}: {error.name} is not installed; {install_hint(extra)}")
            return UsageError.exit_code
        if lacked_memory(error):
            say(f"{program}: too little memory ({type(error).__name__}: {error}); {MORE_MEMORY}")
            return DeviceError.exit_code
        say_lines(traceback.format_exc())
        say(f"{program}: internal error: {type(error).__name__}; please report it with the lines above")
        return FlareError.exit_code
