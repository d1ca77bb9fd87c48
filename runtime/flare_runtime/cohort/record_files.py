"""Records in their files: told from other JSON, and read without their lesions where these are not needed."""

import os
import re
from typing import Literal, NamedTuple, TypeAlias, TypeVar

import msgspec

from flare_runtime.cases.record_format import RECORD_FORMAT, is_record
from flare_runtime.files.naming import visible

Status: TypeAlias = Literal["done", "refused", "failed"]
Record = TypeVar("Record")
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
# Holds all that comes before the lesions, unless names are very long.
_HEAD_BYTES = 4096
# A file beyond this was written by something else.
_MOST_BYTES = 1 << 28
_OURS = RECORD_FORMAT.encode()
_FORMAT = re.compile(rb'\s*\{\s*"format"\s*:\s*"([^"]*)"')
# A line break is in no text of JSON, so that this is the key of a record and of nothing in it.
_LESIONS, _END = b',\n  "lesions":', b"\n}\n"


class Content(NamedTuple):
    """The JSON of a record.

    Attributes:
        path: of its file.
        changed_ns: when it was written, by the clock of the file system.
        data: the JSON.
    """

    path: str
    changed_ns: int
    data: bytes


class Unreadable(NamedTuple):
    """A record, or what may be one, that cannot be read: the file and the reason in one line."""

    line: str


class Head(NamedTuple):
    """What became of a case.

    Attributes:
        path: of the record.
        changed_ns: when the record was written, by the clock of the file system.
        case, status, reason, message: see `flare_runtime.run.record.CaseRecord`.
        duration_s: how long the case took; 0 where nobody knows.
        channels: how many images it had.
        tries: how many runs have begun with it.
    """

    path: str
    changed_ns: int
    case: str
    status: Status
    reason: str | None
    message: str | None
    duration_s: float
    channels: int
    tries: int


class _Identity(msgspec.Struct, frozen=True, gc=False):
    tries: int = 1


class _Head(msgspec.Struct, gc=False):
    case: str
    status: Status
    reason: str | None = None
    message: str | None = None
    inputs: list[str] = []
    timings_s: dict[str, float] = {}
    identity: _Identity = _Identity()


_HEADS = msgspec.json.Decoder(_Head)


def read_content(path: str) -> Content | Unreadable | None:
    """Return the JSON of a record; None for a file of another kind."""
    return _read(path, whole=True)


def decoded(content: Content, decoder: msgspec.json.Decoder[Record]) -> Record | Unreadable:
    """Return what a record says, or that it is damaged."""
    try:
        return decoder.decode(content.data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return Unreadable(visible(f"{content.path}: is damaged ({error})"))


def read_head(path: str) -> Head | Unreadable | None:
    """Return what became of a case by its record; None for a file of another kind."""
    content = _read(path, whole=False)
    if not isinstance(content, Content):
        return content
    head = decoded(content, _HEADS)
    if isinstance(head, Unreadable):
        return head
    return Head(
        path,
        content.changed_ns,
        head.case,
        head.status,
        head.reason,
        head.message,
        head.timings_s.get("total", 0.0),
        len(head.inputs),
        head.identity.tries,
    )


def _read(path: str, *, whole: bool) -> Content | Unreadable | None:
    try:
        content = _read_file(path, whole)
    except FileNotFoundError:  # a run has removed it since the folder was listed, to write it anew
        return None
    except OSError as error:
        return Unreadable(visible(f"{path}: cannot be read ({error.strerror or error})"))
    if content is not None and not content.data:
        return Unreadable(visible(f"{path}: is empty"))
    return content


def _read_file(path: str, whole: bool) -> Content | None:
    """Return a record, without its lesions and what follows where these may be left out; None for another file."""
    descriptor = os.open(path, _FLAGS)
    try:
        status = os.fstat(descriptor)
        size, changed_ns = status.st_size, status.st_mtime_ns
        data = os.read(descriptor, _HEAD_BYTES)
        kind = _FORMAT.match(data)
        if size > _MOST_BYTES or (kind and kind[1] != _OURS):
            return None
        if size > len(data):
            end = -1 if whole or not kind else data.find(_LESIONS)
            if end >= 0 and os.pread(descriptor, len(_END), size - len(_END)) == _END:
                return Content(path, changed_ns, data[:end] + b"}")
            while more := os.read(descriptor, 1 << 20):
                data += more
    finally:
        os.close(descriptor)
    # There was no format at first.
    return Content(path, changed_ns, data) if kind or not data or is_record(data) else None
