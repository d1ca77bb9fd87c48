"""One process that makes inputs and enters a door with them: a task a line in, an outcome a line out."""

import faulthandler
import json
import os
import resource
import shutil
import sys
import traceback
from pathlib import Path
from random import Random
from time import process_time
from typing import Any

from flare_runtime.errors import FlareError
from tests.fuzz.door import Door, open_door
from tests.processes import memory_bytes, reset_peak_memory

# What one input may take, of address space and of memory, beyond what the process had when the door was open.
MEMORY_BYTES = 2 << 30
_PACKAGES = ("flare_runtime", "flare_export", "flare_eval", "flare_train")


def main() -> None:
    """Serve tasks from standard input: the index of an input to make, or the path of one to enter as it is."""
    name, workspace, folder, seed = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # crashes are expected, and their dumps would fill the disk
    door = open_door(name, Path(workspace))
    space = memory_bytes("VmSize") + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (space, space))
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        task = json.loads(line)
        made = isinstance(task, int)
        path = _made(door, Random(f"{name} {seed} {task}"), Path(folder)) if made else Path(task)
        print(json.dumps(_entered(door, path)), file=answers, flush=True)


def _made(door: Door, rng: Random, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    path = door.make(rng, folder)
    entries = list(folder.iterdir())
    if entries != [path]:
        raise RuntimeError(f"the door made {path}, its folder holds {entries}")
    return path


def _entered(door: Door, path: Path) -> dict[str, Any]:
    reset_peak_memory()
    before = memory_bytes("VmRSS")
    started = process_time()
    kind, signature, detail = "success", "", ""
    try:
        door.enter(path)
    except FlareError as error:
        kind, signature, detail = "refused", type(error).__name__, str(error)
    except MemoryError as error:
        kind, signature, detail = "memory", _signature(error), traceback.format_exc()
    except BaseException as error:
        kind, signature, detail = "traceback", _signature(error), traceback.format_exc()
    seconds = process_time() - started
    grown = memory_bytes("VmHWM") - before
    if grown > MEMORY_BYTES and kind in ("success", "refused"):
        kind, signature, detail = "memory", kind, f"took {grown >> 20} MiB, then {kind}: {detail}"
    return {"kind": kind, "signature": signature, "detail": detail, "seconds": seconds, "grown_mib": grown >> 20}


def _signature(error: BaseException) -> str:
    """Return what tells one cause from another: the exception and the innermost function of ours that it left."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if any(package in frame.filename for package in _PACKAGES)]
    inner = (ours or frames)[-1]
    return f"{type(error).__name__}-{Path(inner.filename).stem}-{inner.name}".replace("<", "").replace(">", "")


if __name__ == "__main__":
    main()
