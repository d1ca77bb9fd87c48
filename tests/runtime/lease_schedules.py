"""Workers on leases whose steps are taken in a random order, some of them killed or suspended between any two.

Each sees the folder as a client of NFS does: what it did not find it believes to be missing until it opens the folder
or changes it.
"""

import errno
import os
import random
import threading
from collections.abc import Callable, Container
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from flare_runtime.files import lease as lease_module
from flare_runtime.files import lease_file
from flare_runtime.files.lease import Leases, is_lease_name

DEAD_AFTER_NS = 90_000_000_000
STEP_NS = 50_000_000


class Killed(BaseException):
    """Ends the thread of a worker that was killed."""


class Worker:
    """A thread that goes on by one step whenever it is told to."""

    def __init__(self, schedule: "Schedule", name: str) -> None:
        self.name = name
        self.leases = Leases(3600)
        self.absent: set[str] = set()
        self.killed = False
        self.ended = False
        self._schedule = schedule
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def step(self) -> None:
        """Let it do what comes before its next step."""
        self._go.release()
        self._stopped.acquire()

    def pause(self) -> None:
        """Wait for the next step; called by the thread itself."""
        self._stopped.release()
        self._go.acquire()
        if self.killed:
            raise Killed

    def kill(self) -> None:
        self.killed = True
        self.step()
        self._thread.join()

    def _run(self) -> None:
        self._go.acquire()
        try:
            if not self.killed:
                self._schedule.work(self)
        except Killed:
            pass
        except BaseException as error:
            self._schedule.errors.append(error)
        self.ended = True
        self._stopped.release()


class Schedule:
    """One random order of the steps of several workers who are to write some targets once each.

    Attributes:
        written: by whom each target was written.
        faults: what went wrong.
    """

    def __init__(self, folder: Path, seed: int, targets: int = 1) -> None:
        self.written: dict[Path, str] = {}
        self._late: set[Path] = set()
        self.errors: list[BaseException] = []
        self._chance = random.Random(seed)
        self._now_ns = 10**18
        self._targets = [folder / f"case{number}" for number in range(targets)]
        self._folder = folder
        self._workers: list[Worker] = []

    def work(self, worker: Worker) -> None:
        """Write every target that is not written, as a run does."""
        while len(self.written) < len(self._targets):
            self.pause()
            for target in self._targets:
                if target in self.written or (lease := worker.leases.take(target)) is None:
                    continue
                if target not in self.written:
                    self.pause()
                    asked_ns = self._now_ns
                    if lease.is_held():
                        # Who is suspended for so long right here is beyond what a lease can do.
                        if self._now_ns - asked_ns >= DEAD_AFTER_NS:
                            self._late.add(target)
                        assert target not in self.written or target in self._late, f"{target.name} is written twice"
                        self.written[target] = worker.name
                worker.leases.release(lease)

    def run(self, deaths: int, suspensions: int) -> None:
        """Take steps until all is written, then see that nothing is left."""
        with self._patched():
            suspended: dict[Worker, int] = {}
            for step in range(5000):
                while len([one for one in self._workers if not one.ended]) < 3:
                    self._workers.append(Worker(self, f"{len(self._workers)}"))
                living = [one for one in self._workers if not one.ended]
                if len(self.written) == len(self._targets):
                    break
                event = self._chance.random()
                worker = self._chance.choice(living)
                if event < 0.02 and deaths:
                    deaths -= 1
                    worker.kill()
                elif event < 0.04 and suspensions:
                    suspensions -= 1
                    suspended[worker] = step + self._chance.randrange(200)
                    self._pass_time(2 * DEAD_AFTER_NS, suspended)
                elif suspended.get(worker, 0) <= step:
                    suspended.pop(worker, None)
                    self._pass_time(STEP_NS, suspended if step % 300 == 0 else self._workers)
                    worker.step()
            self._end()

    def _end(self) -> None:
        """Kill some of those that are still at it, let the others finish, and clear up."""
        for worker in [one for one in self._workers if not one.ended]:
            if self._chance.random() < 0.3:
                worker.kill()
        assert self.errors == []
        assert sorted(self.written) == self._targets, "it came to no end"
        while living := [one for one in self._workers if not one.ended]:
            self._chance.choice(living).step()
        assert self.errors == []
        self._now_ns += 2 * DEAD_AFTER_NS
        leases = Leases(3600)
        for target in self._targets:
            leases.clear(target)
        leases.close()
        assert sorted(path.name for path in self._folder.iterdir()) == []

    def _pass_time(self, time_ns: int, silent: Container[Worker]) -> None:
        """Let time pass, at the end of which those who hold leases give a sign of life, but for some."""
        self._now_ns += time_ns
        for worker in self._workers:
            if not worker.ended and worker not in silent:
                for lease in tuple(worker.leases._held):
                    lease_file.touch(lease_file.lease_path(lease.target, lease.generation), lease.token)

    def pause(self) -> Worker | None:
        """Let the others go on, where this is the thread of a worker; return it."""
        worker = next((one for one in self._workers if threading.current_thread() is one._thread), None)
        if worker:
            worker.pause()
        return worker

    def _access(self, path: Path, do: Callable[[], Any], *, changes: bool) -> Any:
        """Take a step at a path."""
        absent = worker.absent if (worker := self.pause()) else set()
        if not changes and path.name in absent:
            raise FileNotFoundError(errno.ENOENT, "so it is believed", str(path))
        try:
            done = do()
        except FileNotFoundError:
            absent.add(path.name)
            raise
        if changes:
            absent.clear()
        return done

    @contextmanager
    def _patched(self):
        """Count virtual time, take workers for processes, and make every access to a lease a step."""
        saved = (lease_file.os, lease_file.process_id, lease_module.has_ended, Leases._now_ns)
        methods = {name: getattr(Path, name) for name in ("lstat", "unlink", "replace")}

        def stepping(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
            def stepped(path: Path, *arguments: object, **options: object) -> Any:
                act = partial(method, path, *arguments, **options)
                return self._access(path, act, changes=name != "lstat") if is_lease_name(path.name) else act()

            return stepped

        lease_file.os = self._os()
        lease_file.process_id = lambda: threading.current_thread().name
        lease_module.has_ended = lambda name: any(one.name == name and one.killed for one in self._workers)
        Leases._now_ns = lambda *_arguments: self._now_ns
        for name, method in methods.items():
            setattr(Path, name, stepping(name, method))
        try:
            yield
        finally:
            lease_file.os, lease_file.process_id, lease_module.has_ended, Leases._now_ns = saved
            for name, method in methods.items():
                setattr(Path, name, method)
            for worker in self._workers:
                worker.leases.close()

    def _os(self) -> SimpleNamespace:
        def open_(path: Path, flags: int, mode: int = 0o777) -> int:
            changes = bool(flags & (os.O_CREAT | os.O_DIRECTORY))
            descriptor = self._access(path, partial(os.open, path, flags, mode), changes=changes)
            if flags & os.O_CREAT:
                utime(descriptor)
            return descriptor

        def utime(descriptor: int) -> None:
            os.utime(descriptor, ns=(self._now_ns, self._now_ns))

        def stepping_utime(descriptor: int) -> None:
            self.pause()
            utime(descriptor)

        @contextmanager
        def fdopen(descriptor: int, mode: str):
            self.pause()
            with os.fdopen(descriptor, mode) as file:
                yield file
                file.flush()
                utime(descriptor)

        return SimpleNamespace(**{**vars(os), "open": open_, "utime": stepping_utime, "fdopen": fdopen})
