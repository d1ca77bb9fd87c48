"""Leases: at no moment two workers for one target, and nothing left of those that were lost."""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from flare_runtime.errors import OutputError
from flare_runtime.files.lease import Leases, holder_of, lease_path
from flare_runtime.files.signs_of_life import SignsOfLife
from flare_runtime.files.this_process import process_id
from tests.processes import fork
from tests.runtime.lease_schedules import Schedule


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def target(tmp_path):
    return tmp_path / "case.nii.gz"


@pytest.fixture
def leases():
    ours = Leases()
    yield ours
    ours.close()


def lose(target):
    """Let a worker take a target and be lost; return the generation of its lease."""
    reading, writing = os.pipe()

    def work():
        os.write(writing, bytes([Leases().take(target).generation]))
        signal.pause()

    worker = fork(work)
    generation = os.read(reading, 1)[0]
    os.kill(worker, signal.SIGKILL)
    os.waitpid(worker, 0)
    os.close(reading)
    os.close(writing)
    return generation


def test_a_target_has_one_holder(target, leases):
    lease = leases.take(target)
    assert (lease.generation, lease.lost_before, lease.is_held()) == (1, 0, True)
    assert names(target.parent) == [".case.nii.gz.1.flare-lease"]
    assert leases.take(target) is None
    assert Leases().take(target) is None
    assert pickle.loads(pickle.dumps(lease)).is_held()
    leases.release(lease)
    assert not lease.is_held()
    assert names(target.parent) == []
    assert leases.take(target).generation == 1


def test_a_lost_worker_is_overtaken_and_counted_until_the_target_is_settled(target, leases):
    assert [lose(target), lose(target)] == [1, 2]
    given_back = Leases()
    lease = given_back.take(target)
    assert lease.lost_before == 2
    given_back.close()
    assert not lease.is_held()
    lease = leases.take(target)
    assert lease.lost_before == 2
    leases.release(lease)
    assert names(target.parent) == []


def test_what_lost_workers_leave_at_a_settled_target_is_cleared(target, leases):
    lose(target)
    leases.clear(target)
    assert names(target.parent) == []
    leases.clear(target)
    assert names(target.parent) == []
    held = leases.take(target)
    Leases().clear(target)
    assert held.is_held()


def test_of_a_lease_it_is_told_who_holds_it(target, leases):
    leases.take(target)
    holder = holder_of(lease_path(target, 1))
    assert (holder.process, holder.host, holder.generation) == (process_id(), os.uname().nodename, 1)
    assert holder.is_alive
    assert holder.age_s < 60
    assert time.strptime(holder.since, "%Y-%m-%dT%H:%M:%SZ")
    assert holder_of(target) is None
    assert holder_of(lease_path(target, 2)) is None
    assert lose(target.with_name("other")) == 1
    assert not holder_of(lease_path(target.with_name("other"), 1)).is_alive


def test_a_folder_that_is_not_there_is_said_so(tmp_path, leases):
    with pytest.raises(OutputError, match=r"case: cannot be written \(its lease: No such file or directory\)"):
        leases.take(tmp_path / "missing" / "case")


def test_of_many_threads_that_share_leases_one_takes_a_target(tmp_path, leases):
    start = threading.Barrier(8)

    def take_all(_number):
        start.wait()
        return [lease for number in range(40) if (lease := leases.take(tmp_path / f"{number}"))]

    with ThreadPoolExecutor(8) as threads:
        taken = [lease for one in threads.map(take_all, range(8)) for lease in one]
    assert sorted(lease.target.name for lease in taken) == sorted(map(str, range(40)))
    assert {lease.generation for lease in taken} == {1}


def test_after_the_end_nothing_is_taken(target):
    leases = Leases()
    leases.close()
    assert leases.take(target) is None
    assert names(target.parent) == []


def wait_until(is_so, limit_s=120.0):
    end_s = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def test_a_holder_gives_signs_of_life(target):
    leases = Leases(beat_s=0.02)
    leases.take(target)
    os.utime(lease_path(target, 1), (0, 0))
    wait_until(lambda: lease_path(target, 1).stat().st_mtime > 0)
    leases.close()


def test_a_suspended_holder_is_overtaken_and_knows_it(target):
    beat_s, dead_after_s = 0.05, 1.0
    to_worker, of_worker = os.pipe(), os.pipe()

    def work():
        leases = Leases(beat_s, dead_after_s)
        lease = leases.take(target)
        os.write(of_worker[1], b"t")
        os.read(to_worker[0], 1)
        os.write(of_worker[1], b"h" if lease.is_held() else b"l")
        leases.release(lease)
        leases.close()

    worker = fork(work)
    leases, patient = Leases(beat_s, dead_after_s), Leases(beat_s)
    try:
        assert os.read(of_worker[0], 1) == b"t"
        os.kill(worker, signal.SIGSTOP)
        assert patient.take(target) is None
        taken = []
        wait_until(lambda: taken.append(leases.take(target)) or taken[-1])
        assert (taken[-1].generation, taken[-1].is_held()) == (2, True)
        os.kill(worker, signal.SIGCONT)
        os.write(to_worker[1], b"g")
        assert os.read(of_worker[0], 1) == b"l"
        assert os.waitpid(worker, 0)[1] == 0
        assert taken[-1].is_held()
        leases.release(taken[-1])
        assert names(target.parent) == []
    finally:
        leases.close()


# Takes a target in a container and waits until it is killed.
TAKER = """
import sys
from pathlib import Path
from flare_runtime.files.lease import Leases
leases = Leases()
print(leases.take(Path(sys.argv[1])).generation, flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a namespace of pids")
def test_a_holder_in_another_container_is_dead_by_age_alone(target, leases):
    command = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-c", TAKER, str(target)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as container:
        if container.stdout.readline() != "1\n":
            pytest.skip(container.communicate()[1])
        assert leases.take(target) is None
        container.kill()
    assert leases.take(target) is None
    os.utime(lease_path(target, 1), (0, 0))
    assert leases.take(target).generation == 2


def run_schedules(folder, seeds):
    for seed in seeds:
        place = folder / str(seed)
        place.mkdir()
        try:
            Schedule(place, seed).run(deaths=seed % 6, suspensions=seed % 4)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error


def test_in_whatever_order_workers_take_their_steps_a_target_is_written_once_and_nothing_is_left(tmp_path):
    run_schedules(tmp_path, range(100))


@pytest.mark.slow
def test_in_many_orders_of_the_workers_steps_a_target_is_written_once_and_nothing_is_left(tmp_path):
    run_schedules(tmp_path, range(100, 10_000))


def test_a_sign_of_life_that_hangs_delays_no_other():
    goes_on, given, many = threading.Event(), Counter(), threading.Event()

    def give(one):
        given[one] += 1
        if one == "hangs":
            goes_on.wait()
        if one == "fails":
            raise OSError("the server is away")
        if one == "sound" and given[one] == 5:
            many.set()

    signs = SignsOfLife(lambda: ("hangs", "fails", "sound"), give, beat_s=0.01)
    signs.start()
    assert many.wait(120)
    goes_on.set()
    signs.close()
    assert given["hangs"] == 1
    assert given["fails"] > 1
