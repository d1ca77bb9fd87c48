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
        self.out, self._witnesses, self._end = folder / "out", folder / "witnesses", folder / "end"
        self.out.mkdir()
        self._witnesses.mkdir()

    def work(self, seed: int) -> None:
        chance = random.Random(seed)
        leases = Leases()
        while not self._end.exists():
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

    def run(self, workers: int, kills: int, between_kills_s: float) -> None:
        """Let them, and kill one after the other."""
        chance = random.Random(workers)
        running = [fork(partial(self.work, seed)) for seed in range(workers)]
        for kill in range(kills):
            time.sleep(chance.random() * 2 * between_kills_s)
            victim = running.pop(chance.randrange(workers))
            os.kill(victim, signal.SIGKILL)
            assert os.waitpid(victim, 0)[1] == signal.SIGKILL
            running.append(fork(partial(self.work, workers + kill)))
        self._end.touch()
        assert [os.waitpid(one, 0)[1] for one in running] == [0] * workers

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
    contest.run(4, 15, 0.05)
    left = [holder_of(path) for path in contest.out.iterdir() if is_lease_name(path.name)]
    assert not any(holder.is_alive for holder in left if holder.process)
    assert contest.finish() > 20


@pytest.mark.slow
def test_a_target_never_has_two_holders_for_a_minute(tmp_path):
    contest = Contest(tmp_path)
    contest.run(12, 1000, 0.03)
    assert contest.finish() > 1000
