"""Thousands of odd inputs at one door, in processes that may hang, crash or be refused memory."""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeAlias

from tests.fuzz.door import CRASHES

Kind: TypeAlias = Literal["success", "refused", "traceback", "hang", "crash", "memory"]
# The index of an input to be made, or one that lies there.
Task: TypeAlias = int | Path

CLEAN = ("success", "refused")
LIMIT_S = 5.0
# How much longer than its limit an input may take the second time, if it is others that use the processor.
_PATIENCE = 6
# Opening a door may import torch and load a network, on a machine that is busy.
_OPENING_S = 180.0
# What is kept has to be small: a repository holds it for ever.
_KEEP_BYTES = 1 << 20


@dataclass(frozen=True)
class Outcome:
    """What became of one input.

    Attributes:
        task: its index in the campaign, or its path.
        kind: `success` and `refused` (a FlareError) are clean; `traceback` is any other exception, `hang` no answer in
            time, `crash` the end of the process, `memory` more than worker.MEMORY_BYTES.
        signature: what distinguishes its cause.
        detail: the message or traceback.
        seconds: of the processor.
        grown_mib: by how much the memory of the process rose at most.
    """

    task: Task
    kind: Kind
    signature: str = ""
    detail: str = ""
    seconds: float = 0.0
    grown_mib: int = 0


@dataclass
class Tally:
    """The outcomes of a campaign: how many of each kind, the extremes, and every one that was not clean."""

    counts: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    largest_mib: int = 0
    findings: list[Outcome] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """Count one outcome."""
        self.counts[outcome.kind] += 1
        self.slowest_s = max(self.slowest_s, outcome.seconds)
        self.largest_mib = max(self.largest_mib, outcome.grown_mib)
        if outcome.kind not in CLEAN:
            self.findings.append(outcome)

    @property
    def line(self) -> str:
        """The campaign in one line."""
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(self.counts.items()))
        return (
            f"{self.counts.total():,} inputs: {kinds or 'none'}; slowest {self.slowest_s:.2f} s of processor, "
            f"most memory {self.largest_mib} MiB"
        )


class _Worker:
    """A worker process that is started when needed and again where it was lost."""

    def __init__(self, door: str, workspace: Path, folder: Path, seed: int, limit_s: float) -> None:
        self._limit_s = limit_s
        self.input = folder / "input"
        self._stderr = folder / "stderr.txt"
        self._temporary = folder / "temporary"
        self._command = [sys.executable, "-m", "tests.fuzz.worker", door, str(workspace), str(self.input), str(seed)]
        self._process: subprocess.Popen[bytes] | None = None

    def outcome(self, task: Task) -> Outcome:
        """Let the worker enter its door with one input."""
        first = self._try(task, self._limit_s)
        if first.kind != "hang":
            return first
        # Other programs may have had the processor: what comes late has to have used little of it.
        second = self._try(task, _PATIENCE * self._limit_s)
        return second if second.seconds <= self._limit_s else replace(second, kind="hang", signature="hang")

    def close(self) -> None:
        """End the process and remove the temporary files that it may have left."""
        process, self._process = self._process, None
        if process:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            shutil.rmtree(self._temporary, ignore_errors=True)

    def _try(self, task: Task, limit_s: float) -> Outcome:
        process = self._process or self._start()
        assert process.stdin
        process.stdin.write(json.dumps(task if isinstance(task, int) else str(task)).encode() + b"\n")
        process.stdin.flush()
        answer = self._answer(process, limit_s)
        if answer is None:
            self.close()
            return Outcome(task, "hang", "hang", f"no answer within {limit_s:g} s", limit_s)
        if not answer:
            self.close()
            errors = self._stderr.read_text(encoding="utf-8", errors="replace")[-4000:]
            if "in _made" in errors:
                raise RuntimeError(f"input {task} could not be made:\n{errors}")
            return Outcome(task, "crash", f"signal{-process.returncode}", errors)
        return Outcome(task, **json.loads(answer))

    def _start(self) -> subprocess.Popen[bytes]:
        self._temporary.mkdir(exist_ok=True)
        with self._stderr.open("wb") as errors:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=Path(__file__).parents[2],
                env={**os.environ, "TMPDIR": str(self._temporary)},
                start_new_session=True,
            )
        if self._answer(self._process, _OPENING_S) != b"ready\n":
            self.close()
            raise RuntimeError(f"the door cannot be opened:\n{self._stderr.read_text(encoding='utf-8')[-4000:]}")
        return self._process

    @staticmethod
    def _answer(process: subprocess.Popen[bytes], limit_s: float) -> bytes | None:
        """Return one line, nothing where the process ended, None where neither came in time."""
        assert process.stdout
        if not select.select([process.stdout], [], [], limit_s)[0]:
            return None
        return process.stdout.readline()


@dataclass(frozen=True)
class Campaign:
    """Many inputs at one door.

    Attributes:
        door: its name.
        workspace: see `Door`.
        scratch: an empty folder.
        seed: of the inputs that are made.
        jobs: worker processes.
        limit_s: what takes longer is a hang.
        keep: where the first input of every cause that is not clean is kept, as DOOR/CAUSE-SEED-INDEX/INPUT.
        progress: takes every outcome, from several threads if there are several jobs.
    """

    door: str
    workspace: Path
    scratch: Path
    seed: int = 0
    jobs: int = 1
    limit_s: float = LIMIT_S
    keep: Path | None = CRASHES
    progress: Callable[[Outcome], None] = lambda _outcome: None

    def run(self, tasks: Sequence[Task]) -> Tally:
        """Enter the door with many inputs and return what became of them.

        Args:
            tasks: indices of inputs to make, all determined by door, seed and index; or paths of inputs.
        """
        shares = [(number, tasks[number :: self.jobs]) for number in range(self.jobs)]
        tally = Tally()
        with ThreadPoolExecutor(self.jobs) as threads:
            for outcomes in threads.map(self._run_in_worker, *zip(*shares, strict=True)):
                for outcome in outcomes:
                    tally.add(outcome)
        return tally

    def _run_in_worker(self, number: int, tasks: Sequence[Task]) -> Iterable[Outcome]:
        folder = self.scratch / str(number)
        folder.mkdir(parents=True)
        worker = _Worker(self.door, self.workspace, folder, self.seed, self.limit_s)
        outcomes = []
        try:
            for task in tasks:
                outcome = worker.outcome(task)
                if outcome.kind not in CLEAN and self.keep and isinstance(task, int):
                    name = f"{outcome.signature}-{self.seed}-{task}"
                    _keep(worker.input, self.keep / self.door, name, outcome.signature)
                self.progress(outcome)
                outcomes.append(outcome)
        finally:
            worker.close()
        return outcomes


def kept(door: str) -> list[Path]:
    """Return the inputs kept of a door, each the only entry of its folder."""
    return sorted(entry for folder in (CRASHES / door).glob("*") for entry in folder.iterdir())


def _keep(source: Path, folder: Path, name: str, signature: str) -> None:
    if any(folder.glob(f"{signature}-*")):
        return
    size = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
    if size <= _KEEP_BYTES:
        shutil.copytree(source, folder / name, symlinks=True)
