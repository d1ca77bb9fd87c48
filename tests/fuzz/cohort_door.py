"""The door of what other runs left in an output folder: told by `status`, merged, and resumed."""

import contextlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

from flare_runtime.cases.record_format import is_record, is_report, mask_in_record
from flare_runtime.cohort.cases_table import is_case_table
from flare_runtime.cohort.merge import merge
from flare_runtime.cohort.status import Expected, status_of
from flare_runtime.cohort.status_text import content_of, lines_of
from flare_runtime.errors import FlareError
from flare_runtime.files.lease_file import MOST_BYTES, lease_path
from flare_runtime.files.naming import visible
from flare_runtime.files.this_process import process_id
from flare_runtime.imaging.dicom.own_objects import is_structured_report
from flare_runtime.imaging.png import is_own_png
from flare_runtime.imaging.probabilities import is_probabilities
from flare_runtime.imaging.read import read_volume
from flare_runtime.imaging.write import is_mask
from flare_runtime.model.bundle import Bundle
from flare_runtime.options import RunOptions
from flare_runtime.pictures.page_head import is_page
from flare_runtime.run.lesion_table import is_table
from flare_runtime.run.record import CaseRecord, read_record
from flare_runtime.run.resume import ResumeRules
from flare_runtime.run.session import Session
from tests.fuzz.cohort_inputs import BUNDLE, CASES, SYSTEM, Files, odd_results, write_results
from tests.fuzz.nifti_door import MAX_VOXELS
from tests.runtime.nifti_files import blobs, write_nifti

COUNT = 4_000
_KINDS: tuple[Callable[[bytes], object], ...] = (
    *(is_record, is_report, mask_in_record, is_table, is_case_table, is_mask, is_structured_report),
    *(is_probabilities, is_own_png, is_page),
)
_SYSTEM = process_id().rsplit("/", 2)[0].encode()
# Of all images; a record says it.
_CHANGED_NS = 1_700_000_000_000_000_000


class CohortDoor:
    """Lets every command look at a folder of results, and a run take it up."""

    def __init__(self, bundle: Path) -> None:
        options = RunOptions(device="cpu", precision="fp32", threads=1, max_voxels=MAX_VOXELS)
        self._session = Session(Bundle.open(bundle), options)
        self._bundle_sha256 = self._session.bundle.sha256.encode()
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder, "out")
            drawing = Session(self._session.bundle, replace(options, preview=True, page=True, probabilities="input"))
            for session in (drawing, self._session):  # the latter's records
                list(_run(session, Path(folder), out))
            self.sound = self._read(out)

    def make(self, rng: Random, folder: Path) -> Path:
        """Write an odd folder of results."""
        return odd_results(rng, self.sound, folder / "out")

    def enter(self, path: Path) -> None:
        """Look at it, and resume."""
        with tempfile.TemporaryDirectory(prefix="flare-fuzz-") as folder:
            place = Path(folder)
            out = self._copy(path, place / "out")
            refusals = [
                _refusal(lambda: _look(out)),
                _refusal(lambda: _merge(out, place / "cases.csv", place / "lesions.csv")),
                _refusal(lambda: self._resume(place, out)),
            ]
        for refusal in refusals:
            if refusal:
                raise refusal

    def _resume(self, place: Path, out: Path) -> None:
        records = _run(self._session, place, out)
        done = {record.case for record in records if record.status == "done"}
        assert {record.case for record in records} <= set(CASES)
        for case in done:
            assert read_volume(out / f"{case}.nii.gz").voxels.any()
            record = read_record(out / f"{case}.json")
            assert record, f"{case}: is done and has no record"
            assert record.status == "done"
            assert not _leases(out, case), _leases(out, case)
        json.loads((place / "report.json").read_bytes())

    def _read(self, out: Path) -> Files:
        files = {path.name: path.read_bytes() for path in sorted(out.iterdir())}
        return {name: data.replace(self._bundle_sha256, BUNDLE) for name, data in files.items()}

    def _copy(self, path: Path, out: Path) -> Path:
        shutil.copytree(path, out, symlinks=True)
        for entry in out.rglob("*"):
            if entry.is_file():
                content = entry.read_bytes()
                entry.write_bytes(content.replace(BUNDLE, self._bundle_sha256).replace(SYSTEM, _SYSTEM))
            if entry.name.endswith(".flare-lease"):
                os.utime(entry, (0, 0), follow_symlinks=False)  # of a worker that is no more, or all would wait for it
        return out


def _run(session: Session, place: Path, out: Path) -> list[CaseRecord]:
    (place / "in").mkdir(exist_ok=True)
    for number, case in enumerate(CASES):
        voxels = blobs((16, 16, 16), number)
        scan = write_nifti(place / "in" / f"{case}_0000.nii", voxels, spacing_mm=(2.5, 1.5, 1.5))
        os.utime(scan, ns=(_CHANGED_NS, _CHANGED_NS))
    report, lesions, rules = place / "report.json", out / "lesions.csv", ResumeRules()
    return list(session.run(place / "in", out, report=report, lesions=lesions, resume=rules))


def _leases(out: Path, case: str) -> list[str]:
    """Return the leases of a case that should have gone; none where something else has the name of one."""
    every = list(out.glob(f".{case}.nii.gz.*.flare-lease"))
    if any(path.is_symlink() or not path.is_file() or path.stat().st_size > MOST_BYTES for path in every):
        return []
    first = lease_path(out / f"{case}.nii.gz", 1)
    return [path.name for path in every] if first in every else []


def _look(out: Path) -> None:
    for entry in out.iterdir():
        data = entry.read_bytes() if entry.is_file() else b""
        for is_of_kind in _KINDS:
            is_of_kind(data)
    status = status_of(out, 5, [Expected(case, f"{out}/{case}.json") for case in CASES])
    json.dumps(content_of(status)).encode()
    for line in lines_of(status):
        assert visible(line) == line


def _merge(out: Path, cases: Path, lesions: Path) -> None:
    with contextlib.redirect_stderr(io.StringIO()):
        merged = merge(out, cases, lesions)
    assert is_case_table(cases.read_bytes())
    assert is_table(lesions.read_bytes())
    assert all(visible(line) == line for line in merged.unreadable), merged.unreadable


def _refusal(work: Callable[[], None]) -> FlareError | None:
    try:
        work()
    except FlareError as error:
        return error
    return None


def open_door(workspace: Path) -> CohortDoor:
    """Return the door, its network loaded."""
    door = CohortDoor(workspace / "bundle")
    with tempfile.TemporaryDirectory() as folder:
        door.enter(write_results(door.sound, Path(folder, "out")))
    return door
