"""How much of a GPU's memory this process takes, as the driver reports it."""

import os
from collections import defaultdict
from collections.abc import Callable
from functools import cached_property
from typing import Any
from weakref import WeakSet

# What CUDA itself takes, 527 MiB on an H200; added where only what was taken after it can be measured.
_CONTEXT_BYTES = 527 << 20
_ATTEMPTS = 5


class CudaMemory:
    """The memory of one GPU, which has to be the current one.

    Args:
        cupy: the module.
        index: of the GPU, as CUDA counts.
        pool: the `cupy.cuda.MemoryPool` of the arrays.
    """

    def __init__(self, cupy: Any, index: int, pool: Any) -> None:
        self._cupy = cupy
        self._index = index
        self._pool = pool
        self._free_at_start = self._free()
        self._peak = 0
        _OPEN[index].add(self)

    @property
    def is_exact(self) -> bool:
        """Whether the figures are of this device alone: NVML reports this process, which opened the GPU only once."""
        return len(_OPEN[self._index]) == 1 and self._asked() is not None

    def used_bytes(self) -> int:
        """Return the bytes that this process takes, CUDA itself included."""
        used = self._asked()
        return self._free_at_start - self._free() + _CONTEXT_BYTES if used is None else used

    def outside_bytes(self) -> int:
        """Return the bytes that it takes outside of the device's pool and of CuPy's default one."""
        before = used = after = 0
        for _ in range(_ATTEMPTS):  # another thread may take memory between the two
            before, used, after = self._pooled(), self.used_bytes(), self._pooled()
            if before == after:
                break
        return used - min(before, after)

    def _pooled(self) -> int:
        pools = (self._pool, self._cupy.get_default_memory_pool())
        return sum(int(pool.total_bytes()) for pool in pools)

    def note_peak(self) -> int:
        """Return the most bytes in use at any call so far; call it before memory is given back."""
        self._peak = max(self._peak, self.used_bytes())
        return self._peak

    def _free(self) -> int:
        return int(self._cupy.cuda.runtime.memGetInfo()[0])

    @cached_property
    def _asked(self) -> Callable[[], int | None]:
        """A function that asks NVML; it returns None in containers where NVML does not see this process."""
        try:
            import pynvml

            pynvml.nvmlInit()
            handle = pynvml.nvmlDeviceGetHandleByPciBusId(self._cupy.cuda.runtime.deviceGetPCIBusId(self._index))
        except Exception:  # no package, no driver's library: each has errors of its own
            return lambda: None

        def ask() -> int | None:
            try:
                running = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
            except pynvml.NVMLError:
                return None
            return next((process.usedGpuMemory for process in running if process.pid == os.getpid()), None)

        return ask


# By the GPU's index: each has networks and a pool of its own, which the driver reports together.
_OPEN: defaultdict[int, WeakSet[CudaMemory]] = defaultdict(WeakSet)
