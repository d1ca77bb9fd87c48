"""A mask and its record are there together or not at all, and no mask of an earlier run beside a failure."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from flare_runtime.cases.case import Case
from flare_runtime.cases.fingerprints import sha256_of
from flare_runtime.errors import CaseError, OutputError
from flare_runtime.files.output import StagedFile, check_folder
from flare_runtime.imaging.read import read_volume
from flare_runtime.run.commit import commit_failure, stage_result
from flare_runtime.run.record import CaseRecord, failed_record
from tests.processes import fork
from tests.runtime.nifti_files import noise, write_nifti

SHAPE = (4, 5, 6)


@pytest.fixture
def case(tmp_path):
    source = write_nifti(tmp_path / "a_0000.nii.gz", noise(SHAPE))
    (tmp_path / "out").mkdir()
    return Case("a", {0: source}, tmp_path / "out" / "a.nii.gz")


def commit(case, value):
    def record_of(mask_sha256):
        inputs = [str(path) for path in case.places]
        return CaseRecord(case="a", status="done", inputs=inputs, mask=str(case.mask), mask_sha256=mask_sha256)

    template = read_volume(case.images[0]).template
    return stage_result(case, np.full(SHAPE, value, np.uint8), template, record_of).commit()


def read_record(case):
    return msgspec.json.decode(case.record.read_bytes(), type=CaseRecord)


def names(case):
    return sorted(path.name for path in case.mask.parent.iterdir())


def refused():
    return failed_record("a", CaseError("truncated", "cut short"))


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


@pytest.fixture
def both(case):
    """The case with its mask in a second format."""
    return replace(case, others=(case.mask.with_name("a.nii"),))


@pytest.fixture
def plain(case):
    """The case with its mask in that format alone."""
    return replace(case, mask=case.mask.with_name("a.nii"))


def labels_in(path):
    return set(np.unique(read_volume(path).voxels)) if path.exists() else set()


def test_a_mask_in_a_format_that_is_not_written_goes_with_the_result_it_is_of(case, both, plain):
    commit(both, 1)
    assert names(case) == ["a.json", "a.nii", "a.nii.gz"]
    record = commit(case, 2)
    assert (names(case), record.remarks) == (["a.json", "a.nii.gz"], [])
    commit(plain, 3)
    assert names(case) == ["a.json", "a.nii"]
    commit(case, 4)
    assert names(case) == ["a.json", "a.nii.gz"]


@pytest.mark.parametrize("now", ["commit", "refusal"])
def test_what_was_changed_since_stays_and_is_said(case, both, now):
    commit(both, 1)
    edited = both.others[0]
    content = edited.read_bytes()[:-1] + b"\2"
    edited.write_bytes(content)
    record = commit(case, 2) if now == "commit" else commit_failure(case, refused())
    assert edited.read_bytes() == content
    assert read_record(case) == record
    text = "a.nii is of an earlier run and stays, as it was changed since"
    assert (record.remarks[0].code, record.remarks[0].text) == ("other_result", text)


def test_the_mask_of_another_image_stays_and_is_said(case, plain):
    commit(plain, 1)
    other = replace(case, images={0: write_nifti(case.images[0].with_name("b.nii.gz"), noise(SHAPE))})
    (remark,) = commit(other, 2).remarks
    assert remark.text == "a.nii is of an earlier run and stays, as it is of another image"
    assert labels_in(plain.mask) == {1}


def test_what_no_record_names_stays(case):
    stranger = case.mask.with_name("a.nii")
    stranger.write_bytes(b"of somebody else")
    (case.mask.with_name("a.seg.dcm")).symlink_to(stranger)
    commit(case, 1)
    assert commit(case, 2).remarks == []
    assert stranger.read_bytes() == b"of somebody else"
    assert names(case) == ["a.json", "a.nii", "a.nii.gz", "a.seg.dcm"]


@pytest.mark.parametrize("way", ["path", "link", "hard link"])
def test_an_earlier_mask_that_is_the_image_now_stays(plain, way):
    commit(plain, 1)
    image, case_image = plain.mask, plain.images[0]
    if way != "path":
        image = case_image.parent / "other" / case_image.name  # by which the record knows its image
        image.parent.mkdir()
        (image.hardlink_to if way == "hard link" else image.symlink_to)(plain.mask)
    case = replace(plain, images={0: image}, mask=plain.mask.with_name("a.nii.gz"))
    commit(case, 2)
    assert labels_in(plain.mask) == {1}
    commit_failure(case, refused())
    assert labels_in(plain.mask) == {1}


def test_of_a_refusal_every_format_is_set_aside(case, both, plain):
    commit(both, 1)
    record = commit_failure(case, refused())
    assert names(case) == ["a.json", "a.stale.nii", "a.stale.nii.gz"]
    assert [remark.text[-12:] for remark in record.remarks] == [" a.stale.nii", "stale.nii.gz"]
    commit(plain, 2)
    commit_failure(case, refused())
    assert labels_in(case.mask.with_name("a.stale.nii")) == {2}
    assert "a.nii" not in names(case)


@pytest.mark.parametrize("earlier", ["both", "plain"])
@pytest.mark.parametrize("now", ["commit", "refusal"])
def test_a_kill_at_any_step_leaves_no_format_beside_another_mask(case, earlier, now, request):
    earlier, step, killed = request.getfixturevalue(earlier), 0, True
    other = case.mask.with_name("a.nii")
    while killed:
        step += 1
        for path in case.mask.parent.iterdir():
            path.unlink()
        before = commit(earlier, 1)
        killed = killed_at(step, lambda: commit(case, 2) if now == "commit" else commit_failure(case, refused()))
        record = read_record(case) if case.record.exists() else None
        if record == before:  # never without its mask
            assert labels_in(earlier.mask) == {1}
        elif record:
            assert labels_in(case.mask) == ({2} if now == "commit" else set())
        if 2 in labels_in(case.mask) or (record and record != before):
            assert not other.exists()
        if other.exists() and earlier.others:  # else the next run would not know what it is
            assert record == before
    assert step > 7


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
