"""Folders for what must not outlive its process: they go however that one ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flare_runtime.cli import main
from flare_runtime.files import guarded, temporary
from flare_runtime.files.guarded import guarded_folder
from tests.runtime.command_runs import names, write_scan

# Makes a folder with something in it, says what its guard is, and waits.
MAKER = """
import os, subprocess, sys, time
from pathlib import Path
from flare_runtime.files.guarded import guarded_folder
popen, guards = subprocess.Popen, []
subprocess.Popen = lambda *given, **options: guards.append(popen(*given, **options)) or guards[0]
with guarded_folder(Path(sys.argv[1])) as folder:
    (folder / "logs").mkdir()
    (folder / "logs" / "NAME_0000.nii.gz").touch()
    print(guards[0].pid, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def maker(tmp_path):
    (tmp_path / "place").mkdir()
    command = [sys.executable, "-c", MAKER, tmp_path / "place"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, start_new_session=True)
    yield process
    process.kill()
    process.communicate()


def test_a_folder_goes_with_a_process_that_is_killed_with_its_group(maker, tmp_path):
    maker.stdout.readline()
    (folder,) = (tmp_path / "place").iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    os.killpg(maker.pid, signal.SIGKILL)
    until = time.monotonic() + 120
    while names(tmp_path / "place"):
        assert time.monotonic() < until
        time.sleep(0.01)


def test_where_the_guard_is_killed_too_the_next_run_removes_the_folder(maker, tmp_path, tiny_bundle, monkeypatch):
    guard = int(maker.stdout.readline())
    os.kill(guard, signal.SIGKILL)
    maker.kill()
    maker.wait()
    place = tmp_path / "place"
    assert len(names(place)) == 1
    monkeypatch.setattr("tempfile.tempdir", str(place))
    scan = write_scan(tmp_path)
    assert main(["-i", str(scan), "-o", str(tmp_path / "mask.nii.gz"), "-m", str(tiny_bundle), "--device", "cpu"]) == 0
    assert names(place) == []


def test_runs_clear_up_where_sockets_lie_too(maker, tmp_path, monkeypatch):
    os.kill(int(maker.stdout.readline()), signal.SIGKILL)
    maker.kill()
    maker.wait()
    monkeypatch.setattr(temporary, "SHORT_PATHS", tmp_path / "place")
    temporary.sweep_this_machine()
    assert names(tmp_path / "place") == []


def test_a_folder_goes_at_its_end_with_its_guard_even_where_a_fork_lives_on(tmp_path):
    with guarded_folder(tmp_path):
        fork = os.fork()
        if not fork:
            time.sleep(600)
            os._exit(0)
    assert names(tmp_path) == []
    os.kill(fork, signal.SIGKILL)
    os.waitpid(fork, 0)


def test_without_a_shell_there_is_a_folder_all_the_same(tmp_path, monkeypatch):
    def fail(*_given, **_options):
        raise FileNotFoundError("/bin/sh")

    monkeypatch.setattr(guarded.subprocess, "Popen", fail)
    with guarded_folder(tmp_path) as folder:
        assert Path(folder).is_dir()
    assert names(tmp_path) == []
