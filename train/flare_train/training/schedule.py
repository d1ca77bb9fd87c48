"""How long to train: a first stretch of epochs, then extensions for as long as full-volume validation improves."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from flare_runtime.errors import UsageError

POLY_EXPONENT = 0.9


class Schedule(msgspec.Struct, frozen=True):
    """The paper's: 2,000 epochs, then 500 more at a time, a validation after each, to at most 5,000.

    Attributes:
        first: epochs before the first validation.
        extension: epochs added at a time.
        last: epochs at most.
        patience: how many validations in a row may bring no better score before the training ends.
    """

    first: int = 2000
    extension: int = 500
    last: int = 5000
    patience: int = 1

    def __post_init__(self) -> None:
        if min(self.first, self.extension, self.patience) < 1 or self.last < self.first:
            raise UsageError(
                f"a schedule of {self.first} epochs and {self.extension} more at a time up to {self.last}, patience "
                f"{self.patience}: all must be at least 1, and the last no smaller than the first"
            )

    def end_after(self, done: int) -> int:
        """Return the epoch at which the stretch ends that goes on after `done` epochs, `done` itself if none does."""
        end = self.first
        while end <= done:
            end += self.extension
        return max(min(end, self.last), done)

    def is_end(self, done: int) -> bool:
        """Tell whether a stretch ends after `done` epochs."""
        return done >= self.last or (done >= self.first and (done - self.first) % self.extension == 0)

    def is_over(self, done: int, scores: Sequence[float]) -> bool:
        """Tell whether no extension follows.

        Args:
            done: epochs trained.
            scores: of the validations so far, the larger the better; empty where nothing is validated.
        """
        if done >= self.last:
            return True
        best = max(range(len(scores)), key=scores.__getitem__, default=0)  # the first of equals
        return len(scores) - 1 - best >= self.patience


def learning_rate(initial: float, epoch: int, end: int) -> float:
    """Return nnU-Net's poly learning rate of an epoch, counted from 0, in a training that ends after `end` epochs.

    An extension stretches the curve to its new end, as nnU-Net does where a training is continued with more epochs:
    the rate has all but vanished when a stretch ends, and the extension starts where the longer curve lies, at
    `(1 - epoch / end) ** 0.9` of the initial rate. From 2,000 to 2,500 epochs that is 23 % of it.
    """
    return float(initial * (1 - epoch / end) ** POLY_EXPONENT)
