"""SIGKILL of the whole command at any moment: no half file, and the next run is as if nothing had happened."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.runtime.nifti_files import blobs, write_nifti

CASES = 6
# What differs between two runs of the same.
VARYING = ("timings_s", "peak_memory_mib", "identity")


@dataclass(frozen=True)
class Cohort:
    """A folder of scans, and what an undisturbed run makes of it."""

    command: list[str]
    masks: dict[str, bytes]
    records: dict[str, object]
    seconds: float

    def start(self, out: Path) -> subprocess.Popen[bytes]:
        """Begin a run into `out` in a process group of its own."""
        report = report_of(out)
        return subprocess.Popen([*self.command, "-o", str(out), "--report", str(report)], start_new_session=True)


def report_of(out: Path) -> Path:
    return out.with_name(f"{out.name}-report") / "run.json"


@pytest.fixture(scope="module")
def cohort(tiny_bundle, tmp_path_factory) -> Cohort:
    folder = tmp_path_factory.mktemp("cohort")
    images = folder / "images"
    images.mkdir()
    for seed in range(CASES):
        write_nifti(images / f"case{seed}_0000.nii.gz", blobs((24, 40, 40), seed), spacing_mm=(2.5, 1.5, 1.5))
    command = [sys.executable, "-m", "flare_runtime.cli", "-i", str(images), "-m", str(tiny_bundle), "--quiet"]
    command += ["--device", "cpu", "--precision", "fp32", "--threads", "1"]
    started = time.perf_counter()
    subprocess.run([*command, "-o", str(folder / "out")], check=True)
    seconds = time.perf_counter() - started
    masks, records = results(folder / "out")
    assert len(masks) == len(records) == CASES
    return Cohort(command, masks, records, seconds)


def results(out: Path) -> tuple[dict[str, bytes], dict[str, object]]:
    """Return the masks' bytes and the records without what varies; a record that is not whole raises."""
    masks = {path.name: path.read_bytes() for path in out.glob("*.nii.gz") if path.name[0] != "."}
    records = {}
    for path in out.glob("*.json"):
        if path.name[0] != ".":
            record = json.loads(path.read_bytes())
            record["mask"] = Path(record["mask"]).name  # the only thing in it that depends on where
            records[path.name] = {key: value for key, value in record.items() if key not in VARYING}
    return masks, records


def kill(cohort: Cohort, out: Path, seed: int) -> int:
    """Kill a run at a random moment, look at what it left, run again, and return how many cases it had finished."""
    chance = random.Random(seed)
    process = cohort.start(out)
    if chance.random() < 0.5:
        wait_until(time.perf_counter() + chance.uniform(0, cohort.seconds), process)
    else:  # where results are written, which takes a small part of the time: each is made and renamed
        wait_for_changes(out, chance.randrange(4 * CASES), process)
        wait_until(time.perf_counter() + chance.uniform(0, 0.02), process)
    with suppress(ProcessLookupError):  # it was faster
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()

    masks, records = results(out) if out.exists() else ({}, {})
    assert masks.items() <= cohort.masks.items()
    assert records.items() <= cohort.records.items()
    assert {record["mask"] for record in records.values()} <= set(masks)

    assert cohort.start(out).wait() == 0
    assert results(out) == (cohort.masks, cohort.records)
    assert {path.name for path in out.iterdir()} == {*cohort.masks, *cohort.records}
    assert list(report_of(out).parent.iterdir()) == [report_of(out)]
    assert len(json.loads(report_of(out).read_bytes())["cases"]) == CASES
    return len(records)


def wait_until(moment: float, process: subprocess.Popen[bytes]) -> None:
    """Wait until a moment of `time.perf_counter`, or the end of the process."""
    while time.perf_counter() < moment and process.poll() is None:
        time.sleep(0.0005)


def wait_for_changes(folder: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until files of a folder were made, renamed or removed so often, or the end of the process."""
    last = None
    while count and process.poll() is None:
        changed = folder.stat().st_mtime_ns if folder.exists() else None
        count -= changed != last
        last = changed
        time.sleep(0.0002)


def test_a_run_killed_at_a_random_moment_leaves_nothing_half_done(cohort, tmp_path):
    for seed in range(3):
        kill(cohort, tmp_path / f"out{seed}", seed)


def test_a_run_over_earlier_results_can_be_killed_as_well(cohort, tmp_path):
    assert cohort.start(tmp_path / "out").wait() == 0
    for seed in (3, 4):
        kill(cohort, tmp_path / "out", seed)


@pytest.mark.slow
def test_a_hundred_kills(cohort, tmp_path):
    finished = [kill(cohort, tmp_path / f"out{seed % 50}", 1000 + seed) for seed in range(100)]
    fresh = finished[:50]  # the others found the results of an earlier run
    print("finished cases at the kill:", {count: fresh.count(count) for count in sorted(set(fresh))})  # noqa: T201
    assert len(set(fresh)) > CASES // 2
