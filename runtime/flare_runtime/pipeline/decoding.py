"""From logits to labels: one rule for two classes, many classes and overlapping regions.

Tiles are blended and interpolated as *scores*, one channel per foreground class, positive where that class is to be
preferred to background: the logit minus the background's for exclusive classes, the logit itself for regions. Both are
linear in the logits, so blending and interpolating them gives what the logits would give.
"""

from dataclasses import dataclass

import numpy as np

from flare_runtime.compute.arrays import FloatArray, MaskArray, Shape3


@dataclass(frozen=True)
class Decoder:
    """Turns logits into scores and scores into labels, on whichever device they are.

    Attributes:
        outputs: the network's number of logit channels.
        regions_class_order: for region-based models the label each channel writes, later ones over earlier ones;
            None for exclusive classes, where channel i is label i and 0 is background.
    """

    outputs: int
    regions_class_order: tuple[int, ...] | None = None

    @property
    def channels(self) -> int:
        """The number of score channels."""
        return self.outputs if self.regions_class_order else self.outputs - 1

    def scores(self, logits: FloatArray) -> FloatArray:
        """Return the scores (channels, z, y, x) of `logits` (outputs, z, y, x), which are overwritten with them."""
        if self.regions_class_order:
            return logits
        foreground = logits[1:]
        with np.errstate(over="ignore", invalid="ignore"):  # `TileScorer` looks for NaN and infinity
            foreground -= logits[:1]
        return foreground

    def labels(self, scores: FloatArray) -> MaskArray:
        """Return the uint8 labels (z, y, x); a tie with background is background, among classes the lower one."""
        if self.regions_class_order:
            labels = np.zeros_like(scores[0], np.uint8)
            for channel, label in zip(scores, self.regions_class_order, strict=True):
                labels[channel > 0] = label
            return labels
        if len(scores) == 1:
            positive: MaskArray = (scores[0] > 0).view(np.uint8)
            return positive
        best = scores.argmax(axis=0)
        return np.where(scores.max(axis=0) > 0, best + 1, 0).astype(np.uint8)

    def label_probabilities(self, scores: FloatArray) -> FloatArray:
        """Return the probability, as of `probabilities`, of the label that `scores` (channels, ...) have; (...).

        Where that is background it means nothing.
        """
        with np.errstate(over="ignore"):  # of background
            if self.regions_class_order:
                last = np.zeros_like(scores[0])
                for channel in scores:
                    last = np.where(channel > 0, channel, last)
                total: FloatArray = 1 + np.exp(-last)
            else:
                best = scores.max(axis=0)
                total = np.exp(-best)
                for channel in scores:
                    total += np.exp(channel - best)
        return np.reciprocal(total, out=total)

    def probabilities(self, scores: FloatArray) -> FloatArray:
        """Return what nnU-Net makes of the logits behind `scores` (channels, z, y, x), on the host.

        That is the softmax over (outputs, z, y, x) classes, the background being the first, or each region's sigmoid.
        """
        if self.regions_class_order:
            with np.errstate(over="ignore"):  # of which comes a probability of 0
                sigmoid: FloatArray = np.exp(-scores)
            sigmoid += 1
            return np.reciprocal(sigmoid, out=sigmoid)
        logits = np.concatenate([np.zeros_like(scores[:1]), scores])
        logits -= logits.max(axis=0)
        probabilities: FloatArray = np.exp(logits, out=logits)
        probabilities /= probabilities.sum(axis=0)
        return probabilities

    def background(self, shape: Shape3) -> FloatArray:
        """Return the probabilities (outputs, z, y, x) where the network did not look: certainly no foreground."""
        probabilities = np.zeros((self.outputs, *shape), np.float32)
        if not self.regions_class_order:
            probabilities[0] = 1
        return probabilities
