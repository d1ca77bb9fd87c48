"""The size that a compressed code stream says of itself, which a decoder takes memory and time for."""

from collections.abc import Iterable

from flare_runtime.errors import CaseError

# Of JPEG and JPEG-LS: the markers of a frame's header.
_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_JPEG, _JPEG_2000, _FILL = b"\xff\xd8", b"\xff\x4f\xff\x51", 0xFF


def check_sizes(fragments: Iterable[bytes], shape: tuple[int, int], name: str) -> None:
    """Refuse pixel data of which a fragment begins a code stream of another size than rows x columns.

    Args:
        fragments: of the pixel data.
        shape: rows, columns.
        name: of the file.

    Raises:
        CaseError: `corrupt`.
    """
    for fragment in fragments:
        size = _coded_size(fragment)
        if size not in (None, shape):
            raise CaseError(
                "corrupt", f"{name}: its pixels are coded as {size} rows and columns, the header says {shape}"
            )


def _coded_size(stream: bytes) -> tuple[int, int] | None:
    """Return the rows and columns that a code stream says; None where it says none, or this is no beginning of one."""
    if stream.startswith(_JPEG_2000):
        right, bottom, left, top = (_number(stream[at : at + 4]) for at in (8, 12, 16, 20))
        return bottom - top, right - left
    at = len(_JPEG) if stream.startswith(_JPEG) else len(stream)
    while at + 9 <= len(stream) and stream[at] == _FILL:
        if stream[at + 1] in _FRAMES:
            return _number(stream[at + 5 : at + 7]), _number(stream[at + 7 : at + 9])
        at += 1 if stream[at + 1] == _FILL else 2 + _number(stream[at + 2 : at + 4])
    return None


def _number(digits: bytes) -> int:
    return int.from_bytes(digits, "big")
