"""Whether another process has ended: never said of one that may be alive."""

import os
import signal
import subprocess
import sys
import time

import pytest

from flare_runtime.files import this_process
from flare_runtime.files.this_process import has_ended, process_id, process_number
from tests.processes import fork

# Says its name and waits.
NAMED = """
import sys
from flare_runtime.files.this_process import process_id
print(process_id(), flush=True)
sys.stdin.read()
"""


def start(*prefix):
    command = [*prefix, sys.executable, "-c", NAMED]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    return process, process.stdout.readline().strip()


def test_this_process_is_alive():
    assert not has_ended(process_id())
    assert process_number(process_id()) == os.getpid()


def test_a_process_has_ended_once_it_is_killed_whether_or_not_it_is_waited_for():
    process, name = start()
    assert not has_ended(name)
    process.send_signal(signal.SIGSTOP)
    assert not has_ended(name)
    process.kill()
    for _ in range(12_000):
        if has_ended(name):
            break
        time.sleep(0.01)
    assert has_ended(name)
    process.communicate()
    assert has_ended(name)


def test_another_process_with_the_number_of_one_that_ended_does_not_stand_for_it():
    space, number, started = process_id().rsplit("/", 2)
    assert has_ended(f"{space}/{number}/{int(started) - 1}")


def test_a_fork_is_another_process(tmp_path):
    child = fork(lambda: (tmp_path / "name").write_text(process_id()))
    assert os.waitpid(child, 0)[1] == 0
    assert has_ended((tmp_path / "name").read_text())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a namespace of pids")
@pytest.mark.parametrize("mount", [["--mount-proc"], []], ids=["own /proc", "/proc of the host"])
def test_nothing_is_said_of_a_process_of_another_container(mount):
    process, name = start("unshare", "--pid", "--fork", *mount)
    if not name:
        pytest.skip(process.communicate()[1])
    assert process_number(name) == 1  # as alive here as there
    assert not has_ended(name)
    process.kill()
    process.communicate()
    assert not has_ended(name)


# In a container that sees the numbers of the host in /proc: its first process asks for its child.
INSIDE = """
import os, subprocess, sys
from flare_runtime.files.this_process import has_ended, process_id
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
name = child.stdout.readline().strip()
assert os.getpid() == 1 and not has_ended(process_id()) and not has_ended(name), name
child.communicate("")
assert has_ended(name), name
print("asked")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a namespace of pids")
def test_proc_of_the_host_misleads_no_container():
    command = ["unshare", "--pid", "--fork", sys.executable, "-c", INSIDE, NAMED]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode and "unshare" in run.stderr:
        pytest.skip(run.stderr)
    assert run.stdout == "asked\n", run.stderr


@pytest.mark.parametrize(
    "name", ["", "/", "//", "a", "1", "/1/", "boot/1/2", "{}/-1/", "{}/0/", "{}/x/", "{}/" + "9" * 30]
)
def test_nothing_is_said_of_a_text_that_names_no_process_of_this_system(name):
    assert not has_ended(name.format(process_id().rsplit("/", 2)[0]))


def test_where_the_system_has_no_name_nothing_is_said(monkeypatch):
    monkeypatch.setattr(this_process, "system_id", lambda: "")
    space, _, started = process_id().rsplit("/", 2)
    assert not has_ended(f"{space}/999999999/{started}")
