"""What the record of an earlier run says of a case."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Literal

import msgspec

from flare_runtime.cases.record_format import RECORD_FORMAT
from flare_runtime.errors import CaseError
from flare_runtime.files.naming import visible
from flare_runtime.imaging.byte_stream import open_regular
from flare_runtime.run.identity import Identity

# A record of the most lesions that are listed is much smaller.
_MOST_BYTES = 1 << 26
_NO_ROOM = tuple(f"{os.strerror(code)})" for code in (errno.ENOSPC, errno.EDQUOT, errno.EROFS))


class Maker(msgspec.Struct, frozen=True):
    """What a record says of the program that made it: its version, of a case that was done."""

    version: str = msgspec.field(name="flare-lite", default="")


class Before(msgspec.Struct, tag_field="format", tag=RECORD_FORMAT):
    """What a record says that tells whether it still holds, and of which files; its other fields are not decoded."""

    case: str
    status: Literal["done", "refused", "failed"]
    reason: str = ""
    message: str = ""
    inputs: list[str] = []
    inputs_sha256: list[str] = []
    mask: str = ""
    mask_sha256: str = ""
    other_masks: dict[str, str] = {}
    probabilities: str = ""
    probabilities_sha256: str = ""
    structured_report: str = ""
    structured_report_sha256: str = ""
    model: Maker = Maker()
    identity: Identity | None = None

    def is_of(self, images: Sequence[Path]) -> bool:
        """Whether it is of images of these names, wherever they lie."""
        return [PurePath(path).name for path in self.inputs] == [visible(image.name) for image in images]

    @property
    def hashes(self) -> dict[str, str]:
        """The SHA-256 of results by their file names."""
        known = {
            self.mask: self.mask_sha256,
            self.probabilities: self.probabilities_sha256,
            self.structured_report: self.structured_report_sha256,
            **self.other_masks,
        }
        return {PurePath(path).name: sha256 for path, sha256 in known.items() if path}

    @property
    def tries(self) -> int:
        """How many runs have begun with the case."""
        return self.identity.tries if self.identity else 1


def read_before(path: Path) -> Before | None:
    """Return what the record in a file says; None where there is none that can be read."""
    try:
        with open_regular(path) as file:
            return msgspec.json.decode(file.read(_MOST_BYTES), type=Before)
    except (OSError, CaseError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def lacked_room(reason: str | None, message: str | None) -> bool:
    """Whether a case was not done as the disk had no room for its results, which says nothing of the case."""
    return reason == "output" and any(why in (message or "") for why in _NO_ROOM)
