"""The files of leases: what else may lie under their names, whose clock counts, and who takes no notice of them."""

import os
import resource
import time
from pathlib import Path

import pytest

from flare_runtime.cases.input_folder import find_channels, find_images
from flare_runtime.errors import OutputError, UsageError
from flare_runtime.files.lease import Leases, holder_of, is_lease_name, lease_path
from flare_runtime.files.output import check_folder
from flare_runtime.imaging.file_names import is_image_name, is_mask_name
from tests.processes import fork

ELSEWHERE = b'{"token":"a","process":"elsewhere/pid:[1]/7/9","host":"node\\u001b[31m","since":"2026-01-01T00:00:00Z"}'


@pytest.fixture
def target(tmp_path):
    return tmp_path / "case.nii.gz"


@pytest.fixture
def leases():
    ours = Leases()
    yield ours
    ours.close()


def write(target, content=ELSEWHERE, age_s=0.0):
    path = lease_path(target, 1)
    path.write_bytes(content)
    set_age(path, age_s)
    return path


def set_age(path, age_s):
    then_s = time.time() - age_s
    os.utime(path, (then_s, then_s), follow_symlinks=False)


def link(path):
    path.with_name("linked").write_bytes(ELSEWHERE)
    path.symlink_to(path.with_name("linked"))


def large(path):
    with path.open("wb") as file:
        file.truncate(1 << 30)


# What may lie there, and whether it is left there.
FOREIGN = {
    "empty": (Path.touch, False),
    "half": (lambda path: path.write_bytes(ELSEWHERE[:40]), False),
    "no JSON": (lambda path: path.write_bytes(b"\xff\x00"), False),
    "other JSON": (lambda path: path.write_bytes(b'{"token":1,"process":[]}'), False),
    "deep JSON": (lambda path: path.write_bytes(b'{"x":' + b"[" * 4000), False),
    "large": (large, True),
    "folder": (Path.mkdir, True),
    "link": (link, True),
    "link to nothing": (lambda path: path.symlink_to("nothing"), True),
    "link to itself": (lambda path: path.symlink_to(path), True),
    "pipe": (lambda path: os.mkfifo(path), True),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_of_what_is_no_lease_the_age_alone_counts(target, leases, kind):
    make, stays = FOREIGN[kind]
    path = lease_path(target, 1)
    make(path)
    before = path.lstat()
    assert leases.take(target) is None
    assert holder_of(path).is_alive
    set_age(path, 91)
    assert not holder_of(path).is_alive
    assert holder_of(path).process == ""
    taken = leases.take(target)
    assert taken.generation == 2
    leases.release(taken)
    assert os.path.lexists(path) == stays
    assert not os.path.lexists(lease_path(target, 2))
    if stays:
        assert os.path.samestat(path.lstat(), before)
    if kind == "link":
        assert path.with_name("linked").read_bytes() == ELSEWHERE


@pytest.mark.parametrize("off_s", [-1e8, 0.0, 1e8])
@pytest.mark.parametrize(("age_s", "is_free"), [(-60, False), (0, False), (80, False), (100, True), (1e8, True)])
def test_the_clock_of_the_file_system_counts_alone(target, leases, monkeypatch, age_s, is_free, off_s):
    write(target, age_s=age_s)
    here = time.time
    monkeypatch.setattr(time, "time", lambda: here() + off_s)
    assert (leases.take(target) is not None) == is_free


def test_what_was_touched_in_the_future_is_dead_when_that_does_not_change(target):
    leases = Leases(dead_after_s=0.2)
    path = write(target, age_s=-1e6)
    assert leases.take(target) is None
    time.sleep(0.3)
    set_age(path, -1e6)
    assert leases.take(target) is None
    time.sleep(0.3)
    assert leases.take(target).generation == 2
    leases.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_of_what_must_not_be_read_the_age_counts(target, leases):
    path = write(target)
    path.chmod(0o200)
    assert leases.take(target) is None
    set_age(path, 91)
    assert leases.take(target).generation == 2


def test_what_a_lease_of_another_machine_says_is_fit_to_be_shown(target):
    holder = holder_of(write(target, age_s=30))
    assert holder.host == "node\\x1b[31m"
    assert holder.since == "2026-01-01T00:00:00Z"
    assert holder.is_alive
    assert 29 < holder.age_s < 90


def refused(folder, before):
    """Try to take a lease in a process that does something first; return what it is told."""
    reading, writing = os.pipe()

    def work():
        os.chdir(folder)
        before()
        with pytest.raises(OutputError) as error:
            Leases().take(Path("case"))
        os.write(writing, str(error.value).encode())

    assert os.waitpid(fork(work), 0)[1] == 0
    os.close(writing)
    with os.fdopen(reading) as told:
        return told.read()


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path):
    told = refused(tmp_path, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (40, 40)))
    assert told == "case: cannot be written (its lease: File too large)"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_to_is_told(tmp_path):
    tmp_path.chmod(0o555)
    told = refused(tmp_path, lambda: os.geteuid() or os.setuid(65534))
    assert told == "case: cannot be written (its lease: Permission denied)"


@pytest.mark.parametrize("name", [b"a" * 255, b"\xff\n" * 127, "ö".encode() * 127, b"x", b".hidden.nii.gz", b"-x 1.1"])
def test_every_name_has_a_lease_of_its_own(tmp_path, leases, name):
    target = tmp_path / os.fsdecode(name)
    other = tmp_path / os.fsdecode(name[:-1] + b"_")
    taken = [leases.take(target), leases.take(other)]
    assert all(one.is_held() for one in taken)
    assert [is_lease_name(path.name) for path in tmp_path.iterdir()] == [True, True]
    path = lease_path(target, 1)
    assert holder_of(path).generation == 1
    os.utime(path, (0, 0))
    path.write_bytes(ELSEWHERE)
    set_age(path, 100)
    assert holder_of(lease_path(target, leases.take(target).generation)).generation == 2


def test_a_lease_is_no_image_no_mask_and_no_leftover(tmp_path, leases):
    leases.take(tmp_path / "case_0000.nii.gz")
    (name,) = (path.name for path in tmp_path.iterdir())
    assert name == ".case_0000.nii.gz.1.flare-lease"
    assert not is_image_name(name)
    assert not is_mask_name(name)
    check_folder(tmp_path)
    assert (tmp_path / name).exists()
    with pytest.raises(UsageError, match=r"holds no .* file$"):
        find_images(tmp_path, tmp_path / "out")
    (tmp_path / "case_0000.nii.gz").touch()
    assert find_images(tmp_path, tmp_path / "out") == [tmp_path / "case_0000.nii.gz"]
    assert find_channels(tmp_path / "case_0000.nii.gz", 2) == ("case", {0: tmp_path / "case_0000.nii.gz"})


@pytest.mark.parametrize("name", [".a.1.flare-lease", ".a.nii.gz.999999999.flare-lease", ". .1.flare-lease"])
def test_names_of_leases(name):
    assert is_lease_name(name)


NO_LEASES = ["a.1.flare-lease", ".1.flare-lease", ".a.0.flare-lease", ".a.01.flare-lease", ".a.1.flare-lease.nii", ".a"]


@pytest.mark.parametrize("name", NO_LEASES)
def test_names_of_no_leases(name):
    assert not is_lease_name(name)
