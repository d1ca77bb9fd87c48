"""What this machine has: cores, memory, GPUs, engines; and what `auto` takes of them for a bundle, and why."""

import os
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flare_runtime.backends.engine import Engine
from flare_runtime.backends.registry import ENGINES, engines_on
from flare_runtime.backends.selection import MIN_AUTO_DICE, agrees, choose
from flare_runtime.compute.available_memory import available_bytes
from flare_runtime.errors import FlareError
from flare_runtime.model.bundle import Bundle
from flare_runtime.options import Precision, RunOptions
from flare_runtime.run.report import environment

_MIB = 1 << 20
# What of /proc/cpuinfo decides how fast a CPU computes a network.
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


@dataclass(frozen=True)
class EngineState:
    """An engine on this machine.

    Attributes:
        name, device: what `--backend` calls it, and `cpu` or `gpu`.
        installed: whether it seems to be.
        precisions: what it computes in here.
    """

    name: str
    device: str
    installed: bool
    precisions: list[str]


@dataclass(frozen=True)
class Decision:
    """What `auto` decides for a bundle.

    Attributes:
        device, backend, precision: as in `Choice`; None where nothing can run the bundle.
        reasons: one line for every precision and device that was passed over, or the error.
    """

    device: str | None
    backend: str | None
    precision: str | None
    reasons: list[str]


def machine_report(bundle: Bundle) -> dict[str, Any]:
    """Return all of it as JSON would hold it."""
    available = available_bytes()
    return {
        "cpu": {"model": _cpu_field("model name"), "cores": len(os.sched_getaffinity(0)), "flags": _flags()},
        "memory_mib": {"available": None if available is None else available // _MIB},
        "gpus": _gpus(),
        "engines": [asdict(_state(engine)) for engine in ENGINES],
        "auto": asdict(decide(bundle)),
        "environment": environment(),
    }


def machine_lines(report: dict[str, Any], bundle: Bundle) -> list[str]:
    """Return a report in lines for a person."""
    cpu, auto, memory = report["cpu"], report["auto"], report["memory_mib"]["available"]
    lines = [
        f"CPU      {cpu['model']}, {cpu['cores']} core(s) for this process; {', '.join(cpu['flags']) or 'no AVX2'}",
        f"memory   {'unknown' if memory is None else f'{memory:,} MiB'} available to this process",
    ]
    lines += [
        f"GPU {gpu['index']}    {gpu['name']}, {gpu['memory_mib']:,} MiB, driver {gpu['driver']}"
        for gpu in report["gpus"]
    ]
    lines += [] if report["gpus"] else ["GPU      none found"]
    for engine in report["engines"]:
        state = ", ".join(engine["precisions"]) if engine["installed"] else "not installed"
        lines.append(f"engine   {engine['name']} ({engine['device']}): {state}")
    if auto["device"] is None:
        lines.append(f"auto     cannot run {bundle.manifest.name}")
    else:
        lines.append(
            f"auto     runs {bundle.manifest.name} on {auto['device']} with {auto['backend']} in {auto['precision']}"
        )
    lines += [f"         {reason}" for reason in auto["reasons"]]
    versions = (f"{name} {version}" for name, version in report["environment"].items() if version != "not installed")
    return [*lines, f"versions {', '.join(versions)}"]


def decide(bundle: Bundle) -> Decision:
    """Return what `auto` decides for a bundle, and why."""
    try:
        choice = choose(bundle, RunOptions())
    except FlareError as error:
        return Decision(None, None, None, [str(error)])
    engines = [engine for engine in engines_on(choice.on_gpu) if choice.backend in ("auto", engine.name)]
    reasons = [] if choice.on_gpu else ["no GPU with an engine that is installed was found"]
    for engine in engines:
        reasons += _passed_over(engine, bundle, choice.precision)
    return Decision(choice.device, choice.backend, choice.precision, reasons)


def _passed_over(engine: Engine, bundle: Bundle, taken: Precision) -> Iterator[str]:
    for precision in engine.lower:
        if precision == taken:
            return
        if not engine.computes(precision):
            yield f"{engine.name} {precision}: this CPU does not compute in it"
        elif not agrees(bundle, engine.name, precision):
            yield (
                f"{engine.name} {precision}: the bundle records no whole cases whose Dice with float32 is "
                f"{MIN_AUTO_DICE} or more"
            )
        else:
            yield f"{engine.name} {precision}: the bundle lacks files for it"


def _state(engine: Engine) -> EngineState:
    installed = engine.available()
    lower = engine.lower if installed and not engine.on_gpu else ()
    precisions = [one for one in engine.precisions if one not in lower or engine.computes(one)]
    return EngineState(engine.name, "gpu" if engine.on_gpu else "cpu", installed, list(precisions))


def _gpus() -> list[dict[str, Any]]:
    """Return the GPUs as NVIDIA's library names them; none where it, or a driver, is absent."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # whatever is wrong, no GPU can be used
        return []
    try:
        return [_gpu(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount())]
    finally:
        pynvml.nvmlShutdown()


def _gpu(pynvml: Any, index: int) -> dict[str, Any]:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    name, driver = pynvml.nvmlDeviceGetName(handle), pynvml.nvmlSystemGetDriverVersion()
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return {"index": index, "name": str(name), "memory_mib": memory.total // _MIB, "driver": str(driver)}


def _flags() -> list[str]:
    listed = _cpu_field("flags").split()
    return [flag for flag in _FLAGS if flag in listed]


def _cpu_field(name: str, cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    found = (line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == name)
    return next(found, "" if name == "flags" else platform.machine())
