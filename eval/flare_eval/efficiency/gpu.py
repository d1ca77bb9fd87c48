"""The memory in use on one NVIDIA GPU, as the driver tells it (NVML)."""

from collections.abc import Sequence
from typing import Any

_MIB = 1 << 20


class GpuMeter:
    """Reads one GPU; `find` gives None on a machine without one."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml = nvml
        self._handle = handle

    @classmethod
    def find(cls, index: int = 0) -> "GpuMeter | None":
        """Return a meter of the GPU with this index, or None where NVML, the driver or the GPU is missing."""
        try:
            import pynvml as nvml

            nvml.nvmlInit()
            return cls(nvml, nvml.nvmlDeviceGetHandleByIndex(index))
        except Exception:  # no package, no driver, no such GPU: each has errors of its own
            return None

    @property
    def name(self) -> str:
        """The GPU's name."""
        name = self._nvml.nvmlDeviceGetName(self._handle)
        return name.decode() if isinstance(name, bytes) else str(name)

    def read(self, processes: Sequence[int]) -> tuple[float | None, float | None]:
        """Return what the whole device and what these processes use, MiB; None where the driver does not answer."""
        try:
            return self.used_mib(), self.used_by_mib(processes)
        except self._nvml.NVMLError:
            return None, None

    def used_mib(self) -> float:
        """Return the memory in use on the whole device, whoever uses it."""
        return round(float(self._nvml.nvmlDeviceGetMemoryInfo(self._handle).used) / _MIB, 2)

    def processes(self) -> list[int]:
        """Return the numbers of the processes that compute on it, as far as the driver tells."""
        return [process.pid for process in self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)]

    def used_by_mib(self, processes: Sequence[int]) -> float | None:
        """Return what these processes use of it, or None where the driver does not tell (as in some containers)."""
        try:
            running = self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)
        except self._nvml.NVMLError:
            return None
        used = [process.usedGpuMemory for process in running if process.pid in processes]
        return None if None in used else round(float(sum(used)) / _MIB, 2)
