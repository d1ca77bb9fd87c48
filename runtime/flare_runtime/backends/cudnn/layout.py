"""Where the tensors of a network lie in one block of a GPU's memory, computed before the block is allocated."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from flare_runtime.backends.cudnn.steps import Shape4, Step, Steps, unsupported

# Buffers begin at multiples of so many float16, 256 bytes.
_ALIGNMENT = 128
_HALF, _FLOAT = 2, 4


@dataclass(frozen=True)
class Place:
    """A float16 tensor, the channels of a voxel side by side, in a buffer that may have more of them.

    Attributes:
        shape: (z, y, x, channels).
        pitch: channels of the buffer.
        buffer: which one.
        offset: of the first element: in the buffer, and in a finished layout in the block.
    """

    shape: Shape4
    pitch: int
    buffer: int
    offset: int = 0


@dataclass(frozen=True)
class PlacedStep:
    """A step with what it reads, what its convolution alone gives, and the one or two places that it writes."""

    step: Step
    reads: tuple[Place, ...]
    raw: Place
    writes: tuple[Place, ...]


@dataclass(frozen=True)
class Layout:
    """A network's steps in one block of memory.

    Attributes:
        channels: of the tile.
        source: where the tile is, in float16.
        steps: all but the last convolution.
        head: the last one.
        features: what the head reads.
        logits: their shape, (outputs, z, y, x).
        size: of the block, in float16.
    """

    channels: int
    source: Place
    steps: list[PlacedStep]
    head: Step
    features: Place
    logits: Shape4
    size: int

    @property
    def block_bytes(self) -> int:
        """What running takes beside the tile and the logits."""
        return self.size * _HALF

    @property
    def weights_bytes(self) -> int:
        """What the network takes all the time."""
        return sum(placed.step.filters.size for placed in self.steps) * _HALF + self.head.filters.size * _FLOAT


def lay_out(network: Steps) -> Layout:
    """Return where everything is to lie.

    Raises:
        DeviceError: where a tensor is a part of two concatenations.
    """
    buffers = _Buffers(network)
    steps = [buffers.placed(step) for step in network.steps]
    features = buffers.place_of(network.head.inputs[0])
    offsets, size = _offsets(buffers.sizes, _lifetimes(buffers.source, steps, features))

    def final(place: Place) -> Place:
        return replace(place, offset=offsets[place.buffer] + place.offset)

    z, y, x, outputs = network.shapes[network.head.output]
    return Layout(
        channels=network.channels,
        source=final(buffers.source),
        steps=[
            PlacedStep(each.step, tuple(map(final, each.reads)), final(each.raw), tuple(map(final, each.writes)))
            for each in steps
        ],
        head=network.head,
        features=final(features),
        logits=(outputs, z, y, x),
        size=size,
    )


class _Buffers:
    """Gives tensors buffers: a concatenation is one, into which the steps before it write their channels.

    What a convolution reads is always packed, for which a tensor in a concatenation has a second place: cuDNN would
    copy a tensor with other channels between its own.
    """

    def __init__(self, network: Steps) -> None:
        self._network = network
        self._places: dict[str, list[Place]] = {}
        self._convolved = {step.inputs[0] for step in network.steps}
        self.sizes: list[int] = []
        self.source = self._buffer(network.shapes[network.source])
        self._places[network.source] = [self.source]

    def place_of(self, name: str) -> Place:
        """Return where a tensor that was computed is, packed if it is anywhere."""
        return self._places[name][0]

    def placed(self, step: Step) -> PlacedStep:
        """Return a step with its places; what it reads was placed before."""
        name = step.output
        shape, parts = self._network.shapes[name], self._network.parts.get(name, [])
        reads = tuple(map(self.place_of, step.inputs))
        z, y, x = (side // by for side, by in zip(shape[:3], step.up, strict=True))
        raw = self._buffer((z, y, x, len(step.filters)))
        writes: list[Place] = []
        if name in self._convolved or not parts:
            writes.append(raw if raw.shape == shape else self._buffer(shape))
        for whole, first in parts:
            if whole not in self._places:
                self._places[whole] = [self._buffer(self._network.shapes[whole])]
            buffer = self._places[whole][0]
            writes.append(Place(shape, buffer.pitch, buffer.buffer, first))
        if len(writes) > 2:
            raise unsupported(f"{name} is a part of two concatenations")
        self._places[name] = writes
        return PlacedStep(step, reads, raw, tuple(writes))

    def _buffer(self, shape: Shape4) -> Place:
        self.sizes.append(-(-prod(shape) // _ALIGNMENT) * _ALIGNMENT)
        return Place(shape, shape[3], len(self.sizes) - 1)


def _lifetimes(source: Place, steps: Sequence[PlacedStep], features: Place) -> dict[int, tuple[int, int]]:
    """Return the first and the last moment at which each buffer is in use; a step has two."""
    moments: list[list[Place]] = [[source]]
    for each in steps:
        moments += [[each.reads[0], each.raw], [each.raw, *each.reads[1:], *each.writes]]
    moments.append([features])
    lives: dict[int, tuple[int, int]] = {}
    for moment, places in enumerate(moments):
        for place in places:
            lives[place.buffer] = (lives.get(place.buffer, (moment, moment))[0], moment)
    return lives


def _offsets(sizes: Sequence[int], lives: Mapping[int, tuple[int, int]]) -> tuple[dict[int, int], int]:
    """Return where each buffer begins, the largest first, apart from those in use at the same time; and the whole."""
    offsets: dict[int, int] = {}
    for buffer in sorted(lives, key=lambda each: -sizes[each]):
        first, last = lives[buffer]
        others = [other for other in offsets if lives[other][0] <= last and first <= lives[other][1]]
        taken = sorted((offsets[other], offsets[other] + sizes[other]) for other in others)
        offsets[buffer] = next(_gaps(taken, sizes[buffer]))
    return offsets, max(offsets[buffer] + sizes[buffer] for buffer in offsets)


def _gaps(taken: Sequence[tuple[int, int]], size: int) -> Iterator[int]:
    """Yield where `size` elements fit between what is taken, or behind it."""
    for start in (0, *sorted(end for _, end in taken)):
        if all(start + size <= begin or end <= start for begin, end in taken):
            yield start
