"""Reading voxels in a process of its own, where the one decoder of an encoding may end the process it runs in."""

import json
import pickle
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from flare_runtime.compute.arrays import AnyArray
from flare_runtime.errors import CaseError
from flare_runtime.imaging.dicom.headers import Slice

# Isolated, so that no module comes from the current folder; the paths are those of this process.
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from flare_runtime.imaging.dicom.apart import answer; answer()"
)


def read_voxels_apart(slices: Sequence[Slice], wanted: slice) -> AnyArray:
    """Return what `read_voxels` does, from a process that may end without harm.

    Raises:
        CaseError: as `read_voxels`; `corrupt` where the process ends by itself.
    """
    command = [sys.executable, "-I", "-c", _PROGRAM, json.dumps(sys.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            return _ask(process, slices, wanted)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
            text = f"the decoder of {slices[0].file.name} and the other files ended at damaged pixels; export them anew"
            raise CaseError("corrupt", text) from error
        finally:
            process.kill()


def _ask(process: "subprocess.Popen[bytes]", slices: Sequence[Slice], wanted: slice) -> AnyArray:
    assert process.stdin
    assert process.stdout
    with process.stdin as questions:
        pickle.dump((list(slices), wanted), questions)
    problem, dtype, shape = pickle.load(process.stdout)
    if problem:
        raise CaseError(*problem)
    voxels: np.ndarray[Any, Any] = np.zeros(shape, dtype)
    view, filled = voxels[wanted].reshape(-1).view(np.uint8).data, 0
    while filled < len(view):
        count = process.stdout.readinto(view[filled:])  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        filled += count
    return voxels


def answer() -> None:
    """Read the slices that standard input names, and write their voxels, or what is wrong with them, to its output."""
    from flare_runtime.imaging.dicom.pixels import decode

    slices, wanted = pickle.load(sys.stdin.buffer)
    output = sys.stdout.buffer
    try:
        voxels = decode(slices, wanted)
    except CaseError as error:
        pickle.dump(((error.reason, str(error)), None, None), output)
        return
    pickle.dump((None, voxels.dtype.str, voxels.shape), output)
    output.write(voxels[wanted].data)
    output.flush()
