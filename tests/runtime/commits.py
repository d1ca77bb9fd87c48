"""Commits a case by itself, with masks of one value, and kills who does."""

import os
import signal
import sys

import msgspec
import numpy as np

from flare_runtime.cases.case import Case
from flare_runtime.cases.fingerprints import sha256_of
from flare_runtime.errors import CaseError
from flare_runtime.imaging.read import read_volume
from flare_runtime.run.commit import stage_result
from flare_runtime.run.record import CaseRecord, failed_record
from tests.processes import fork
from tests.runtime.nifti_files import noise, write_nifti

SHAPE = (4, 5, 6)


def new_case(folder):
    source = write_nifti(folder / "a_0000.nii.gz", noise(SHAPE))
    (folder / "out").mkdir()
    return Case("a", {0: source}, folder / "out" / "a.nii.gz")


def commit(case, value):
    def record_of(mask_sha256):
        return CaseRecord(
            case="a",
            status="done",
            inputs=[str(path) for path in case.places],
            inputs_sha256=[sha256_of(path) for path in case.files],
            mask=str(case.mask),
            mask_sha256=mask_sha256,
        )

    template = read_volume(case.images[0]).template
    return stage_result(case, np.full(SHAPE, value, np.uint8), template, record_of).commit()


def read_record(case):
    return msgspec.json.decode(case.record.read_bytes(), type=CaseRecord)


def names(case):
    return sorted(path.name for path in case.mask.parent.iterdir())


def refused():
    return failed_record("a", CaseError("truncated", "cut short"))


def killed_at(step, write):
    """Call `write` in a process that is killed at that step, and return whether it was."""
    seen = iter(range(1, 1000))

    def kill(event, _arguments):
        if event in ("open", "os.rename", "os.remove") and next(seen) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    def work():
        sys.addaudithook(kill)
        write()

    code = os.waitstatus_to_exitcode(os.waitpid(fork(work), 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code != 0
