"""Many processes on the same leases, some of them killed: at no moment two of them hold one target."""

import fcntl
import os
import random
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from flare_runtime.files.lease import Leases, holder_of, is_lease_name
from flare_runtime.files.output import check_folder
from tests.processes import fork

TARGETS = 50


class Contest:
    """Workers that take the same targets again and again.

    A witness is locked with a target: the system gives the lock back the moment that a process is killed, and not
    before. Each holder writes a line to it.
    """

    def __init__(self, folder: Path) -> None:
        self.out, self._witnesses = folder / "out", folder / "witnesses"
        self.out.mkdir()
        self._witnesses.mkdir()

    def work(self, seed: int, until_s: float) -> None:
        chance = random.Random(seed)
        leases = Leases()
        while time.monotonic() < until_s:
            name = f"case{chance.randrange(TARGETS)}"
            lease = leases.take(self.out / name)
            if lease is None:
                continue
            with (self._witnesses / name).open("ab") as witness:
                fcntl.lockf(witness, fcntl.LOCK_EX | fcntl.LOCK_NB)
                time.sleep(chance.random() * 0.004)
                assert lease.is_held()
                witness.write(b"%d\n" % lease.lost_before)
            if chance.random() < 0.9:
                leases.release(lease)
            else:
                leases.close()
                leases = Leases()
        leases.close()

    def run(self, workers: int, length_s: float, between_kills_s: float) -> int:
        """Let them, kill one after the other, and return how many were killed."""
        chance = random.Random(workers)
        until_s = time.monotonic() + length_s
        running = [fork(partial(self.work, seed, until_s)) for seed in range(workers)]
        killed = 0
        while time.monotonic() + between_kills_s < until_s:
            time.sleep(chance.random() * 2 * between_kills_s)
            victim = running.pop(chance.randrange(workers))
            os.kill(victim, signal.SIGKILL)
            killed += os.waitpid(victim, 0)[1] == signal.SIGKILL
            running.append(fork(partial(self.work, workers + killed, until_s)))
        assert [os.waitpid(one, 0)[1] for one in running] == [0] * workers
        return killed

    def finish(self) -> int:
        """Settle every target, see that nothing is left, and return how often one was held."""
        check_folder(self.out)  # as a run does, before it looks at leases
        for path in self.out.iterdir():
            os.utime(path, (0, 0))  # of a worker that was killed before it wrote its name, age tells alone
        leases = Leases()
        for number in range(TARGETS):
            leases.release(leases.take(self.out / f"case{number}"))
        leases.close()
        assert list(self.out.iterdir()) == []
        return sum(path.read_bytes().count(b"\n") for path in self._witnesses.iterdir())


def test_a_target_never_has_two_holders_whoever_is_killed(tmp_path):
    contest = Contest(tmp_path)
    killed = contest.run(4, 1.5, 0.05)
    left = [holder_of(path) for path in contest.out.iterdir() if is_lease_name(path.name)]
    assert not any(holder.is_alive for holder in left if holder.process)
    assert killed > 5
    assert contest.finish() > 20


@pytest.mark.slow
def test_a_target_never_has_two_holders_for_a_minute(tmp_path):
    contest = Contest(tmp_path)
    assert contest.run(12, 60, 0.03) > 200
    assert contest.finish() > 1000
