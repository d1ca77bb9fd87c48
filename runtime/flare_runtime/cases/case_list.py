"""A list of cases as the input of a run: a table (.csv), or JSON lines (.jsonl), with one case a line."""

import csv
import io
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TextIO, TypeAlias

from flare_runtime.errors import CaseError, UsageError
from flare_runtime.files.naming import visible
from flare_runtime.imaging.byte_stream import open_regular
from flare_runtime.imaging.file_names import STALE, is_stale, mask_name, split_channel, strip_suffix, type_of
from flare_runtime.paths import check_no_secret, is_url

_LOG = logging.getLogger(__name__)
_TABLE, _JSON_LINES = ".csv", ".jsonl"
_COLUMNS = ("case", "images", "output")
# Between the channels of a case in a table.
_BETWEEN = ";"
MOST_BYTES, _MOST_LETTERS_OF_A_LINE, _MOST_CASES = 1 << 28, 1 << 20, 1_000_000
# Of a series that is no folder; they are no part of its name.
_SERIES_SUFFIXES = (".zip", ".dcm", ".ima")
_MOST_SHOWN = 80
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S*")
# Returns the path of an image, given what a list says.
Locate: TypeAlias = Callable[[str], str]


@dataclass(frozen=True)
class ListedCase:
    """One case of a list.

    Attributes:
        name: as it is given, or made of the output or the first image.
        output: the path of its mask below the output folder.
        images: the paths of its channels in their order, relative to the list's folder.
    """

    name: str
    output: str
    images: tuple[str, ...]

    def packed(self) -> str:
        """Return it as one text, of which a million fit into memory."""
        return "\0".join((self.name, self.output, *self.images))

    @classmethod
    def unpacked(cls, text: str) -> "ListedCase":
        """Return what was packed."""
        name, output, *images = text.split("\0")
        return cls(name, output, tuple(images))


def is_case_list(path: Path) -> bool:
    """Whether a file of this name is a list of cases."""
    return path.name.lower().endswith((_TABLE, _JSON_LINES))


def names_urls(path: Path) -> bool:
    """Whether a list of cases may name images by URLs; False of what is no list, or cannot be read."""
    if not is_case_list(path):
        return False
    with suppress(CaseError, OSError), open_regular(path) as file:
        lines = iter(lambda: file.readline(_MOST_LETTERS_OF_A_LINE), b"")
        return any(b"://" in line or rb":\/" in line for line in lines)  # as JSON may write it
    return False


def local_image(image: str) -> str:
    """Return the path that a list gives for an image.

    Raises:
        UsageError: for a URL.
    """
    if is_url(image):
        check_no_secret(image)
        raise UsageError(f"{_shown(image)}: is a URL; here a list names files and folders of this machine")
    return image


def read_case_list(path: Path, locate: Locate = local_image) -> list[str]:
    """Return the cases of a list in its order, each packed; whether their images are there is not looked at.

    Args:
        path: of the list.
        locate: returns the path of an image, given what the list says.

    Raises:
        UsageError: naming the first line that is wrong, or where the list cannot be read, or is of no case.
    """
    try:
        file = open_regular(path)
    except (CaseError, OSError) as error:
        raise UsageError(f"{path}: cannot be read ({error})") from error
    with file:
        if (size := os.fstat(file.fileno()).st_size) > MOST_BYTES:
            raise UsageError(f"{path}: has {size:,} bytes; a list of cases has at most {MOST_BYTES:,}; split it")
        # A name that is not UTF-8 gets the file system's own spelling.
        text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
        lines = _Lines(text)
        try:
            cases = _packed(lines, locate, _of_table(lines) if path.name.lower().endswith(_TABLE) else _of_json(lines))
        except (UsageError, csv.Error) as error:
            raise UsageError(f"{path}, line {lines.number}: {visible(error)}") from error
        except OSError as error:
            raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not cases:
        raise UsageError(f"{path}: lists no case")
    if lines.unused:
        _LOG.warning("%s: not used are the columns %s", visible(path), _shown(", ".join(sorted(lines.unused))))
    return cases


class _Lines:
    """The lines of a list, each of a length that memory holds.

    Attributes:
        number: of the line that was read last, from 1.
        unused: the columns that mean nothing.
    """

    def __init__(self, file: TextIO) -> None:
        self.number = 0
        self.unused = set[str]()
        self._file = file

    def __iter__(self) -> Iterator[str]:
        while line := self._file.readline(_MOST_LETTERS_OF_A_LINE + 1):
            self.number += 1
            if "\0" in line:
                raise UsageError("holds a NUL byte; save the list as text in UTF-8")
            if len(line) > _MOST_LETTERS_OF_A_LINE:
                raise UsageError(f"has more than {_MOST_LETTERS_OF_A_LINE:,} letters; a list has one case a line")
            yield line


def _of_table(lines: _Lines) -> Iterator[tuple[str, list[str], str]]:
    """Yield name, images and output of every line below the header; what is not given is empty."""
    rows = csv.reader(lines, strict=True)
    if (first := next(rows, None)) is None:
        return
    header = [cell.strip() for cell in first]
    if len(header) == 1 and (";" in header[0] or "\t" in first[0]):
        raise UsageError(f"has no commas between the columns: {_shown(first[0])}; save the table with commas")
    if "images" not in header:
        given = _shown(", ".join(header))
        raise UsageError(f"has no column images but: {given}; the first line names the columns, with commas between")
    if len(set(header)) < len(header):
        raise UsageError(f"names a column twice: {_shown(', '.join(header))}")
    lines.unused.update(set(header) - {*_COLUMNS})
    for cells in rows:
        if not any(map(str.strip, cells)):  # as spreadsheets leave them at the end
            continue
        if len(cells) != len(header):
            raise UsageError(f"has {len(cells)} cells, the header {len(header)}; quote a cell that holds a comma")
        row = dict(zip(header, map(str.strip, cells), strict=True))
        images = [image.strip() for image in row["images"].split(_BETWEEN)]
        yield row.get("case", ""), images, row.get("output", "")


def _of_json(lines: _Lines) -> Iterator[tuple[str, list[str], str]]:
    """Yield name, images and output of every line; what is not given is empty."""
    for line in lines:
        if line.isspace():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError("is no JSON") from error
        if not isinstance(row, dict) or "images" not in row:
            raise UsageError('is no object with the key "images"')
        images = [row["images"]] if isinstance(row["images"], str) else row["images"]
        if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
            raise UsageError("images is no path and no list of paths")
        name, output = (row.get(key) or "" for key in ("case", "output"))
        if not isinstance(name, str) or not isinstance(output, str):
            raise UsageError("case and output are texts")
        lines.unused.update(row.keys() - {*_COLUMNS})
        yield name, images, output


def _packed(lines: _Lines, locate: Locate, rows: Iterable[tuple[str, list[str], str]]) -> list[str]:
    """Check rows, beside each other as well, and return their cases."""
    cases, by_name, by_output = list[str](), dict[str, int](), dict[str, int]()
    for name, images, output in rows:
        case = _case(name, images, output, locate)
        if (first := by_output.setdefault(strip_suffix(case.output), lines.number)) != lines.number:
            raise UsageError(f"the output {_shown(case.output)} is that of line {first}; give each case its own")
        if (first := by_name.setdefault(case.name, lines.number)) != lines.number:
            raise UsageError(f"the case {_shown(case.name)} is that of line {first}; give each its own name")
        if len(cases) == _MOST_CASES:
            raise UsageError(f"there are more than {_MOST_CASES:,} cases; split the list")
        cases.append(case.packed())
    return cases


def _case(name: str, images: list[str], output: str, locate: Locate) -> ListedCase:
    if not images or not all(images):
        raise UsageError("images has an empty path")
    _check_text("".join((name, *images, output)))
    if stale := next((image for image in images if is_stale(image)), None):
        raise UsageError(f"{_shown(stale)}: a name that ends in {STALE} is a mask set aside; choose another")
    name = name or strip_suffix(output) or _name_of(images[0])
    if not output:
        folder, last = os.path.split(name)
        output = os.path.join(folder, mask_name(last)) if last else ""  # noqa: PTH118
    return ListedCase(visible(name), _checked_output(output), tuple(map(locate, images)))


def _check_text(text: str) -> None:
    """Refuse what is in no name of a file; JSON can spell it."""
    try:
        if b"\0" not in os.fsencode(text):
            return
    except UnicodeEncodeError:
        pass
    raise UsageError("holds what no name of a file can, such as a NUL")


def _name_of(image: str) -> str:
    """Return what a case of this first channel is called."""
    path = PurePosixPath(image)
    if path.name == "..":
        return ""
    if path.suffix.lower() in _SERIES_SUFFIXES:
        return path.stem
    name, channel = split_channel(path.name)
    return strip_suffix(path.name) if channel else name


def _checked_output(output: str) -> str:
    """Return the path of an output without needless parts."""
    if is_url(output):
        raise UsageError(
            f"the output {_shown(output)} is a URL; it has to be relative to the output folder, which may be one"
        )
    parts = [part for part in output.split("/") if part not in ("", ".")]
    if not parts or not strip_suffix(parts[-1]):
        raise UsageError("there is no name for its mask; give a case or an output")
    if output.startswith("/") or ".." in parts:
        raise UsageError(f"the output {_shown(output)} is not below the output folder, to which it has to be relative")
    if type_of(parts[-1]) != "nifti" or is_stale(parts[-1]):
        raise UsageError(f"the output {_shown(output)} is no name of a mask, which ends in .nii.gz or .nii")
    return "/".join(parts)


def _shown(text: str) -> str:
    """Return a part of a list as a message shows it; where it holds a secret, refuse the list for that."""
    for url in _URL.findall(text):
        check_no_secret(url)
    shown = visible(text)
    return shown if len(shown) <= _MOST_SHOWN else f"{shown[:_MOST_SHOWN]}..."
