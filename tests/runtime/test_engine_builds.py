"""Engines that several processes want, and processes that are killed while they build or write one."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flare_runtime.backends.tensorrt.cache import EngineCache
from tests.runtime.test_engine_cache import ENGINE, KEY, store

ROOT = Path(__file__).resolve().parents[2]

WORKER = """
import os, resource, signal, sys, time
from pathlib import Path
from flare_runtime.backends.tensorrt.cache import EngineCache
from tests.runtime.test_engine_cache import ENGINE, KEY, RECORD

folder, log, manner = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]

def build():
    with log.open("a") as file:
        file.write(f"{os.getpid()}\\n")
    if manner == "slow":
        time.sleep(0.5)
    if manner == "hang":
        time.sleep(600)
    if manner == "die in the write":
        # The kernel ends the process in the middle of the file.
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
    if manner == "die before the rename":
        os.fsync = lambda _descriptor: os.kill(os.getpid(), signal.SIGKILL)
    return ENGINE, RECORD

found = EngineCache(folder, lambda line: print(line, flush=True)).find_or_build(KEY, build)
print(len(found.engine), flush=True)
"""


@pytest.fixture
def start(tmp_path):
    log = tmp_path / "log"
    folder = tmp_path / "engines"
    folder.mkdir()
    processes = []

    def started(manner):
        command = [sys.executable, "-c", WORKER, folder, log, manner]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        processes.append(process)
        return processes[-1]

    started.folder, started.log = folder, log
    yield started
    for process in processes:
        process.kill()
        process.communicate()


def builds(start):
    return start.log.read_text().splitlines() if start.log.exists() else []


def wait_for_a_build(start):
    deadline = time.monotonic() + 120
    while not builds(start) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert builds(start)


def test_of_several_processes_one_builds_and_all_have_the_engine(start):
    processes = [start("slow") for _ in range(4)]
    results = [process.communicate(timeout=300) for process in processes]
    assert [stdout.splitlines()[-1:] for stdout, _ in results] == [[str(len(ENGINE))]] * 4, results
    assert len(builds(start)) == 1


def test_a_second_process_says_that_it_waits(start):
    first = start("hang")
    wait_for_a_build(start)
    second = start("slow")
    assert second.stdout.readline() == "another process builds this engine; waiting for it\n"
    assert len(builds(start)) == 1
    first.kill()  # and the one that waited builds
    assert second.communicate(timeout=300)[0] == f"{len(ENGINE)}\n"
    assert len(builds(start)) == 2


@pytest.mark.parametrize(
    ("manner", "how", "left"),
    [
        ("hang", signal.SIGKILL, 0),
        ("die in the write", signal.SIGXFSZ, 1),
        ("die before the rename", signal.SIGKILL, 1),
    ],
)
def test_after_a_process_was_killed_the_next_builds(start, manner, how, left):
    victim = start(manner)
    if manner == "hang":
        wait_for_a_build(start)
        victim.kill()
    victim.communicate(timeout=300)
    assert victim.returncode == -how
    names = [path.name for path in start.folder.iterdir()]
    assert [name for name in names if name.endswith(".engine")] == []
    assert len([name for name in names if name.endswith(".flare-tmp")]) == left
    told = []
    cache = EngineCache(start.folder, told.append)
    assert cache.find(KEY) is None
    assert store(cache, engine=b"anew").engine == b"anew"
    assert cache.find(KEY).engine == b"anew"
    assert sorted(path.suffix for path in start.folder.iterdir()) == [".engine", ".lock"]  # nothing is left over
    assert not told
