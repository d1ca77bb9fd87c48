"""What this process takes of a GPU's memory, as the driver tells it."""

import os
from collections.abc import Callable
from functools import cached_property
from typing import Any

# CUDA's own share, where only what was taken after it can be told: 527 MiB on an H200.
_CONTEXT_BYTES = 527 << 20


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

    @property
    def is_exact(self) -> bool:
        """Whether NVML tells what this process takes; else it is what all processes have taken since the start."""
        return self._asked() is not None

    def used_bytes(self) -> int:
        """Return what this process takes, CUDA itself included."""
        used = self._asked()
        return self._free_at_start - self._free() + _CONTEXT_BYTES if used is None else used

    def outside_bytes(self) -> int:
        """Return what it takes outside of the pool, and of that which CuPy has for the rest of the program."""
        pools = (self._pool, self._cupy.get_default_memory_pool())
        return self.used_bytes() - sum(int(pool.total_bytes()) for pool in pools)

    def note_peak(self) -> int:
        """Return the most that was in use whenever this was called; it has to be before memory is given back."""
        self._peak = max(self._peak, self.used_bytes())
        return self._peak

    def _free(self) -> int:
        return int(self._cupy.cuda.runtime.memGetInfo()[0])

    @cached_property
    def _asked(self) -> Callable[[], int | None]:
        """What asks NVML, which a container may keep from knowing its processes."""
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
