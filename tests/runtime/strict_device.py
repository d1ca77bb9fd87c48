"""A device beside the host for tests on a machine without a GPU: NumPy underneath, as strict as CuPy about mixing.

CuPy refuses what NumPy would do silently: to turn its arrays into NumPy's, and to compute with both kinds at once. So
does this, and it keeps count of the memory its arrays take, as CuPy's pool does.
"""

import threading
import weakref
from contextlib import contextmanager

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from flare_runtime.errors import GpuMemoryError


class Memory:
    """Bytes in use, the most there were, and how many are allowed; and how often the host waited for what is there."""

    is_exact = False

    def __init__(self):
        self._lock = threading.RLock()
        self.used = self.peak = 0
        self.limit = None
        self.waits = 0

    def take(self, array):
        with self._lock:
            if self.limit is not None and self.used + array.nbytes > self.limit:
                raise GpuMemoryError(f"{array.nbytes} bytes on top of {self.used}")
            self.used += array.nbytes
            self.peak = max(self.peak, self.used)
        weakref.finalize(array, self._give_back, array.nbytes)

    def _give_back(self, size):
        with self._lock:
            self.used -= size

    def note_peak(self):
        return self.peak


class StrictArray(NDArrayOperatorsMixin):
    """An array of a `StrictDevice`; reductions give arrays without axes, as CuPy's do."""

    def __init__(self, array, memory):
        array = np.asanyarray(array)
        if array.base is None:
            memory.take(array)
        self._array, self._memory = array, memory

    def __array__(self, *_args, **_kwargs):
        raise TypeError("implicit conversion to a NumPy array is not allowed")

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        if method != "__call__":
            raise TypeError(f"{ufunc.__name__}.{method} is not supported")
        return self._call(ufunc, inputs, kwargs)

    def __array_function__(self, function, _types, args, kwargs):
        return self._call(function, args, kwargs)

    def __getattr__(self, name):
        value = getattr(self._array, name)
        if callable(value):
            return lambda *args, **kwargs: self._call(value, args, kwargs)
        return self._wrap(value)

    def __getitem__(self, index):
        return self._wrap(self._array[_unwrap(index)])

    def __setitem__(self, index, value):
        self._array[_unwrap(index)] = _unwrap(value)

    def __len__(self):
        return len(self._array)

    def __iter__(self):
        return (self._wrap(part) for part in self._array)

    def __float__(self):
        self._memory.waits += 1
        return float(self._array)

    def __bool__(self):
        self._memory.waits += 1
        return bool(self._array)

    def _call(self, function, args, kwargs):
        return self._wrap(function(*map(_unwrap, args), **{name: _unwrap(value) for name, value in kwargs.items()}))

    def _wrap(self, value):
        if value is self._array:
            return self
        return StrictArray(value, self._memory) if isinstance(value, np.ndarray | np.generic) else value


def _unwrap(value):
    if isinstance(value, StrictArray):
        return value._array
    if isinstance(value, tuple | list):
        return list(map(_unwrap, value)) if isinstance(value, list) else tuple(map(_unwrap, value))
    if isinstance(value, np.ndarray) and value.ndim:
        raise TypeError("arrays of the host and of the device are mixed")
    return value


class _Module:
    """What stands in for `cupy`."""

    def __init__(self, memory):
        self._memory = memory

    def __getattr__(self, name):
        function = getattr(np, name)

        def call(*args, **kwargs):
            result = function(*map(_unwrap, args), **{key: _unwrap(value) for key, value in kwargs.items()})
            for given in (*args, *kwargs.values()):
                if isinstance(given, StrictArray) and given._array is result:
                    return given
            return StrictArray(result, self._memory)

        return call


class StrictDevice:
    """A `flare_runtime.compute.device.Device` whose arrays are apart from the host's.

    Attributes:
        memory: what its arrays take.
        uploads, downloads: bytes that were moved.
    """

    name = "strict:0"
    is_gpu = True

    def __init__(self):
        self.memory = Memory()
        self.xp = _Module(self.memory)
        self.uploads = self.downloads = 0

    def upload(self, array):
        if isinstance(array, StrictArray):
            return array
        assert isinstance(array, np.ndarray)
        self.uploads += array.nbytes
        return StrictArray(np.array(array, order="C"), self.memory)

    def download(self, array):
        assert isinstance(array, StrictArray), "an array of the host needs no download"
        self.downloads += array.nbytes
        self.memory.waits += 1
        return array._array.copy()

    @contextmanager
    def active(self):
        yield

    def synchronize(self):
        self.memory.waits += 1

    def release(self):
        pass


class StrictNetwork:
    """A network of the host that takes and gives arrays of a `StrictDevice`; each run writes over the last one's."""

    def __init__(self, network, device, batch=1):
        self._network, self._device = network, device
        self.backend, self.device, self.precision, self.batch = network.backend, device.name, network.precision, batch
        self.batches = []
        self._logits = None

    def run(self, tiles):
        assert isinstance(tiles, StrictArray)
        assert tiles.flags.c_contiguous
        self.batches.append(len(tiles))
        logits = [self._network.run(np.ascontiguousarray(tile[None])).copy() for tile in tiles._array]
        if self._logits is None:
            self._logits = StrictArray(np.empty((self.batch, *logits[0].shape[1:]), np.float32), self._device.memory)
        self._logits._array[: len(tiles)] = np.concatenate(logits)
        return self._logits[: len(tiles)]

    def release(self):
        self._logits = None
        self._network.release()
