"""Many workers on one folder, killed at random moments: every mask once, as an undisturbed run makes it."""

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import cycle, islice

import nibabel
import pytest

from flare_runtime import RunOptions, Session
from flare_runtime.model.bundle import open_bundle
from tests.runtime.nifti_files import blobs, write_nifti

OPTIONS = ["--device", "cpu", "--precision", "fp32", "--threads", "1", "--max-tries", "50", "--verbose"]


def write_scans(folder, count):
    folder.mkdir()
    for seed in range(count):
        write_nifti(folder / f"{seed:03}.nii.gz", blobs((24, 40, 40), seed), spacing_mm=(2.5, 1.5, 1.5))
    return folder


def write_crops(images, folder, count):
    """Write pieces of real scans."""
    folder.mkdir()
    for index, image in enumerate(islice(cycle(sorted(images.glob("*.nii.gz"))), count)):
        scan = nibabel.load(image)
        first = 8 * (index * len(image.name) % 6)
        piece = scan.slicer[first : first + 72, 40:112, 4:36]
        nibabel.save(piece, folder / f"{index:03}.nii.gz")
    return folder


def masks_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name.endswith(".nii.gz")}


class Workers:
    """A process of each command, with `--resume`; one that ends for any reason but its end of work is started anew."""

    def __init__(self, commands, log):
        self._commands, self._log = commands, log
        self.running = [self._start(index) for index in range(len(commands))]
        self.killed = 0

    def _start(self, index):
        return subprocess.Popen(
            self._commands[index], stderr=self._log, stdout=subprocess.DEVNULL, start_new_session=True
        )

    def kill_one(self, chance):
        index = chance.randrange(len(self.running))
        if self.running[index].poll() is None:
            self.running[index].send_signal(chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]))
            self.killed += 1
        self.running[index].wait()
        self.running[index] = self._start(index)

    def wait(self):
        return [worker.wait() for worker in self.running]


def disturb(scans, folder, bundle, *, workers, seconds, every_s, seen_as=()):
    """Kill workers for so long, let them come to their end, and return how many were killed.

    The output lies in `folder`, which the workers see by turns under the paths `seen_as`.
    """
    expected = folder / "expected"
    options = RunOptions(device="cpu", precision="fp32", threads=1)
    assert all(record.status == "done" for record in Session(bundle, options).run(scans, expected))
    out, log = folder / "out", folder / "log.txt"
    begin = [sys.executable, "-m", "flare_runtime.cli", "-i", str(scans), "-m", str(bundle), *OPTIONS, "--resume"]
    commands = [[*begin, "-o", str(place / "out")] for place in islice(cycle(seen_as or [folder]), workers)]
    chance, until = random.Random(seconds), time.monotonic() + seconds
    with log.open("wb") as file:
        fleet = Workers(commands, file)
        while time.monotonic() < until:
            time.sleep(chance.uniform(0, every_s))
            fleet.kill_one(chance)
        assert fleet.wait() == [0] * workers
    assert masks_of(out) == masks_of(expected)
    names = {name.removesuffix(".nii.gz") for name in masks_of(expected)}
    assert {path.name for path in out.iterdir()} == {f"{name}{end}" for name in names for end in (".nii.gz", ".json")}
    done = Counter(line.split(":")[0] for line in log.read_text().splitlines() if "lesion(s)," in line)
    # A worker that is killed between its commit and its line has printed nothing.
    assert set(done.values()) <= {1}
    assert names - set(done) <= set(sorted(names - set(done))[: fleet.killed])
    for name in names:
        assert json.loads((out / f"{name}.json").read_bytes())["status"] == "done"
    return fleet.killed


def test_workers_that_are_killed_lose_nothing(tiny_bundle, tmp_path):
    scans = write_scans(tmp_path / "scans", 10)
    assert disturb(scans, tmp_path, tiny_bundle, workers=3, seconds=4, every_s=1.5) > 0


@pytest.mark.slow
@pytest.mark.shared_data
def test_workers_that_are_killed_for_five_minutes_lose_nothing(shared_data, tmp_path):
    scans = write_crops(shared_data / "sts" / "images", tmp_path / "scans", 200)
    killed = disturb(scans, tmp_path, open_bundle(None).path, workers=6, seconds=300, every_s=6)
    print(f"{killed} workers were killed")  # noqa: T201
