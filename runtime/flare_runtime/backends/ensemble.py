"""The networks of several folds as one."""

from collections.abc import Sequence

from flare_runtime.compute.arrays import FloatArray
from flare_runtime.compute.network import Network


class Ensemble:
    """The mean of the logits of several folds."""

    def __init__(self, members: Sequence[Network]) -> None:
        self._members = members
        first = members[0]
        self.backend, self.device = first.backend, first.device
        self.precision, self.batch = first.precision, first.batch

    def run(self, tiles: FloatArray) -> FloatArray:
        """Return the mean of the members' logits."""
        total = self._members[0].run(tiles).copy()
        for member in self._members[1:]:
            total += member.run(tiles)
        total /= len(self._members)
        return total

    def release(self) -> None:
        """Release every member's memory."""
        for member in self._members:
            member.release()


def joined(members: Sequence[Network]) -> Network:
    """Return the one network there is, or the mean of several."""
    return members[0] if len(members) == 1 else Ensemble(members)
