"""Whether an ONNX file is the network that a manifest describes, and nothing else, asked before any engine sees it.

Everything that `flare-export` does not write is refused: other layers, functions and subgraphs, and all that could name
a file outside the bundle.
"""

from collections import Counter
from collections.abc import Mapping
from math import prod

from flare_runtime.errors import BundleError, first_line
from flare_runtime.model.manifest import Manifest
from flare_runtime.model.onnx_graph import read_graph
from flare_runtime.model.onnx_shapes import computed
from flare_runtime.model.protobuf import content, fields, text

# The messages of an ONNX file and their fields by number, each a message again or None; those that may be repeated.
# Not here are weights elsewhere, sparse ones, and those in attributes, functions, subgraphs and training steps.
_PLAIN = None
_MESSAGES: Mapping[str, tuple[Mapping[int, str | None], set[int]]] = {
    "model": ({**dict.fromkeys((2, 3, 4, 5, 6, 14), _PLAIN), 1: "version", 7: "graph", 8: "operator set"}, {8, 14}),
    "operator set": ({1: "domain", 2: "version"}, set()),
    "graph": ({2: _PLAIN, 10: _PLAIN, 16: _PLAIN, 1: "layer", 5: "weight", 11: "end", 12: "end"}, {1, 5, 11, 12, 16}),
    "layer": ({**dict.fromkeys((1, 2, 3, 4, 6, 9), _PLAIN), 5: "attribute", 7: "domain"}, {1, 2, 5, 9}),
    "attribute": (dict.fromkeys((1, 2, 3, 4, 8, 13, 20), _PLAIN), {8}),
    "weight": ({**dict.fromkeys((1, 2, 8, 9, 12, 16), _PLAIN), 13: "location", 14: "location"}, {1, 13, 16}),
    "end": ({1: _PLAIN, 2: "type", 3: _PLAIN, 4: _PLAIN}, {4}),
    "type": ({1: "tensor", 6: _PLAIN}, set()),
    "tensor": ({1: _PLAIN, 2: "shape"}, set()),
    "shape": ({1: "axis"}, {1}),
    "axis": ({1: _PLAIN, 3: _PLAIN}, set()),
}
_DOMAINS = ("", "ai.onnx")
# Of ONNX's formats and operators; an engine may count up to it.
_MAX_VERSION = 64
# A weight's values, which alone are long.
_VALUES = ("weight", 9)
# Far above any network; they bound the time.
_MAX_FIELDS, _MAX_TEXT = 200_000, 1 << 16
# Two tensors of a decoder's last stage are concatenated; four times the features are more than any U-Net holds there.
_LEEWAY = 4


def check_network(data: bytes, name: str, manifest: Manifest) -> None:
    """Refuse an ONNX file that is not the U-Net from tiles to logits which a bundle's manifest describes.

    Args:
        data: the file; its weights are skipped, not copied.
        name: what messages call it.
        manifest: of the bundle.

    Raises:
        BundleError: with what was found and what is allowed.
    """
    outputs, patch, features = manifest.network.outputs, manifest.patch, manifest.network.features
    try:
        _check_fields(memoryview(data), "model", Counter())
        graph = read_graph(data)
        _check_shapes("takes", list(graph.inputs.values()), (1, manifest.inputs, *patch))
        tensors = computed(graph)
        given = [tensors[end].shape for end in graph.outputs if end in tensors]
        _check_shapes("gives", given, (1, outputs, *patch))
        # What a case is estimated to take of the memory stands on these.
        most = _LEEWAY * max(manifest.inputs, outputs, *features[:2]) * prod(patch)
        if any(prod(tensor.shape) > most for tensor in tensors.values()):
            raise ValueError(f"it computes more than {_LEEWAY} times the features {features} of its manifest")
    except (ValueError, BundleError) as error:
        why = first_line(error)
        raise BundleError(f"{name}: not a network that flare-export writes ({why}); export it anew") from error


def _check_shapes(verb: str, found: list[tuple[int, ...]], allowed: tuple[int, ...]) -> None:
    if found != [allowed]:
        shapes = ", ".join(map(str, found[:3])) or "nothing"
        raise ValueError(f"it {verb} {shapes}; its manifest says {allowed}")


def _check_fields(message: memoryview, kind: str, seen: Counter[str]) -> None:
    """Refuse fields that are not in `_MESSAGES`; `seen` counts them all."""
    allowed, repeated = _MESSAGES[kind]
    met = set[int]()
    for number, value in fields(message):
        seen["fields"] += 1
        if seen["fields"] > _MAX_FIELDS:
            raise ValueError(f"it holds more than {_MAX_FIELDS:,} fields")
        if number not in allowed:
            raise ValueError(f"it holds more than a U-Net ({kind}, field {number})")
        if number in met and number not in repeated:
            raise ValueError(f"it says a thing twice ({kind}, field {number})")
        met.add(number)
        inner = allowed[number]
        if inner == "location":
            if value != 0:  # which says that the weight is in the file
                raise ValueError("it keeps weights in another file")
        elif inner == "version":
            if not isinstance(value, int) or value > _MAX_VERSION:
                raise ValueError(f"it is of an unknown version of ONNX ({kind}, field {number})")
        elif inner == "domain":
            if (domain := text(value)) not in _DOMAINS:
                raise ValueError(f"it holds layers of {domain!a:.80}; ONNX's own are allowed")
        elif inner is not None:
            _check_fields(content(value), inner, seen)
        elif isinstance(value, memoryview) and len(value) > _MAX_TEXT and (kind, number) != _VALUES:
            raise ValueError(f"it says an endless thing ({kind}, field {number})")
