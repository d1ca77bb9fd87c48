"""Names and foreign texts as they are shown, on one line, without anything that a terminal would act on; long names."""

import os

# Control characters, line separators, marks that turn the order of the text round, and what is no character at all:
# Python puts a surrogate for every byte of a file name that is not UTF-8.
_SURROGATES = range(0xD800, 0xE000)
_BYTES = range(0xDC80, 0xDD00)
_ODD = (*range(0x20), *range(0x7F, 0xA0), *range(0x2028, 0x202F), *range(0x2066, 0x206A), *_SURROGATES)
_SPELLED = {code: chr(code).encode("unicode_escape").decode("ascii") for code in _ODD}
_SPELLED |= {code: f"\\x{code - 0xDC00:02x}" for code in _BYTES}

LONGEST_NAME = 255  # bytes, on Linux
_DIGITS = 12  # of a digest, so that of a million names no two have the same


def visible(text: object) -> str:
    r"""Return a name, path or message as one line of valid text; what is odd in it is spelled as Python would.

    Doing it twice changes nothing further.

    Example:
        >>> print(visible("liver\n\x1b[31m"), visible(os.fsdecode(b"M\xfcller.nii")))
        liver\n\x1b[31m M\xfcller.nii
    """
    shown = str(text)
    return shown if shown.isprintable() else shown.translate(_SPELLED)  # the former is faster; nothing odd is printable


def as_cell(text: str) -> str:
    """Return a text for a cell of a table, which no spreadsheet takes for a formula."""
    shown = visible(text)
    return f"'{shown}" if shown.startswith(("=", "+", "-", "@")) else shown


def fitted(stem: str, end: str) -> str:
    """Return the file name of a stem and an end.

    Of a stem that is too long for it, the name holds the beginning and a digest of the whole.
    """
    name = stem + end
    if len(os.fsencode(name)) <= LONGEST_NAME:
        return name
    from hashlib import sha256  # seldom needed, and slow to load

    end = f"~{sha256(os.fsencode(stem)).hexdigest()[:_DIGITS]}{end}"
    while len(os.fsencode(stem + end)) > LONGEST_NAME:
        stem = stem[:-1]
    return stem + end


def visible_lines(text: str) -> str:
    """Return a text of several lines with each of them made visible."""
    return "\n".join(map(visible, text.rstrip("\n").split("\n")))
