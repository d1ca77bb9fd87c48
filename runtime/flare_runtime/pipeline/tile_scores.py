"""The scores of tiles: run the network, and where it gives NaN or infinity run another in float32."""

from collections.abc import Callable, Iterator, Sequence
from time import perf_counter

import numpy as np

from flare_runtime.compute.arrays import FloatArray
from flare_runtime.compute.device import HOST, Device
from flare_runtime.compute.network import Network
from flare_runtime.errors import BundleError, CaseError
from flare_runtime.pipeline.decoding import Decoder
from flare_runtime.pipeline.mirroring import mirrored_mean


class TileScorer:
    """Computes the scores of tiles.

    Args:
        network: takes the tiles.
        decoder: says what its logits mean.
        device: where the tiles and the logits are.
        sums: where the scores are to be: there, or the host.
        mirror_axes: every combination of flips along these axes is averaged (0 is z).
        rescue: opens a float32 network on the host, for tiles in which `network` gives NaN or infinity.

    Attributes:
        network_s: seconds until the scores were known to be numbers.
        rescued: tiles that were computed again in float32.
    """

    def __init__(
        self,
        network: Network,
        decoder: Decoder,
        *,
        device: Device = HOST,
        sums: Device = HOST,
        mirror_axes: tuple[int, ...] = (),
        rescue: Callable[[], Network] | None = None,
    ) -> None:
        self._network = network
        self._decoder = decoder
        self._device = device
        self._sums = sums
        self._mirror_axes = mirror_axes
        self._rescue = rescue
        self.network_s = 0.0
        self.rescued = 0

    def scores(self, tiles: FloatArray) -> Iterator[FloatArray]:
        """Yield the scores (channels, z, y, x) of each of `tiles` (n, channels, z, y, x), to be used before the next.

        Raises:
            CaseError: `nonfinite_logits` where the network gives NaN or infinity, in float32 as well if that is tried.
            BundleError: where the logits have another shape than the decoder's outputs and the tiles.
        """
        started = perf_counter()
        computed = self._computed(self._network, tiles, self._device)
        finite = all_finite(computed, self._device)  # waits for a GPU, and nothing before does
        self.network_s += perf_counter() - started
        for index, scores in enumerate(computed):
            if finite[index]:
                yield scores if self._sums is self._device else self._device.download(scores)
            else:
                self.rescued += 1
                again = self._computed_again(self._device.download(tiles[index : index + 1]))
                yield self._in_place(scores, again) if self._sums is self._device else again

    def _computed(self, network: Network, tiles: FloatArray, device: Device) -> list[FloatArray]:
        def run(tiles: FloatArray) -> FloatArray:
            logits = network.run(tiles)
            if logits.shape != (expected := (len(tiles), self._decoder.outputs, *tiles.shape[2:])):
                raise BundleError(f"the network gives logits of the shape {logits.shape}, and {expected} was promised")
            return logits

        return [self._decoder.scores(logits) for logits in mirrored_mean(run, tiles, self._mirror_axes, device.xp)]

    def _in_place(self, scores: FloatArray, again: FloatArray) -> FloatArray:
        """Write scores of the host over those of the device, channel by channel, which takes one more channel there."""
        for channel, computed in zip(scores, again, strict=True):
            channel[...] = self._device.upload(computed)
        return scores

    def _computed_again(self, tile: FloatArray) -> FloatArray:
        """Return the scores of a tile (1, channels, z, y, x) of the host in float32."""
        problem = f"the network gave NaN or infinity in {self._network.precision}"
        if self._rescue is None:
            raise CaseError("nonfinite_logits", problem)
        scores = self._computed(self._rescue(), tile, HOST)
        if not all_finite(scores, HOST)[0]:
            raise CaseError("nonfinite_logits", f"{problem}, and in float32 as well")
        return scores[0]


def all_finite(arrays: Sequence[FloatArray], device: Device) -> list[bool]:
    """Return for each array of `device` whether its numbers and their sum are finite; waits for a GPU once."""
    # A sum is finite only where every number is, and computing it takes no array as large.
    with np.errstate(over="ignore", invalid="ignore"):
        sums = device.download(device.xp.stack([array.sum() for array in arrays]))
    return [bool(one) for one in np.isfinite(sums)]
