"""A run on a Ray cluster: nothing is lost, nothing is done twice, whatever ends an actor or the cluster."""

import os
import shutil
import signal
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from flare_runtime import RunOptions
from flare_runtime.cases.finding import find_cases
from flare_runtime.cli import main
from flare_runtime.cluster.actor_memory import actor_bytes
from flare_runtime.files.lease import holder_of
from flare_runtime.files.this_process import process_number
from flare_runtime.model.bundle import open_bundle
from tests.runtime.command_runs import SPACING, names, one_line, spawn
from tests.runtime.nifti_files import blobs, write_nifti
from tests.runtime.ray_head import RayHead

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")
CASES = 24


@pytest.fixture
def head():
    """A head for four actors, which has started."""
    folder = tempfile.mkdtemp(prefix="ray")
    head = RayHead(folder, cpus=4)
    head.start()
    yield head
    head.kill()
    shutil.rmtree(folder)


def _wait_for(masks, count, seen):
    """Wait for so many masks, and note each file the moment that it is seen."""
    until = time.monotonic() + 120
    while len(seen) < count:
        assert time.monotonic() < until
        for mask in masks.glob("*.nii.gz"):
            seen.setdefault(mask.name, mask.stat().st_ino)
        time.sleep(0.02)


def _kill_a_holder(masks):
    """Kill an actor that has a case in work."""
    until = time.monotonic() + 300
    while time.monotonic() < until:
        for lease in masks.glob(".*.flare-lease"):
            if (holder := holder_of(lease)) and holder.is_alive:
                os.kill(process_number(holder.process), signal.SIGKILL)
                return
    raise AssertionError("no case is in work")


def _refused(capsys, tmp_path, *options):
    (tmp_path / "scans").mkdir(exist_ok=True)
    write_nifti(tmp_path / "scans" / "a.nii.gz", blobs((16, 17, 18)), spacing_mm=SPACING)
    code = main(["ray", "-i", str(tmp_path / "scans"), "-o", str(tmp_path / "masks"), *options])
    return code, one_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--address", "here"], "--address here: give auto, local, or HOST:PORT of the cluster's head"),
        (["--address", "ray://head:10001"], "give auto, local, or HOST:PORT"),
        (["--device", "cuda:1"], "actors take auto, cpu or cuda; Ray gives each its own GPU"),
        (["--no-records"], "leave out --no-records"),
    ],
)
def test_options_that_do_not_go_with_actors_are_refused(capsys, tmp_path, tiny_bundle, options, why):
    code, line = _refused(capsys, tmp_path, "-m", str(tiny_bundle), *options)
    assert (code, why in line) == (2, True)


def test_without_ray_it_is_said_how_to_install_it(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("flare_runtime.cluster.ray_session.find_spec", lambda _name: None)
    code, line = _refused(capsys, tmp_path)
    assert (code, line) == (
        2,
        "flare-infer: ray is not installed; pip install '.[ray]' in the folder of flare-lite",
    )


def test_a_cluster_that_does_not_answer_ends_the_run_at_once(capsys, tmp_path, tiny_bundle):
    code, line = _refused(capsys, tmp_path, "-m", str(tiny_bundle), "--address", "127.0.0.1:9")
    assert (code, line) == (5, "flare-infer: no Ray cluster answers at 127.0.0.1:9")
    assert names(tmp_path / "masks") == []


def test_an_actor_takes_the_memory_of_the_largest_case_it_is_known_to_get(tmp_path, tiny_bundle):
    for name, shape in (("a", (16, 17, 18)), ("b", (160, 170, 180))):
        write_nifti(tmp_path / f"{name}.nii.gz", blobs(shape), spacing_mm=SPACING)
    (tmp_path / "c.nii.gz").write_bytes(b"no image")
    bundle, cases = open_bundle(tiny_bundle), find_cases(tmp_path, tmp_path / "masks", 1)
    small, both, broken = (actor_bytes(bundle, RunOptions(), some) for some in (cases[:1], cases, cases[2:]))
    voxels = 160 * 170 * 180
    assert small + voxels * 4 < both < small + voxels * 100
    assert broken is None


@pytest.mark.slow
def test_an_actor_killed_in_a_case_and_a_head_that_starts_anew_cost_nothing(head, tiny_bundle, tmp_path):
    (tmp_path / "scans").mkdir()
    for number in range(CASES):
        scan = blobs((48, 64, 60), number)
        write_nifti(tmp_path / "scans" / f"c{number:02}_0000.nii.gz", scan, spacing_mm=SPACING)
    common = ("-i", str(tmp_path / "scans"), "-m", str(tiny_bundle), "--device", "cpu", "--threads", "1")
    assert main([*common, "-o", str(tmp_path / "undisturbed"), "--quiet"]) == 0
    masks, seen = tmp_path / "masks", {}
    masks.mkdir()
    cluster = ("--address", head.address, "--actors", "4", "--cpus-per-actor", "1")
    run = spawn("ray", *common, "-o", masks, *cluster, "--report", tmp_path / "report.json", env=head.environment)
    try:
        _wait_for(masks, 3, seen)
        _kill_a_holder(masks)
        _wait_for(masks, CASES // 2, seen)
        head.kill()
        head.start()
        _wait_for(masks, CASES, seen)
        _, err = run.communicate(timeout=300)
    finally:
        run.kill()
    assert run.returncode == 0, err
    assert "an actor was lost" in err
    for mask in (tmp_path / "undisturbed").glob("*.nii.gz"):
        assert (masks / mask.name).read_bytes() == mask.read_bytes()
        assert (masks / mask.name).stat().st_ino == seen[mask.name]  # written once
    assert {path.name for path in masks.iterdir()} == {path.name for path in (tmp_path / "undisturbed").iterdir()}


@pytest.mark.slow
def test_a_case_that_costs_its_actors_is_given_up(tiny_bundle, tmp_path):
    write_nifti(tmp_path / "a.nii.gz", blobs((160, 170, 180)), spacing_mm=SPACING)
    masks = tmp_path / "masks"
    masks.mkdir()
    words = ("-i", tmp_path / "a.nii.gz", "-o", f"{masks}/", "-m", tiny_bundle, "--device", "cpu", "--max-tries", "2")
    run = spawn("ray", *words, "--address", "local", "--actors", "1", "--cpus-per-actor", "1")
    try:
        _kill_a_holder(masks)
        while any(masks.glob(".*.1.flare-lease")) and not any(masks.glob(".*.2.flare-lease")):
            time.sleep(0.02)
        _kill_a_holder(masks)
        _, err = run.communicate(timeout=300)
    finally:
        run.kill()
    assert run.returncode == 4, err
    assert "2 workers were lost at this case" in err
    assert names(masks) == ["a.json"]


@pytest.mark.slow
def test_a_run_that_is_ended_lets_go_of_its_cases_and_of_its_cluster(tiny_bundle, tmp_path):
    write_nifti(tmp_path / "a.nii.gz", blobs((160, 170, 180)), spacing_mm=SPACING)
    masks = tmp_path / "masks"
    masks.mkdir()
    words = ("-i", tmp_path / "a.nii.gz", "-o", f"{masks}/", "-m", tiny_bundle, "--device", "cpu")
    run = spawn("ray", *words, "--address", "local", "--actors", "1", "--cpus-per-actor", "1")
    try:
        until = time.monotonic() + 300
        while not any(masks.glob(".*.flare-lease")):
            assert time.monotonic() < until
            time.sleep(0.02)
        run.send_signal(signal.SIGTERM)
        _, err = run.communicate(timeout=300)
    finally:
        run.kill()
    assert run.returncode == 143, err
    assert names(masks) == []


@pytest.mark.slow
def test_what_ray_writes_names_no_case_is_private_and_goes_where_all_are_killed(tiny_bundle, tmp_path):
    scans, masks, before = tmp_path / "scans", tmp_path / "masks", {*Path("/tmp").glob(".*.flare-tmp/r")}
    for folder in (scans, masks):
        folder.mkdir()
    write_nifti(scans / "MUSTERMANN1.nii.gz", blobs((16, 17, 18)), spacing_mm=SPACING)
    write_nifti(scans / "MUSTERMANN3.nii.gz", blobs((160, 170, 180)), spacing_mm=SPACING)
    (scans / "MUSTERMANN2.nii.gz").write_bytes(b"no image")
    words = ("-i", scans, "-o", masks, "-m", tiny_bundle, "--device", "cpu", "--verbose")
    run = spawn("ray", *words, "--address", "local", "--actors", "1", "--cpus-per-actor", "1", start_new_session=True)
    try:
        until = time.monotonic() + 300
        while len(list(masks.glob("*.json"))) < 2:
            assert time.monotonic() < until
            time.sleep(0.05)
        (session,) = {*Path("/tmp").glob(".*.flare-tmp/r")} - before
        assert session.parent.stat().st_mode & 0o777 == 0o700
        logs = [path for path in session.rglob("*") if path.is_file()]
        assert logs
        assert not [path for path in logs if b"MUSTERMANN" in path.read_bytes()]
    finally:
        os.killpg(run.pid, signal.SIGKILL)  # with the driver
        run.communicate()
    until = time.monotonic() + 120
    while session.parent.exists():
        assert time.monotonic() < until
        time.sleep(0.1)
