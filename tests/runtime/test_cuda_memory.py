"""What a process takes of a GPU's memory: from NVML where it tells, else from what has gone since the start."""

import os
import sys
from types import SimpleNamespace

import pytest

from flare_runtime.compute.cuda_memory import CudaMemory

MIB = 1 << 20
# What is free at the start, and in the pools of the device and of the rest of the program.
FREE, POOL, OTHERS = 80_000 * MIB, 300 * MIB, 20 * MIB


class Nvml:
    """NVML with a process of ours, `taken` bytes, beside another's."""

    class NVMLError(Exception):
        pass

    def __init__(self, taken):
        self.taken = taken

    def nvmlInit(self):
        pass

    def nvmlDeviceGetHandleByPciBusId(self, bus):
        assert bus == "0000:01:00.0"
        return "handle"

    def nvmlDeviceGetComputeRunningProcesses(self, handle):
        assert handle == "handle"
        if isinstance(self.taken, Exception):
            raise type(self.taken)  # a new one, which keeps nothing of this test
        other = SimpleNamespace(pid=os.getpid() + 1, usedGpuMemory=9000 * MIB)
        ours = SimpleNamespace(pid=os.getpid(), usedGpuMemory=self.taken)
        return [other, *([] if self.taken is None else [ours])]


@pytest.fixture
def cupy():
    runtime = SimpleNamespace(
        memGetInfo=lambda: (module.free, 2 * FREE), deviceGetPCIBusId=lambda _index: "0000:01:00.0"
    )
    others = SimpleNamespace(total_bytes=lambda: OTHERS)
    module = SimpleNamespace(cuda=SimpleNamespace(runtime=runtime), get_default_memory_pool=lambda: others, free=FREE)
    return module


@pytest.fixture
def pool():
    return SimpleNamespace(total_bytes=lambda: POOL)


def test_what_nvml_tells_of_this_process_counts(cupy, pool, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", nvml := Nvml(1000 * MIB))
    memory = CudaMemory(cupy, 0, pool)
    cupy.free -= 9000 * MIB  # another process took them
    assert memory.is_exact
    assert (memory.used_bytes(), memory.outside_bytes()) == (1000 * MIB, 1000 * MIB - POOL - OTHERS)
    nvml.taken = 1500 * MIB
    assert memory.note_peak() == 1500 * MIB
    nvml.taken = 700 * MIB
    assert memory.note_peak() == 1500 * MIB


@pytest.mark.parametrize("growing", [3, 100])
def test_what_another_thread_takes_of_the_pool_meanwhile_is_not_outside_of_it(cupy, monkeypatch, growing):
    """The pool grows at so many of the times that it is asked, and what NVML tells with it."""
    nvml, asked = Nvml(0), []

    def total_bytes():
        asked.append(1)
        nvml.taken = 500 * MIB + min(len(asked), growing) * 10 * MIB + OTHERS
        return nvml.taken - 500 * MIB - OTHERS

    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    memory = CudaMemory(cupy, 0, SimpleNamespace(total_bytes=total_bytes))
    assert memory.outside_bytes() == 500 * MIB


@pytest.mark.parametrize("nvml", [None, Nvml(None), Nvml(Nvml.NVMLError("not supported"))])
def test_where_nvml_does_not_tell_what_has_gone_since_the_start_counts(cupy, pool, monkeypatch, nvml):
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    memory = CudaMemory(cupy, 0, pool)
    cupy.free -= 400 * MIB
    assert not memory.is_exact
    assert memory.used_bytes() == (400 + 527) * MIB
    assert memory.note_peak() == 927 * MIB


def test_what_several_devices_take_of_one_gpu_is_not_told_apart(cupy, pool, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", Nvml(1000 * MIB))
    memory, second, elsewhere = (CudaMemory(cupy, index, pool) for index in (0, 0, 1))
    exact = memory.is_exact, second.is_exact, elsewhere.is_exact
    assert exact == (False, False, True)
    del second
    assert memory.is_exact
