"""What it costs that many workers share a folder: leases and records against a plain loop, long lists, 1,000 workers.

usage: python -m benchmarks.shared_folder [--workers 10 100 1000] [--case-s 20] [--rows 100000] [--table FILE]
A stand-in waits in place of a network; queue, leases, records and masks are those of `flare-infer --resume`. Times are
of processors, so that other work on the machine matters little. Exits with 1 where leases and records cost 5 ms a case
or more.
"""

import argparse
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from mmap import mmap
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

import numpy as np

from benchmarks.memory_estimate import MIB, status_bytes
from benchmarks.tables import Column, Table, add_table_option
from flare_runtime.cases.case import Case
from flare_runtime.cases.finding import find_cases
from flare_runtime.cases.fingerprints import stamp_of
from flare_runtime.imaging.geometry import Geometry
from flare_runtime.imaging.volume import Template
from flare_runtime.model.bundle import Bundle, open_bundle
from flare_runtime.options import RunOptions
from flare_runtime.run.before import Before
from flare_runtime.run.claims import Claims
from flare_runtime.run.commit import stage_result
from flare_runtime.run.identity import Recipe
from flare_runtime.run.queue import CaseQueue, ListedCases, next_case
from flare_runtime.run.record import CaseRecord
from flare_runtime.run.resume import ResumeRules
from flare_runtime.run.shared import SharedCases

MAX_OVERHEAD_S = 0.005
SHAPE = (16, 16, 16)
_CASES_OF_A_WORKER = 5
# Workers of a crowd that share a process.
_THREADS = 100
# A stand-in's time for a case is so much shorter or longer than the mean, at most.
_SPREAD = 0.2


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--case-s", type=float, default=20.0, help="the mean time of the stand-in for a case")
    parser.add_argument("--cases", type=int, default=10_000, help="for the loop and the rerun")
    parser.add_argument("--rows", type=int, default=100_000, help="of the list of cases")
    add_table_option(parser)
    return parser.parse_args(argv)


@dataclass(frozen=True)
class Cohort:
    """Cases of a folder, and what makes their results."""

    cases: Sequence[Case]
    recipe: Recipe
    template: Template

    @classmethod
    def make(cls, folder: Path, bundle: Bundle, count: int) -> "Cohort":
        """Write files that nobody reads, and find the cases."""
        (folder / "scans").mkdir(parents=True)
        for index in range(count):
            (folder / "scans" / f"case{index:06}.nii.gz").write_bytes(b"a stand-in reads nothing")
        return cls.found(folder / "scans", folder / "masks", bundle)

    @classmethod
    def found(cls, source: Path, masks: Path, bundle: Bundle) -> "Cohort":
        """Find the cases as a run does."""
        template = Template(Geometry.of_affine(np.eye(4), SHAPE))
        return cls(find_cases(source, masks, 1), Recipe.of(bundle, RunOptions(device="cpu")), template)

    def found_again(self) -> "Cohort":
        """Return the cohort as another run finds it."""
        mask = self.cases[0].mask
        return replace(self, cases=find_cases(self.cases[0].files[0].parent, mask.parent, 1))

    def shared(self, kept: list[object]) -> SharedCases:
        """Return the queue of a worker."""
        return SharedCases(self.cases, Claims(ResumeRules(), self.recipe), kept.append, kept.append)

    def commit(self, case: Case, *, with_record: bool = True) -> None:
        """Write a mask and the record of it as a run does."""

        def record_of(mask_sha256: str) -> CaseRecord:
            identity = self.recipe.identity([stamp_of(case.files)], case.tries)
            return CaseRecord(
                case=case.name,
                status="done",
                inputs=[str(file) for file in case.files],
                mask=str(case.mask),
                mask_sha256=mask_sha256,
                identity=identity,
            )

        mask = np.zeros(SHAPE, np.uint8)
        stage_result(case, mask, self.template, record_of, with_record=with_record).commit()


def work_through(queue: CaseQueue, do: Callable[[Case], None]) -> int:
    """Do every case that a queue gives, and return how many there were."""
    count = 0
    while case := next_case(queue):
        do(case)
        queue.settle(case)
        count += 1
    queue.close()
    return count


def loop_s(folder: Path, bundle: Bundle, count: int) -> tuple[float, float, float]:
    """Return what a case takes in a loop that writes masks alone, what it takes shared, and what a rerun takes."""
    plain, shared = (Cohort.make(_made(folder / name), bundle, count) for name in ("plain", "shared"))
    started = time.process_time()
    work_through(ListedCases(plain.cases), lambda case: plain.commit(case, with_record=False))
    plain_at = time.process_time()
    done = work_through(shared.shared([]), shared.commit)
    shared_at = time.process_time()
    kept: list[object] = []
    again = work_through(shared.found_again().shared(kept), shared.commit)
    rerun_at = time.process_time()
    if (done, again, len(kept)) != (count, 0, count):
        raise RuntimeError(f"{done} of {count} cases done, {again} done again, {len(kept)} kept")
    return (plain_at - started) / count, (shared_at - plain_at) / count, rerun_at - shared_at


@dataclass(frozen=True)
class Listed:
    """A run over a list of cases in one process.

    Attributes:
        found_s: until the list is read and its outputs are checked.
        rows_per_s: from then on.
        early_mib, late_mib: the memory of the process after a tenth of the rows, and after all.
    """

    found_s: float
    rows_per_s: float
    early_mib: float
    late_mib: float


def listed(folder: Path, bundle: Bundle, rows: int) -> Listed:
    """Work through a list of cases, a hundred folders of outputs."""
    (folder / "scan.nii.gz").write_bytes(b"a stand-in reads nothing")
    lines = (f"{row:06},scan.nii.gz,{row % 100:02}/{row:06}.nii.gz\n" for row in range(rows))
    (folder / "list.csv").write_text("case,images,output\n" + "".join(lines), encoding="utf-8")
    started = time.process_time()
    cohort = Cohort.found(folder / "list.csv", folder / "masks", bundle)
    found_at = time.process_time()
    memory: list[float] = []
    done = 0

    def commit(case: Case) -> None:
        nonlocal done
        cohort.commit(case)
        done += 1
        if done in (rows // 10, rows):
            memory.append(status_bytes("VmRSS") / MIB)

    work_through(cohort.shared([]), commit)
    return Listed(found_at - started, rows / (time.process_time() - found_at), *memory)


class CountedClaims(Claims):
    """Claims that count how often the record of a case is looked at."""

    looks = 0

    def _look_at(self, case: Case) -> tuple[Before | None, bool]:
        self.looks += 1
        return super()._look_at(case)


@dataclass(frozen=True)
class Crowd:
    """So many workers on one folder.

    Attributes:
        cpu_s: of the processor, all workers together.
        looks: at records, all workers together.
    """

    workers: int
    cases: int
    cpu_s: float
    looks: int


def crowd(folder: Path, bundle: Bundle, workers: int, case_s: float) -> tuple[Crowd, Crowd]:
    """Let workers share a folder, and again when all is done; each is a thread with claims and leases of its own."""
    cohort = Cohort.make(_made(folder / str(workers)), bundle, workers * _CASES_OF_A_WORKER)
    crowds = _crowd(cohort, workers, case_s), _crowd(cohort, workers, case_s)
    left = {path.name for path in (folder / str(workers) / "masks").iterdir()}
    if len(left) != 2 * len(cohort.cases):
        raise RuntimeError(f"{len(left)} files for {len(cohort.cases)} cases")
    return crowds


def _crowd(cohort: Cohort, workers: int, case_s: float) -> Crowd:
    counts = mmap(-1, 8 * workers)  # of looks, which all processes share
    cpu_s = _cpu_of_children_s()
    each = [range(first, min(first + _THREADS, workers)) for first in range(0, workers, _THREADS)]
    pids = [_fork(cohort, some, case_s, memoryview(counts).cast("q")) for some in each]
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    if any(codes):
        raise RuntimeError(f"exit codes {set(codes)}")
    looks = sum(memoryview(counts).cast("q"))
    return Crowd(workers, len(cohort.cases), _cpu_of_children_s() - cpu_s, looks)


def _fork(cohort: Cohort, workers: range, case_s: float, counts: "memoryview[int]") -> int:
    pid = os.fork()
    if pid:
        return pid
    code, ended = 1, list[int]()

    def work(number: int) -> None:
        chance, kept = random.Random(number), list[object]()
        claims = CountedClaims(ResumeRules(), cohort.recipe)
        queue = SharedCases(cohort.cases, claims, kept.append, kept.append)

        def do(case: Case) -> None:
            time.sleep(case_s * chance.uniform(1 - _SPREAD, 1 + _SPREAD))
            cohort.commit(case)

        if work_through(queue, do) + len(kept) == len(cohort.cases):
            ended.append(number)
        counts[number] = claims.looks

    try:
        threads = [Thread(target=work, args=[number]) for number in workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        code = 0 if len(ended) == len(workers) else 1
    finally:
        os._exit(code)


def _cpu_of_children_s() -> float:
    times = os.times()
    return times.children_user + times.children_system


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def run(args: argparse.Namespace) -> int:
    """Measure, print, and return the exit code."""
    bundle = open_bundle(None)
    with TemporaryDirectory() as scratch:
        plain_s, shared_s, rerun_s = loop_s(Path(scratch), bundle, args.cases)
        overhead_s = shared_s - plain_s
        print(f"a case takes {1000 * plain_s:.2f} ms with its mask alone, {1000 * shared_s:.2f} ms shared")
        print(f"leases and records: {1000 * overhead_s:.2f} ms; a rerun of {args.cases:,} cases: {rerun_s:.2f} s")
        one_list = listed(_made(Path(scratch, "list")), bundle, args.rows)
        print(f"a list of {args.rows:,} rows: checked in {one_list.found_s:.1f} s, {one_list.rows_per_s:.0f} a second,")
        print(f"{one_list.early_mib:.0f} MiB after a tenth, {one_list.late_mib:.0f} MiB after all")
        crowds = [crowd(Path(scratch), bundle, workers, args.case_s) for workers in args.workers]
    rows = [
        ("leases and records, more than a loop that writes masks alone, ms a case", 1000 * overhead_s),
        (f"a rerun of {args.cases:,} finished cases, s", rerun_s),
        (f"a list of {args.rows:,} rows: read and checked, s", one_list.found_s),
        ("the same: rows a second, in one process", one_list.rows_per_s),
        ("the same: memory after a tenth of the rows, MiB", one_list.early_mib),
        ("the same: memory after all, MiB", one_list.late_mib),
    ]
    for first, again in crowds:
        who = f"{first.workers:,} workers, {first.cases:,} cases"
        rows += [
            (f"{who}: looks at records, a case", first.looks / first.cases),
            (f"{who}: all work on them but the stand-in's, ms a case", 1000 * first.cpu_s / first.cases),
            (f"{who}, all of them finished: looks at records, a case", again.looks / again.cases),
            (f"{who}, all of them finished: ms a case", 1000 * again.cpu_s / again.cases),
        ]
        print(*(f"{what}: {value:.2f}" for what, value in rows[-4:]), sep="\n")
    if args.table:
        columns = (Column("many workers on one folder, time of processors"), Column("measured", 2))
        Table.measured("python -m benchmarks.shared_folder", columns, rows).write(args.table)
    return 0 if overhead_s < MAX_OVERHEAD_S else 1


if __name__ == "__main__":
    sys.exit(run(parse_args()))
