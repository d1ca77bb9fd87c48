"""The benchmark of the memory estimate: a fresh process gives both figures."""

import json
import subprocess
import sys

import pytest
from benchmarks.scans import write_scan

from flare_runtime.model.bundle import default_bundle


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_estimate_and_measurement_of_one_scan(tmp_path, backend):
    scan = tmp_path / "scan.nii.gz"
    write_scan(scan, (40, 120, 1200), (2.5, 1.5, 1.5), "int16")
    options = ["--model", str(default_bundle()), "--scan", str(scan), "--tiles", "2", "--backend", backend]
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory_estimate", *options], capture_output=True, text=True, check=True
    )
    found = json.loads(ran.stdout)
    assert 0.8 < found["estimate"] / found["measured"] < 1.25
