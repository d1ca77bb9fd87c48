"""Names and foreign texts as they are shown: on one line, without anything that a terminal would act on."""

import re

# Control characters, line separators, marks that turn the order of the text round, and what is no character at all:
# Python puts a surrogate for every byte of a file name that is not UTF-8.
_ODD = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: object) -> str:
    r"""Return a name, path or message as one line of valid text; what is odd in it is spelled as Python would.

    Doing it twice changes nothing further.

    Example:
        >>> print(visible("liver\n\x1b[31m"), visible(os.fsdecode(b"M\xfcller.nii")))
        liver\n\x1b[31m M\xfcller.nii
    """
    return _ODD.sub(_spelled, str(text))


def visible_lines(text: str) -> str:
    """Return a text of several lines with each of them made visible."""
    return "\n".join(map(visible, text.rstrip("\n").split("\n")))


def _spelled(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return match[0].encode("unicode_escape").decode("ascii")
