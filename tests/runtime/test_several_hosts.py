"""Runs shared by several machines, of which some are lost, stand still or are cut off."""

import secrets
import shutil
import sys
import time
from contextlib import suppress
from importlib.util import find_spec

import pytest

from flare_runtime.cli import main
from flare_runtime.files.lease import holder_of
from tests.runtime.command_runs import SPACING, names
from tests.runtime.hosts import SHARED, Hosts, why_no_hosts
from tests.runtime.nifti_files import blobs, write_nifti

CASES = 14
RAY = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:9",
    "http_proxy": "http://127.0.0.1:9",
    "no_proxy": "10.77.0.1,10.77.0.2,10.77.0.3,127.0.0.1,localhost",
}
PROGRAM = (sys.executable, "-m", "flare_runtime.cli")


@pytest.fixture
def hosts(tiny_bundle, tmp_path):
    """Three machines of one name, whose first processes have the same PIDs, with scans and a model in their folder."""
    if why := why_no_hosts():
        pytest.skip(why)
    shared = tmp_path / "shared"
    (shared / "scans").mkdir(parents=True)
    (shared / "masks").mkdir()
    shutil.copytree(tiny_bundle, shared / "tiny")
    for number in range(CASES):
        write_nifti(shared / "scans" / f"c{number:02}.nii.gz", blobs((48, 64, 60), number), spacing_mm=SPACING)
    hosts = Hosts(tmp_path, ["node"] * 3)
    yield hosts.all
    hosts.close()


@pytest.fixture
def cohort(hosts, tmp_path):
    return Cohort(tmp_path / "shared")


class Cohort:
    """What the machines make of the scans: each file the moment that it is seen first."""

    def __init__(self, shared):
        self._shared = shared
        self.masks = shared / "masks"
        self._seen = {}

    def words(self, *more):
        common = ("-m", SHARED / "tiny", "--device", "cpu", "--threads", 1)
        return ("-i", SHARED / "scans", "-o", SHARED / "masks", *common, *more)

    def wait(self, until, limit_s=300):
        """Wait until something is so."""
        last_s = time.monotonic() + limit_s
        while not until():
            assert time.monotonic() < last_s
            for mask in self.masks.glob("[!.]*.nii.gz"):
                with suppress(FileNotFoundError):
                    assert self._seen.setdefault(mask.name, mask.stat().st_ino) == mask.stat().st_ino
            time.sleep(0.02)

    def done(self):
        return len(list(self.masks.glob("[!.]*.json")))

    def held_by(self, host):
        """Return the leases that workers on a machine hold."""
        holders = {lease.name: holder_of(lease) for lease in self.masks.glob(".*.flare-lease")}
        return [name for name, holder in holders.items() if holder and f"/{host.space}/" in holder.process]

    def check(self):
        """Every mask is as a run without disturbances makes it, was made once, and nothing else is left."""
        here, undisturbed = self._shared, self._shared / "undisturbed"
        words = ["-i", here / "scans", "-o", undisturbed, "-m", here / "tiny", "--device", "cpu", "--threads", "1"]
        assert main([*map(str, words), "--quiet"]) == 0
        assert names(self.masks) == names(undisturbed)
        for mask in undisturbed.glob("*.nii.gz"):
            assert (self.masks / mask.name).read_bytes() == mask.read_bytes()
            assert (self.masks / mask.name).stat().st_ino == self._seen[mask.name]


@pytest.mark.slow
def test_workers_share_cases_though_one_machine_is_lost_and_one_stands_still(hosts, cohort):
    _, lost, still = hosts
    workers = [host.start(*PROGRAM, *cohort.words("--resume")) for host in hosts]
    try:
        cohort.wait(lambda: cohort.done() > 1 and cohort.held_by(lost))
        lost.kill()
        cohort.wait(lambda: cohort.held_by(still))
        still.suspend()
        cohort.wait(lambda: workers[0].poll() is not None)
        assert cohort.done() == CASES
        still.go_on()
        cohort.wait(lambda: workers[2].poll() is not None)
    finally:
        for worker in workers:
            worker.kill()
        said = [worker.communicate()[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, -9, 0], said
    cohort.check()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")
def test_a_ray_cluster_may_lose_a_machine_and_be_cut_off_from_another(hosts, cohort, tmp_path):
    head, lost, cut_off = hosts
    log, nodes = tmp_path / "log", [_start_ray(host, head) for host in hosts]
    cohort.wait(lambda: all("Ray runtime started" in node.read_text() for node in nodes))
    words = cohort.words("--address", f"{head.address}:6379", "--cpus-per-actor", 1)
    with log.open("w") as file:
        run = head.start(*PROGRAM, "ray", *words, stderr=file, env=RAY)
    try:
        cohort.wait(lambda: cohort.done() > 1 and cohort.held_by(lost))
        lost.kill()
        cohort.wait(lambda: cohort.held_by(cut_off))
        cut_off.set_link("down")
        cohort.wait(lambda: log.read_text().count("an actor was lost") > 1)
        cut_off.set_link("up")
        cohort.wait(lambda: run.poll() is not None)
    finally:
        run.kill()
    assert run.wait() == 0, log.read_text()
    cohort.check()


def _start_ray(host, head):
    """Begin a machine's part of the cluster, and return where it logs."""
    is_head = host is head
    place = ["--head", "--port=6379", "--include-dashboard=false"] if is_head else [f"--address={head.address}:6379"]
    options = [f"--node-ip-address={host.address}", "--num-cpus=1", "--object-store-memory=100000000", "--block"]
    program = (sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start")
    log = host.own / "ray.log"
    with log.open("w") as file:
        host.start(*program, *place, *options, stdout=file, stderr=file, env=RAY)
    if is_head:
        while "Ray runtime started" not in log.read_text():
            time.sleep(0.1)
    return log
