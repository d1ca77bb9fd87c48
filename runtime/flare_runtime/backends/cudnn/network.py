"""cuDNN on one GPU: a U-Net in float16 with the channels of a voxel side by side, in one block of memory.

cuDNN computes the convolutions, the kernels of `kernels.cu` all else.
"""

from collections.abc import Callable, Iterator
from importlib.resources import files
from math import prod
from typing import Any

import numpy as np

from flare_runtime.backends.cudnn.layout import Layout, Place, PlacedStep
from flare_runtime.backends.cudnn.steps import GROUP, Norm, Step
from flare_runtime.backends.engine import AbsentEngineError
from flare_runtime.compute.arrays import FloatArray
from flare_runtime.compute.device import CudaDevice
from flare_runtime.errors import DeviceError, LostDeviceError, install_hint

_THREADS = 256
# Blocks for each multiprocessor: of what sums up a norm, and at most of what applies it.
_SUMMING, _APPLYING = 5, 64
# What a convolution may take of memory beside its tensors.
_MAX_WORKSPACE = 256 << 20
# Enqueues work on the device's stream.
_Launch = Callable[[], object]


def load() -> Any:
    """Return cuDNN's frontend, imported when it is first needed.

    Raises:
        DeviceError: where it is not installed.
    """
    try:
        import cudnn
    except (ImportError, OSError, AssertionError) as error:  # also where its library cannot be loaded
        raise AbsentEngineError(f"cuDNN's frontend cannot be used ({error}); {install_hint('gpu')}") from error
    return cudnn


class CudnnRuntime:
    """What the networks of all folds share on a GPU: cuDNN's handle, the compiled kernels, and their memory.

    The device has to be active.

    Args:
        device: the GPU.
        outputs: channels of the logits.
        block_bytes: that the largest of the networks' layouts takes.

    Attributes:
        block: the address of the memory in which they run, one after the other.

    Raises:
        DeviceError: where cuDNN does not work here.
    """

    def __init__(self, device: CudaDevice, outputs: int, block_bytes: int) -> None:
        cudnn = load()
        self.device = device
        try:
            self.handle = cudnn.create_handle()
            cudnn.set_stream(handle=self.handle, stream=device.stream.ptr)
        except RuntimeError as error:
            raise DeviceError(f"cuDNN cannot use {device.name} ({error}); use --backend onnxruntime") from error
        source = files(__package__).joinpath("kernels.cu").read_text(encoding="utf-8")
        self._kernels = device.xp.RawModule(code=source, options=("-std=c++17", f"-DOUTPUTS={outputs}"))
        self.multiprocessors = int(device.xp.cuda.Device().attributes["MultiProcessorCount"])
        self._block: Any = device.xp.empty(block_bytes, np.uint8)
        self.block = _address(self._block)
        self._workspace: Any = device.xp.empty(1, np.uint8)

    def kernel(self, name: str, grid: int, block: tuple[int, ...], *arguments: Any) -> _Launch:
        """Return what launches a kernel."""
        function = self._kernels.get_function(name)
        typed = tuple(map(_typed, arguments))
        return lambda: function((grid,), block, typed)

    def workspace(self, size: int = 0) -> int:
        """Return the address of what convolutions take beside their tensors, at least `size` bytes."""
        if self._workspace.nbytes < size:
            self._workspace = self.device.xp.empty(size, np.uint8)
        return _address(self._workspace)


class CudnnNetwork:
    """One network, ready to run on a GPU; its memory is taken for good, from CuPy's pool.

    Args:
        layout: of the network.
        runtime: which networks of the same layout may share.

    Raises:
        DeviceError: where cuDNN has no way to compute one of the convolutions here.
    """

    backend = "cudnn"
    precision = "fp16"
    batch = 1

    def __init__(self, layout: Layout, runtime: CudnnRuntime) -> None:
        self.device = runtime.device.name
        self._layout = layout
        self._runtime = runtime
        self._xp = runtime.device.xp
        self._logits = self._xp.empty((1, *layout.logits), np.float32)
        launches = [launch for placed in layout.steps for launch in self._prepare(placed)]
        voxels, features = prod(layout.logits[1:]), layout.features
        head = (self._upload(layout.head.filters[:, 0, 0, 0].T), self._upload(layout.head.bias), self._logits, voxels)
        place = (*self._pitched(features), features.shape[3] // GROUP)
        self._launches = [*launches, runtime.kernel("head", -(-voxels // _THREADS), (_THREADS,), *place, *head)]

    def run(self, tiles: FloatArray) -> FloatArray:
        """Return the logits (1, outputs, z, y, x) of `tiles` (1, channels, z, y, x), float32 CuPy arrays.

        The logits are overwritten by the next call. The device has to be active, and the work is only queued on its
        stream.

        Raises:
            LostDeviceError: where cuDNN fails.
        """
        source = self._layout.source
        voxels, groups = prod(source.shape[:3]), source.shape[3] // GROUP
        places = (tiles, self._layout.channels, self._at(source), groups, voxels)
        try:
            self._runtime.kernel("pack_tile", -(-voxels // _THREADS), (_THREADS,), *places)()
            for launch in self._launches:
                launch()
        except RuntimeError as error:
            raise LostDeviceError(f"cuDNN failed on {self.device}: {error}".splitlines()[0]) from error
        logits: FloatArray = self._logits
        return logits

    def release(self) -> None:
        """Keep the memory: the next case needs it."""

    def _prepare(self, placed: PlacedStep) -> Iterator[_Launch]:
        """Yield what computes a step."""
        step, raw, writes = placed.step, placed.raw, placed.writes
        yield self._convolution(placed)
        if writes == (raw,) and step.slope == 1 and not (step.norm or step.bias.any() or step.inputs[1:]):
            return
        z, y, x, channels = writes[0].shape
        lanes, groups = _lanes(channels)
        scale, shift = self._upload(np.ones_like(step.bias)), self._upload(step.bias)
        if step.norm:
            scale, shift = self._xp.empty((2, channels), np.float32)
            yield from self._norm(step.norm, raw, scale, shift)
        voxels = z * y * x
        grid = min(-(-voxels // lanes), _APPLYING * self._runtime.multiprocessors)
        added, first, second = ([*places, None][0] for places in (placed.reads[1:], writes, writes[1:]))
        places = [value for place in (added, first, second) for value in self._pitched(place)]
        numbers = (step.slope, *step.up, y, x, groups, voxels)
        block = (lanes * groups,)
        yield self._runtime.kernel("affine", grid, block, *self._pitched(raw), scale, shift, *places, *numbers)

    def _norm(self, norm: Norm, raw: Place, scale: Any, shift: Any) -> Iterator[_Launch]:
        """Yield what writes into `scale` and `shift` how a norm changes the channels of a tensor."""
        channels, voxels = raw.shape[3], prod(raw.shape[:3])
        lanes, groups = _lanes(channels)
        chunk = max(4 * lanes, -(-voxels // (_SUMMING * self._runtime.multiprocessors)))
        chunks = -(-voxels // chunk)
        partial = self._xp.empty((chunks, channels, 2), np.float32)
        gamma, beta = self._upload(norm.gamma), self._upload(norm.beta)
        kernel = self._runtime.kernel
        yield kernel("norm_stats", chunks, (lanes * groups,), self._at(raw), groups, partial, voxels, chunk)
        numbers = (channels, chunks, voxels, chunk, norm.epsilon)
        yield kernel("norm_finish", -(-channels // 32), (32, 32), partial, gamma, beta, scale, shift, *numbers)

    def _convolution(self, placed: PlacedStep) -> _Launch:
        """Return what computes a convolution by the first of cuDNN's plans that works."""
        filters = self._upload(placed.step.filters, np.float16)
        pack = {1: int(self._at(placed.reads[0])), 2: _address(filters), 3: int(self._at(placed.raw))}
        runtime, graph = self._runtime, _graph(placed, self._runtime.handle)

        def launch(_kept: Any = filters) -> None:
            graph.execute(pack, runtime.workspace(), handle=runtime.handle)

        problem = "their workspaces are too large"
        for index in range(graph.get_execution_plan_count()):
            try:
                graph.build_plan_at_index(index)
                size = int(graph.get_workspace_size_plan_at_index(index))
                if size > _MAX_WORKSPACE:
                    continue
                runtime.workspace(size)
                launch()
            except (RuntimeError, MemoryError) as error:  # this plan does not work here, or not in this memory
                problem = str(error).partition("\n")[0]
                continue
            runtime.device.synchronize()
            return launch
        raise DeviceError(f"cuDNN has no plan for {_described(placed.step)}: {problem}; use --backend onnxruntime")

    def _at(self, place: Place) -> np.uint64:
        """Return a tensor's address."""
        return np.uint64(self._runtime.block + 2 * place.offset)

    def _pitched(self, place: Place | None) -> tuple[np.uint64, int]:
        """Return a tensor's address, 0 where there is none, and the groups of a voxel of its buffer."""
        return (np.uint64(0), 0) if place is None else (self._at(place), place.pitch // GROUP)

    def _upload(self, array: FloatArray, kind: Any = np.float32) -> Any:
        return self._xp.asarray(np.ascontiguousarray(array, kind))


def _graph(placed: PlacedStep, handle: Any) -> Any:
    """Return cuDNN's graph of a step's convolution with its plans, summed up in float32."""
    cudnn = load()
    step, types = placed.step, cudnn.data_type
    filters = (len(step.filters), *step.filters.shape[1:])
    tensors = [(1, *placed.reads[0].shape), filters, (1, *placed.raw.shape)]
    dims = [[n, c, z, y, x] for n, z, y, x, c in tensors]
    strides = [[c * z * y * x, 1, c * y * x, c * x, c] for _, c, z, y, x in dims]
    graph = cudnn.pygraph(
        io_data_type=types.HALF, intermediate_data_type=types.FLOAT, compute_data_type=types.FLOAT, handle=handle
    )
    image, weight = (graph.tensor(uid=i + 1, dim=dims[i], stride=strides[i]) for i in (0, 1))
    result = graph.conv_fprop(
        image=image,
        weight=weight,
        pre_padding=list(step.pads[:3]),
        post_padding=list(step.pads[3:]),
        stride=list(step.stride),
        dilation=[1, 1, 1],
    )
    result.set_output(True).set_uid(3).set_data_type(types.HALF).set_dim(dims[2]).set_stride(strides[2])
    modes = cudnn.heur_mode
    try:
        graph.validate()
        graph.build_operation_graph()
        graph.create_execution_plans([modes.A, modes.B, modes.FALLBACK])
    except RuntimeError as error:
        raise DeviceError(f"cuDNN refuses {_described(step)} ({error}); use --backend onnxruntime") from error
    graph.deselect_numeric_notes([cudnn.numerical_note.REDUCED_PRECISION_REDUCTION])
    return graph


def _described(step: Step) -> str:
    return f"the convolution of {step.output} with {step.filters.shape[1:4]} filters"


def _lanes(channels: int) -> tuple[int, int]:
    """Return how many voxels a block of threads handles at once, and the groups of channels of each."""
    groups = channels // GROUP
    return _THREADS // groups, groups


def _address(array: Any) -> int:
    return int(array.data.ptr)


def _typed(argument: Any) -> Any:
    """Return a kernel's argument with the type that it has in CUDA."""
    if isinstance(argument, int):
        return np.int32(argument)
    return np.float32(argument) if isinstance(argument, float) else argument
