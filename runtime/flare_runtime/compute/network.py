"""A compiled network, whatever engine runs it."""

from typing import Protocol

from flare_runtime.compute.arrays import FloatArray


class Network(Protocol):
    """One compiled network.

    Attributes:
        backend: the name of the engine.
        device: `cpu` or `cuda:N`, where its tiles and logits are.
        precision: what it computes in.
        batch: how many tiles it takes at most at once.
    """

    backend: str
    device: str
    precision: str
    batch: int

    def run(self, tiles: FloatArray) -> FloatArray:
        """Return the logits (n, outputs, z, y, x) of `tiles` (n, channels, z, y, x) in float32.

        The result may be overwritten by the next call. On a GPU it is computed in the order of the device's stream.
        """
        ...

    def release(self) -> None:
        """Give back memory that only running needs, where the engine can; what `run` returned is gone with it."""
        ...
