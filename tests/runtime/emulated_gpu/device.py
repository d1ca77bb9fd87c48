"""What stands in for CuPy: arrays of the host, and kernels that g++ compiles, checked as CUDA would not check them."""

import ctypes
import subprocess
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace

import numpy as np

_HERE = Path(__file__).parent
_WITH_BARRIERS = ("norm_stats", "norm_finish")
_ALIGNMENT = {"U": 16, "2": 8, "F": 4}


class Array(np.ndarray):
    """An array with the address that CuPy's have."""

    @property
    def data(self):
        return SimpleNamespace(ptr=self.ctypes.data)


def empty(shape, dtype):
    """Return an array of NaNs: nothing may depend on what was there."""
    array = np.empty(shape, dtype).view(Array)
    np.ndarray.view(array, np.ndarray).reshape(-1).view(np.uint8)[...] = 0xFF
    return array


def asarray(array):
    """Return a copy, as an upload makes one."""
    assert array.flags.c_contiguous
    return array.copy().view(Array)


class EmulatedMemory:
    """What NVML would tell: so many MiB outside of CuPy's pool, and some at the peak."""

    def __init__(self, outside_mib=700, peak_mib=900, is_exact=True):
        self.outside_mib, self.peak_mib, self.is_exact = outside_mib, peak_mib, is_exact

    def outside_bytes(self):
        return self.outside_mib << 20

    def note_peak(self):
        return self.peak_mib << 20


class EmulatedDevice:
    """A GPU of `multiprocessors` that computes at once."""

    name = "cuda:0"
    is_gpu = True
    gpu_name, compute_capability, driver = "an emulated GPU", "9.0", 13000
    stream = SimpleNamespace(ptr=4711)

    def __init__(self, multiprocessors=3, memory=None):
        device = SimpleNamespace(attributes={"MultiProcessorCount": multiprocessors})
        cuda = SimpleNamespace(Device=lambda: device)
        functions = {"empty": empty, "asarray": asarray, "RawModule": _Module}
        self.xp = SimpleNamespace(**functions, cuda=cuda, __version__="emulated")
        self.memory = memory or EmulatedMemory()
        self.limit = None

    def limit_memory(self, size):
        self.limit = size

    def release(self):
        pass

    def upload(self, array):
        return asarray(np.ascontiguousarray(array))

    def download(self, array):
        return np.array(array, subok=False)

    def synchronize(self):
        pass

    @contextmanager
    def active(self):
        yield


class _Module:
    def __init__(self, *, code, options):
        self._library = _compiled(code, next(option for option in options if option.startswith("-DOUTPUTS=")))

    def get_function(self, name):
        signature = ctypes.create_string_buffer(64)
        self._library.signature(name.encode(), signature)
        return _Kernel(self._library, name, signature.value.decode())


class _Kernel:
    def __init__(self, library, name, signature):
        self._library, self._name, self._signature = library, name, signature

    def __call__(self, grid, block, arguments):
        (blocks,), (width, height) = grid, (*block, 1)[:2]
        assert blocks > 0
        assert 0 < width * height <= 1024
        held = [self._held(*pair) for pair in zip(arguments, self._signature, strict=True)]
        pointers = (ctypes.c_void_p * len(held))(*map(ctypes.addressof, held))
        self._library.launch(self._name.encode(), blocks, width, height, int(self._name in _WITH_BARRIERS), pointers)

    def _held(self, argument, code):
        """Return an argument as C has it; its type and alignment have to be those of the kernel's parameter."""
        if code in "if":
            assert type(argument) is {"i": np.int32, "f": np.float32}[code], (self._name, argument)
            return (ctypes.c_int if code == "i" else ctypes.c_float)(argument.item())
        if isinstance(argument, np.ndarray):
            assert code in "F2", (self._name, code)
            assert argument.dtype == np.float32
            assert argument.flags.c_contiguous
            address = argument.ctypes.data
        else:
            assert type(argument) is np.uint64, (self._name, argument)
            address = int(argument)
        assert address % _ALIGNMENT[code] == 0, (self._name, code, address)
        return ctypes.c_void_p(address)


@cache
def _compiled(code, outputs):
    source = f'#include "{_HERE}/cuda.h"\n{code}\n#include "{_HERE}/launch.h"\n'
    folder = Path(mkdtemp(prefix="flare-kernels-"))
    try:
        (folder / "kernels.cpp").write_text(source, encoding="utf-8")
        library = folder / f"{sha256((source + outputs).encode()).hexdigest()[:16]}.so"
        flags = ["-O2", "-std=c++17", "-shared", "-fPIC", "-Wall", "-Wno-unknown-pragmas", outputs]
        subprocess.run(["g++", *flags, "-o", library, folder / "kernels.cpp"], check=True)
        return ctypes.CDLL(str(library))
    finally:
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
