"""What of an input a run takes: folders in folders, and a share of the cases."""

import os
from dataclasses import dataclass
from hashlib import sha256

from flare_runtime.errors import UsageError
from flare_runtime.imaging.file_names import strip_suffix


@dataclass(frozen=True)
class InputRules:
    """What of an input a run takes.

    Attributes:
        recursive: folders in a folder are looked into as well, and the output mirrors them.
        shard: I and N from 1 on: the Ith of N shares of the cases. A case is in one share of N, whatever other cases
            there are, and wherever the output is.

    Raises:
        UsageError: where there is no such share.
    """

    recursive: bool = False
    shard: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        """Check both."""
        if not isinstance(self.recursive, bool):
            raise UsageError(f"recursive is {self.recursive!r}; it must be True or False")
        given: object = self.shard
        if given is None:
            return
        if not isinstance(given, tuple) or len(given) != 2 or not all(type(number) is int for number in given):
            raise UsageError(f"shard is {given!r}; give two whole numbers, such as (1, 4)")
        number, count = given
        if not 1 <= number <= count:
            raise UsageError(f"there is no shard {number}/{count}; of 4 shards the first is 1/4, the last 4/4")

    def takes(self, output: str) -> bool:
        """Whether a case is taken, by the path of its mask below the output, whatever the format."""
        if self.shard is None:
            return True
        number, count = self.shard
        digest = sha256(os.fsencode(strip_suffix(output))).digest()
        return int.from_bytes(digest[:8], "big") % count == number - 1


ALL_CASES = InputRules()
