"""The benchmarks' guard: a stage that loses its lead over its reference fails the run."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from benchmarks.ratios import lost, ratios

ROOT = Path(__file__).resolve().parents[2]

# Its clock goes on by what is said, however busy the machine is.
STAGE = """
import pytest

passed_s = 0.0

def timer():
    take(1e-6)
    return passed_s

def take(seconds):
    global passed_s
    passed_s += seconds

@pytest.mark.benchmark(group="a stage", min_rounds=3, max_time=0.01, warmup=False, timer=timer)
class TestStage:
    def test_flare(self, benchmark):
        benchmark(take, {ours})

    def test_slow_reference(self, benchmark):
        benchmark(take, 0.2)
"""


@pytest.fixture
def bench(tmp_path):
    """A function that runs a folder of benchmarks whose one stage takes `ours` seconds, its reference 0.2."""
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    for name in ("__init__.py", "conftest.py", "ratios.py", "tables.py"):
        shutil.copy(ROOT / "benchmarks" / name, folder)

    def run(ours, *options):
        (folder / "test_stage.py").write_text(STAGE.format(ours=ours), encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", str(folder), *options]
        # Beside other tests nothing is measured; these are no measurements.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    return run


def test_a_stage_that_is_slowed_down_is_caught(bench, tmp_path):
    assert bench(0.02, "--store-ratios").returncode == 0
    stored = json.loads((tmp_path / "benchmarks" / "ratios.json").read_text(encoding="utf-8"))
    assert stored["a stage"] == pytest.approx(10, rel=0.01)
    assert bench(0.024).returncode == 0
    slow = bench(0.12)
    assert slow.returncode == 1
    assert "slower than the baselines allow" in slow.stdout
    assert "a stage: 1." in slow.stdout


def test_without_baselines_nothing_fails(bench):
    run = bench(0.12)
    assert run.returncode == 0
    assert "ratios to the references" in run.stdout


def benchmark(group, name, median):
    return SimpleNamespace(group=group, name=name, stats=SimpleNamespace(median=median))


def test_ratios_are_of_groups_with_both_sides():
    found = ratios(
        [
            benchmark("read", "test_flare", 0.1),
            benchmark("read", "test_simpleitk_reference", 0.25),
            benchmark("read", "test_gzip_floor", 0.2),
            benchmark("write", "test_flare", 0.1),
        ]
    )
    assert found == {"read": 2.5}


def test_half_of_the_lead_may_go_and_no_more():
    assert lost({"read": 1.0, "new": 0.1}, {"read": 2.0, "gone": 9.0}) == []
    (line,) = lost({"read": 0.99}, {"read": 2.0})
    assert line == "read: 0.99 times as fast as its reference, 2.00 is the baseline, 1.00 the least"
