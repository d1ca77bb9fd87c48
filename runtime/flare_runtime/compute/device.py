"""Where arrays live and are computed: the host with NumPy, or one CUDA GPU with CuPy."""

import ctypes
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from flare_runtime.compute.arrays import AnyArray
from flare_runtime.compute.cuda_memory import CudaMemory
from flare_runtime.errors import DeviceError, GpuMemoryError, LostDeviceError, UsageError, install_hint

# No zero before it, so that each GPU has one name.
_GPU = r"cuda:(0|[1-9][0-9]{0,3})"


class Device(Protocol):
    """An array module and the way to it and back.

    Attributes:
        name: `cpu` or `cuda:N`.
        is_gpu: whether its memory is apart from the host's.
        xp: numpy or cupy; the pipeline is written once against it.
    """

    name: str
    is_gpu: bool
    xp: Any

    def upload(self, array: AnyArray) -> AnyArray:
        """Return an array of the host, or one that is there already, as an array of `xp`."""
        ...

    def download(self, array: AnyArray) -> AnyArray:
        """Return an array of `xp` on the host, once it has been computed."""
        ...

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make `xp` compute here, for the calling thread, inside a `with` statement."""
        yield

    def synchronize(self) -> None:
        """Wait until everything is computed."""
        ...

    def release(self) -> None:
        """Give unused memory back."""
        ...


class Host:
    """The CPU's memory: nothing has to be moved."""

    name = "cpu"
    is_gpu = False
    xp: Any = np

    def upload(self, array: AnyArray) -> AnyArray:
        """Return the array itself."""
        return array

    def download(self, array: AnyArray) -> AnyArray:
        """Return the array itself."""
        return array

    @contextmanager
    def active(self) -> Iterator[None]:
        """Do nothing: NumPy is always ready."""
        yield

    def synchronize(self) -> None:
        """Do nothing: NumPy returns when it is done."""

    def release(self) -> None:
        """Do nothing: NumPy keeps no pool."""


HOST = Host()


class CudaDevice:
    """One GPU, with one stream for all work and a bounded pool of memory, beside what else the process does there.

    Attributes:
        index: of the GPU, as CUDA counts.
        stream: a `cupy.cuda.Stream`.
        pool: the `cupy.cuda.MemoryPool` that arrays take their memory from while the device is active.
        gpu_name: such as `NVIDIA H200`.
        compute_capability: such as `9.0`.
        driver: the version of CUDA that the driver is made for, such as 13000.
        memory: what this process takes of the GPU's.

    Raises:
        DeviceError: where CuPy or the GPU is missing.
    """

    is_gpu = True

    def __init__(self, index: int) -> None:
        try:
            import cupy
        except ImportError as error:
            raise DeviceError(f"cupy is not installed; {install_hint('gpu')}, or use --device cpu") from error
        except OSError as error:  # it makes the folder of its compiled kernels when it is imported
            raise DeviceError(
                f"cupy cannot keep what it compiles ({error}); set CUPY_CACHE_DIR to a folder that can be written to, "
                "or use --device cpu"
            ) from error
        runtime = cupy.cuda.runtime
        self.name = f"cuda:{index}"
        self.index = index
        self.xp: Any = cupy
        try:
            count = runtime.getDeviceCount()
            if index >= count:
                raise DeviceError(f"{self.name} is not there; this machine has {count} GPU(s), counted from cuda:0")
            self._device = cupy.cuda.Device(index)
            with self._device:
                self.stream = cupy.cuda.Stream(non_blocking=True)
                self.pool = cupy.cuda.MemoryPool()
                self.memory = CudaMemory(cupy, index, self.pool)
            properties = runtime.getDeviceProperties(index)
        except (runtime.CUDARuntimeError, cupy.cuda.memory.OutOfMemoryError) as error:
            raise DeviceError(f"{self.name} cannot be used ({error}); use --device cpu") from error
        self.gpu_name: str = properties["name"].decode()
        self.compute_capability = f"{properties['major']}.{properties['minor']}"
        self.driver = int(runtime.driverGetVersion())

    def limit_memory(self, size: int) -> None:
        """Let the pool take at most `size` bytes of the GPU's memory; 0 lifts the bound."""
        with self._device:
            self.pool.set_limit(size=size)

    def upload(self, array: AnyArray) -> AnyArray:
        """Copy to the GPU, through CuPy's pinned memory."""
        return self.xp.asarray(array)  # type: ignore[no-any-return]

    def download(self, array: AnyArray) -> AnyArray:
        """Copy from the GPU once all work on the stream before is done."""
        return self.xp.asnumpy(array)  # type: ignore[no-any-return]

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make CuPy use this GPU, stream and pool in the calling thread.

        Raises:
            GpuMemoryError: where the work inside finds no memory.
            LostDeviceError: where CUDA fails otherwise, after which it fails for good in this process.
        """
        cuda = self.xp.cuda
        try:
            with self._device, self.stream, cuda.using_allocator(self.pool.malloc):
                yield
        except cuda.memory.OutOfMemoryError as error:
            raise GpuMemoryError(str(error)) from error
        except cuda.cublas.CUBLASError as error:
            if "ALLOC_FAILED" in str(error):
                raise GpuMemoryError(str(error)) from error
            raise LostDeviceError(f"{self.name} failed: {error}") from error
        except (cuda.runtime.CUDARuntimeError, cuda.driver.CUDADriverError) as error:
            raise LostDeviceError(f"{self.name} failed: {error}") from error

    def warm_up(self) -> None:
        """Load what the first case would wait for: cuBLAS, and what is asked how much memory is taken."""
        with self.active():
            square = self.xp.zeros((16, 16), np.float32)
            self.xp.matmul(square, square)
            self.memory.used_bytes()
            self.synchronize()

    def synchronize(self) -> None:
        """Wait for the stream."""
        self.stream.synchronize()

    def release(self) -> None:
        """Give the free blocks of the pool back to CUDA."""
        with self._device:
            self.memory.note_peak()
            self.pool.free_all_blocks()


def check_name(name: str) -> None:
    """Refuse what is no name: `auto`, `cpu`, `cuda`, `cuda:N`, several of the last with commas, and `cuda:all` are.

    Raises:
        UsageError: for anything else.
    """
    if not (isinstance(name, str) and re.fullmatch(rf"auto|cpu|cuda|cuda:all|{_GPU}(,{_GPU})*", name)):
        raise UsageError(
            f"device {name!r} is not known; choose one of auto, cpu, cuda:0, cuda:1, ..., or several GPUs: "
            "cuda:0,cuda:1 or cuda:all"
        )
    if len(set(names := name.split(","))) < len(names):
        raise UsageError(f"device {name!r} names a GPU twice")


def device_names(name: str) -> list[str]:
    """Return the names of the devices that a person may mean at once: several GPUs, or what was given.

    Raises:
        UsageError: for what is no name.
        DeviceError: where all GPUs are meant and there is none.
    """
    check_name(name)
    if name != "cuda:all":
        return name.split(",")
    if count := _gpu_count():
        return [f"cuda:{index}" for index in range(count)]
    raise DeviceError("CUDA finds no GPU here; use --device cpu")


def _gpu_count() -> int:
    """Return how many GPUs CUDA lets this process use, asked of the driver without taking one."""
    try:
        driver, count = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(0)
    except OSError:
        return 0
    failed = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    return 0 if failed else count.value


def resolve(name: str, has_engine: Callable[[], bool] = lambda: True) -> str:
    """Return `cpu` or `cuda:N` for what a person may say: `auto`, `cpu`, `cuda` or `cuda:N`.

    `auto` is the first GPU where a driver, CuPy and something that runs networks there are installed, else the CPU.

    Args:
        name: what a person says.
        has_engine: whether something that runs networks on a GPU is installed.

    Raises:
        UsageError: for anything else.
    """
    check_name(name)
    if "," in name or name == "cuda:all":
        raise UsageError(f"device {name!r} is several; give one, or use flare-infer or Session")
    if name == "auto":
        return "cuda:0" if Path("/dev/nvidiactl").exists() and find_spec("cupy") and has_engine() else "cpu"
    return "cuda:0" if name == "cuda" else name


def open_device(name: str) -> Device:
    """Open a device by its resolved name.

    Raises:
        DeviceError: where it is not to be had.
    """
    return HOST if name == "cpu" else CudaDevice(int(name.removeprefix("cuda:")))


def as_gpu(device: Device) -> CudaDevice:
    """Return a device that is a GPU as one.

    Raises:
        UsageError: where it is not.
    """
    if not device.is_gpu:
        raise UsageError(f"{device.name} is no GPU; give cuda:0, cuda:1, ...")
    return cast("CudaDevice", device)
