"""Temporaries are swept when their maker is gone, whatever its name, pid or host, and never before."""

import fcntl
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from flare_runtime.errors import OutputError
from flare_runtime.files.output import check_folder
from flare_runtime.files.temporary import remove_ours, sweep, system_mark, temporary_file, temporary_folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# Makes a file and a folder, says so, and then waits.
MAKER = """
import sys, time
from pathlib import Path
from flare_runtime.files.temporary import temporary_file, temporary_folder
with temporary_folder(Path(sys.argv[1])) as folder, temporary_file(Path(sys.argv[1])) as (path, file):
    (folder / "inside").mkdir()
    (folder / "inside" / "network.onnx").write_bytes(b"half")
    file.write(b"half")
    file.flush()
    print("made", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def make():
    """A function that starts a process that holds a temporary file and folder in a folder."""
    started = []

    def start(folder, **options):
        command = [sys.executable, "-c", MAKER, folder]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)
        started.append(process)
        assert process.stdout.readline() == "made\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_what_a_killed_process_leaves_is_swept_and_what_a_living_one_holds_is_not(tmp_path, make):
    living, killed = make(tmp_path), make(tmp_path)
    held = names(tmp_path)
    assert len(held) == 4
    killed.kill()
    killed.communicate()
    assert names(tmp_path) == held
    check_folder(tmp_path)
    assert len(names(tmp_path)) == 2
    living.communicate("")
    assert living.returncode == 0
    assert names(tmp_path) == []


# Starts processes until one has the pid of its first argument, in a namespace of pids of its own.
REUSE = """
import os, subprocess, sys
from pathlib import Path
command = [sys.executable, "-c", sys.argv[2], sys.argv[1]]
maker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
maker.stdout.readline()
maker.kill()
maker.wait()
Path("/proc/sys/kernel/ns_last_pid").write_text(str(maker.pid - 1))
again = subprocess.Popen(["sleep", "60"])
assert again.pid == maker.pid, (again.pid, maker.pid)
from flare_runtime.files.output import check_folder
check_folder(Path(sys.argv[1]))
again.kill()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may choose the next pid")
def test_a_pid_that_lives_again_keeps_nothing(tmp_path):
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", REUSE, str(tmp_path), MAKER]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode and "unshare" in run.stderr:
        pytest.skip(run.stderr)
    assert run.returncode == 0, run.stderr
    assert names(tmp_path) == []


# As in two containers: one host name, one pid, one folder.
TWIN = """
import os, sys
from pathlib import Path
from flare_runtime.files.output import check_folder, replacing
folder = Path(sys.argv[1])
assert os.getpid() == 1
for number in range(50):
    check_folder(folder)
    with replacing(folder / "mask.nii.gz") as file:
        file.write(sys.argv[2].encode() * 100_000)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a namespace of pids")
def test_two_containers_with_one_host_name_and_one_pid_do_not_disturb_each_other(tmp_path):
    command = ["unshare", "--pid", "--fork", sys.executable, "-c", TWIN, str(tmp_path)]
    twins = [subprocess.Popen([*command, sign], stderr=subprocess.PIPE, text=True) for sign in "ab"]
    errors = [twin.communicate()[1] for twin in twins]
    if any("unshare" in error for error in errors):
        pytest.skip(errors[0])
    assert errors == ["", ""]
    assert names(tmp_path) == ["mask.nii.gz"]
    assert (tmp_path / "mask.nii.gz").read_bytes() in (b"a" * 100_000, b"b" * 100_000)


def test_only_our_own_temporaries_are_swept(tmp_path):
    ours = f".{system_mark(tmp_path)}{'0a' * 12}.flare-tmp"
    kept = [ours[1:], f".case.nii.gz{ours}", ".0a.flare-tmp", f"{ours}.nii.gz", ".hidden", "case.nii.gz"]
    for name in (ours, *kept):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_bytes(b"precious")
    links = [f".{system_mark(tmp_path)}{number * 12}.flare-tmp" for number in ("0b", "0c")]
    for link, target in zip(links, ("precious", "precious/file"), strict=True):
        (tmp_path / link).symlink_to(tmp_path / target)
    sweep(tmp_path)
    assert names(tmp_path) == sorted([*kept, "precious", *links])
    assert names(tmp_path / "precious") == ["file"]


def test_without_another_systems_locks_age_decides(tmp_path):
    fresh, old = (tmp_path / f".{digit * 32}.flare-tmp" for digit in "0a")
    for path in (fresh, old):
        path.write_bytes(b"")
    os.utime(old, (time.time() - 25 * 3600,) * 2)
    sweep(tmp_path)
    assert names(tmp_path) == [fresh.name]


def test_without_the_locks_of_another_mount_age_decides(tmp_path, monkeypatch):
    with temporary_file(tmp_path) as (path, file):
        file.close()  # as if its lock could not be seen
        stat = Path.stat

        def on_another_mount(place, **options):
            status = stat(place, **options)
            return os.stat_result((*status[:2], status.st_dev + 1, *status[3:])) if place == tmp_path else status

        with monkeypatch.context() as patch:
            patch.setattr(Path, "stat", on_another_mount)
            sweep(tmp_path)
        assert path.exists()
        sweep(tmp_path)
        assert not path.exists()


@pytest.mark.parametrize("age_s", [3600, 100_000])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_where_there_are_no_locks_only_what_is_a_day_old_is_swept(tmp_path, monkeypatch, age_s, kind):
    def no_locks(*_arguments):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with temporary_folder(tmp_path) as folder, temporary_file(tmp_path) as (file, _):
        path = folder if kind == "folder" else file
        os.utime(path, (time.time() - age_s,) * 2)
        sweep(tmp_path)
        assert path.exists() == (age_s == 3600)


def test_many_sweeps_disturb_no_write(tmp_path):
    stop = threading.Event()

    def sweep_on():
        while not stop.is_set():
            sweep(tmp_path)

    # Threads suffice: every open file has a lock of its own.
    sweepers = [threading.Thread(target=sweep_on) for _ in range(2)]
    for sweeper in sweepers:
        sweeper.start()
    try:
        for number in range(200):
            with temporary_folder(tmp_path) as folder, temporary_file(tmp_path) as (path, file):
                (folder / "inside").write_bytes(b"")
                file.write(b"whole")
                file.flush()
                path.replace(tmp_path / f"{number}")
    finally:
        stop.set()
        for sweeper in sweepers:
            sweeper.join()
    assert len(names(tmp_path)) == 200
    assert {path.read_bytes() for path in tmp_path.iterdir()} == {b"whole"}


def test_a_folder_that_is_missing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), temporary_file(tmp_path / "missing"):
        pass
    with pytest.raises(FileNotFoundError), temporary_folder(tmp_path / "missing"):
        pass


def test_a_folder_that_holds_no_new_files_is_an_error(tmp_path, monkeypatch):
    with pytest.raises(OutputError, match="No such file"):
        check_folder(Path("/proc/self"))
    monkeypatch.setattr(os.path, "lexists", lambda _path: False)
    with pytest.raises(FileNotFoundError, match="vanishes"), temporary_file(tmp_path):
        pass


def test_folders_of_a_process_that_is_ended_are_removed_with_what_they_hold(tmp_path):
    with temporary_folder(tmp_path) as folder:
        (folder / "scan").mkdir()
        (folder / "scan" / "a.nii.gz").touch()
        remove_ours()
        assert list(tmp_path.iterdir()) == []
