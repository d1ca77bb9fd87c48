"""What stands in for cuDNN's frontend: one convolution a graph, computed by NumPy as float16 with float32 sums."""

import ctypes
from enum import Enum, auto

import numpy as np


class data_type(Enum):
    HALF = auto()
    FLOAT = auto()


class heur_mode(Enum):
    A = auto()
    B = auto()
    FALLBACK = auto()


class numerical_note(Enum):
    REDUCED_PRECISION_REDUCTION = auto()


__version__ = "stand-in"
# How many plans a graph has, and those that fail when they run.
PLANS = 3
FAILING: set[int] = set()


def create_handle():
    return "handle"


def set_stream(handle, stream):
    assert (handle, stream) == ("handle", 4711)


def backend_version():
    return 91900


class _Tensor:
    def __init__(self, uid=None, dim=None, stride=None):
        self.uid, self.dim, self.stride, self.output, self.kind = uid, dim, stride, False, data_type.HALF

    def __getattr__(self, name):
        attribute = {"set_data_type": "kind"}.get(name, name.removeprefix("set_"))

        def assign(value):
            setattr(self, attribute, value)
            return self

        return assign


class pygraph:
    def __init__(self, *, io_data_type, intermediate_data_type, compute_data_type, handle):
        kinds = (io_data_type, intermediate_data_type, compute_data_type, handle)
        assert kinds == (data_type.HALF, data_type.FLOAT, data_type.FLOAT, "handle")
        self._stage, self._plan = "made", None

    def tensor(self, *, uid, dim, stride):
        return _Tensor(uid, dim, stride)

    def conv_fprop(self, *, image, weight, **how):
        self._image, self._weight, self._how, self._result = image, weight, how, _Tensor()
        return self._result

    def validate(self):
        result = self._result
        assert (self._image.uid, self._weight.uid, result.uid) == (1, 2, 3)
        assert result.output
        sides = zip(
            self._image.dim[2:], self._weight.dim[2:], self._how["pre_padding"], self._how["post_padding"],
            self._how["stride"], strict=True,
        )  # fmt: skip
        outputs = [(side + before + after - kernel) // by + 1 for side, kernel, before, after, by in sides]
        assert result.dim == [self._image.dim[0], self._weight.dim[0], *outputs]
        assert self._image.dim[1] == self._weight.dim[1]
        self._stage = "valid"

    def build_operation_graph(self):
        assert self._stage == "valid"

    def create_execution_plans(self, modes):
        assert modes == [heur_mode.A, heur_mode.B, heur_mode.FALLBACK]
        self._stage = "planned"

    def deselect_numeric_notes(self, notes):
        assert (self._stage, notes) == ("planned", [numerical_note.REDUCED_PRECISION_REDUCTION])

    def get_execution_plan_count(self):
        return PLANS

    def build_plan_at_index(self, index):
        self._plan = index

    def get_workspace_size_plan_at_index(self, index):
        return 100 * index

    def execute(self, pack, workspace, *, handle):
        assert handle == "handle"
        assert type(workspace) is int
        if self._plan in FAILING:
            raise RuntimeError("this plan fails")
        image, weight, result = (_at(pack[tensor.uid], tensor) for tensor in (self._image, self._weight, self._result))
        pads = zip(self._how["pre_padding"], self._how["post_padding"], strict=True)
        padded = np.pad(image.astype(np.float32), [(0, 0), (0, 0), *pads])
        total = np.zeros(result.shape, np.float32)
        for tap in np.ndindex(*weight.shape[2:]):
            sides = zip(tap, result.shape[2:], self._how["stride"], strict=True)
            part = padded[(..., *(slice(t, t + (side - 1) * by + 1, by) for t, side, by in sides))]
            total += np.einsum("ncdhw,kc->nkdhw", part, weight[(..., *tap)].astype(np.float32), optimize=True)
        result[...] = total.astype(np.float16)


def _at(address, tensor):
    """Return the float16 tensor at an address."""
    span = 1 + sum((side - 1) * stride for side, stride in zip(tensor.dim, tensor.stride, strict=True))
    flat = np.frombuffer((ctypes.c_uint16 * span).from_address(address), np.float16)
    return np.lib.stride_tricks.as_strided(flat, tensor.dim, [2 * stride for stride in tensor.stride])
