"""A mask and its record are there together or not at all, and no mask of an earlier run beside a failure."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest

from flare_runtime.cases.case import Case
from flare_runtime.cases.fingerprints import sha256_of
from flare_runtime.errors import OutputError
from flare_runtime.files.output import StagedFile, check_folder
from flare_runtime.imaging.read import read_volume
from flare_runtime.run.commit import commit_failure
from flare_runtime.run.record import failed_record
from tests.processes import fork
from tests.runtime.commits import commit, killed_at, names, new_case, read_record, refused


@pytest.fixture
def case(tmp_path):
    return new_case(tmp_path)


def test_a_result_is_a_mask_and_a_record_of_it(case):
    for value in (1, 2):  # the second replaces the first
        record = commit(case, value)
        assert names(case) == ["a.json", "a.nii.gz"]
        assert (read_volume(case.mask).voxels == value).all()
        assert read_record(case) == record
        assert record.mask_sha256 == sha256_of(case.mask)


@pytest.mark.parametrize("end", [".nii.gz", ".nii"])
def test_a_name_as_long_as_the_file_system_has_them(case, end):
    long = Case("a", case.images, case.mask.with_name("x" * (255 - len(end)) + end))
    commit(long, 1)
    record = commit(long, 2)
    assert read_record(long) == record
    assert len(names(long)) == 2
    record = commit_failure(long, refused())
    assert [remark.code for remark in record.remarks] == ["stale_mask"]
    assert names(long) == sorted([long.record.name, long.stale.name])
    assert all(len(name) == 255 for name in (long.mask.name, long.stale.name))


@pytest.mark.parametrize("blocked", ["mask", "record"])
def test_where_one_cannot_be_written_neither_is_there(case, blocked):
    getattr(case, blocked).mkdir()
    with pytest.raises(OutputError, match=f"{getattr(case, blocked).name}: is a folder"):
        commit(case, 1)
    assert names(case) == [getattr(case, blocked).name]


@pytest.mark.parametrize("blocked", ["mask", "record"])
def test_an_earlier_result_is_not_left_as_a_mask_without_a_record(case, blocked):
    commit(case, 1)
    getattr(case, blocked).unlink()
    getattr(case, blocked).mkdir()
    with pytest.raises(OutputError):
        commit(case, 2)
    record = commit_failure(case, failed_record("a", OutputError("disk full")))
    assert not (case.mask.is_file() and case.record.is_file())
    assert f"{getattr(case, blocked).name}: is a folder" in record.message


@pytest.mark.parametrize("fails", ["mask", "record"])
@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()])
def test_an_error_between_the_two_leaves_neither(case, monkeypatch, fails, error):
    commit(case, 1)
    replace = type(case.mask).replace

    def failing(path, target):
        if target == getattr(case, fails):
            raise error
        return replace(path, target)

    monkeypatch.setattr(type(case.mask), "replace", failing)
    with pytest.raises((OutputError, KeyboardInterrupt)):
        commit(case, 2)
    # What is left of the earlier result, if anything, is no mask with a record.
    assert names(case) == (["a.nii.gz"] if fails == "mask" else [])
    assert not case.mask.exists() or (read_volume(case.mask).voxels == 1).all()


@pytest.mark.parametrize(("during", "left"), [("mask", []), ("record", ["a.json", "a.nii.gz"])])
def test_ctrl_c_while_a_name_is_taken_leaves_both_or_neither(case, monkeypatch, during, left):
    commit(case, 1)
    replace = type(case.mask).replace

    def interrupted(path, target):
        replace(path, target)
        if target == getattr(case, during):
            raise KeyboardInterrupt

    monkeypatch.setattr(type(case.mask), "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        commit(case, 2)
    assert names(case) == left
    assert not left or read_record(case).mask_sha256 == sha256_of(case.mask)


# A disk that fills up, at a byte of its own, while a result is replaced.
FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
from flare_runtime.cases.case import Case
from flare_runtime.run.commit import commit_failure, stage_result
from flare_runtime.errors import OutputError
from flare_runtime.imaging.read import read_volume
from flare_runtime.run.record import CaseRecord, failed_record

source, mask, room = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
case = Case("a", {0: source}, mask)
template = read_volume(source).template
labels = np.random.default_rng(0).integers(0, 256, (20, 20, 20)).astype(np.uint8)
resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
try:
    record = CaseRecord(case="a", status="done", inputs=["x" * 20_000])
    stage_result(case, labels, template, lambda digest: record).commit()
except OutputError as error:
    print(error)
    print(commit_failure(case, failed_record("a", error)).message)
"""


@pytest.mark.parametrize(("room", "culprit"), [(1000, "a.nii.gz"), (15_000, "a.json")])
def test_a_disk_that_fills_up_leaves_the_record_of_the_failure_and_no_mask(case, room, culprit):
    commit(case, 1)
    command = [sys.executable, "-c", FULL_DISK, case.images[0], case.mask, str(room)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    cannot, message = run.stdout.splitlines()
    assert cannot == f"{case.mask.with_name(culprit)}: cannot be written (File too large)"
    assert names(case) == ["a.json", "a.stale.nii.gz"]
    assert read_record(case).message == message == cannot


def test_a_kill_at_any_step_leaves_no_record_beside_another_mask(case):
    step, killed = 0, True
    while killed:
        step += 1
        before = commit(case, 1)
        killed = killed_at(step, lambda: commit(case, 2))
        labels = set(np.unique(read_volume(case.mask).voxels))
        assert labels in ({1}, {2})
        if case.record.exists():
            assert labels == ({1} if read_record(case) == before else {2})
        check_folder(case.mask.parent)
        assert set(names(case)) <= {"a.json", "a.nii.gz"}
    assert step > 6


def test_a_kill_at_any_step_of_a_refusal_leaves_no_record_of_a_mask_that_is_gone(case):
    step, killed = 0, True
    while killed:
        step += 1
        commit(case, 1)
        killed = killed_at(step, lambda: commit_failure(case, refused()))
        if case.record.exists() and read_record(case).status == "done":
            assert case.mask.exists()
    assert step > 5
    check_folder(case.mask.parent)
    assert names(case) == ["a.json", "a.stale.nii.gz"]


def test_of_two_processes_the_record_is_of_the_one_whose_mask_is_there(case):
    renames = iter(("mask", "record"))

    def wait(event, _arguments):
        if event == "os.rename" and next(renames) == "record":
            (case.mask.parent / "between").touch()
            time.sleep(0.3)

    def work():
        sys.addaudithook(wait)
        commit(case, 1)

    first = fork(work)
    deadline = time.monotonic() + 120
    while not (case.mask.parent / "between").exists():
        assert time.monotonic() < deadline
        time.sleep(0.001)
    commit(case, 2)
    assert os.waitpid(first, 0)[1] == 0
    assert read_record(case).mask_sha256 == sha256_of(case.mask)


def test_a_folder_that_a_parent_has_locked_does_not_stop_the_run(case, monkeypatch):
    monkeypatch.setattr("flare_runtime.run.commit._WAIT_S", 0.1)
    with subprocess.Popen(["flock", case.mask.parent, "sleep", "60"]) as holder:
        time.sleep(0.5)
        commit(case, 1)
        holder.kill()
    assert names(case) == ["a.json", "a.nii.gz"]


def test_a_mask_whose_temporary_vanished_leaves_the_earlier_one(case, monkeypatch):
    commit(case, 1)
    settle = StagedFile.settle

    def vanish(self):
        settle(self)
        if self.target == case.mask:
            kept.append(self.path.read_bytes())
        elif kept:
            for path in case.mask.parent.glob(".*.flare-tmp"):
                path.unlink()

    kept = []
    before = case.mask.read_bytes()
    monkeypatch.setattr(StagedFile, "settle", vanish)
    with pytest.raises(OutputError):
        commit(case, 2)
    assert case.mask.read_bytes() == before


def test_a_refusal_is_a_record_and_an_earlier_mask_is_set_aside(case):
    commit(case, 1)
    for _ in range(2):
        record = commit_failure(case, refused())
        assert names(case) == ["a.json", "a.stale.nii.gz"]
        assert (read_volume(case.stale).voxels == 1).all()
        assert read_record(case) == record
        assert (record.status, record.reason, record.message) == ("refused", "truncated", "cut short")
        assert record.inputs == [str(case.images[0])]
    commit(case, 2)
    record = commit_failure(case, refused())
    assert (read_volume(case.stale).voxels == 2).all()
    assert [remark.code for remark in record.remarks] == ["stale_mask"]
    assert record.line == "a: refused (truncated): cut short; note: the mask of an earlier run is now a.stale.nii.gz"


def test_a_mask_that_cannot_be_set_aside_is_said(case):
    commit(case, 1)
    case.stale.mkdir()
    record = commit_failure(case, refused())
    assert record.message == f"cut short; {case.stale}: is a folder; name a file"
    assert read_record(case) == record


def test_the_mask_beside_is_not_touched_through_a_link(case):
    precious = case.mask.parent.parent / "precious.nii.gz"
    precious.write_bytes(b"precious")
    case.mask.symlink_to(precious)
    os.mkfifo(case.record)
    record = commit_failure(case, refused())
    assert "a.json: is a named pipe" in record.message
    assert "a.nii.gz: is a symbolic link" in record.message
    assert precious.read_bytes() == b"precious"
