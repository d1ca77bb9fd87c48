"""What a case takes on the CPU, and the refusal where that is more than there is."""

import platform
import subprocess
import sys
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from flare_runtime import Segmenter
from flare_runtime.errors import CaseError
from flare_runtime.host_memory import check_fits, needed_bytes
from tests.runtime.manifests import ArithmeticNetwork, make_manifest, memory_bundle
from tests.runtime.test_memory_plan import CHEST, four_stages

MIB = 1 << 20
MANIFEST = make_manifest(patch=[128, 160, 160], network=four_stages())


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps freed memory and can be told")
def test_freed_memory_goes_back_to_the_system():
    # Small pieces below one that stays: the C library cannot give them back by itself.
    code = """
from flare_runtime.host_memory import give_back
import resource
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20
pieces = [bytearray(60_000) for _ in range(2000)]
last = bytearray(60_000)
full = resident()
del pieces
held = resident()
give_back()
print(full, held, resident())
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    full, held, left = map(float, ran.stdout.split())
    assert full - left > 100
    assert left < held - 50


def test_a_system_that_does_not_say_refuses_nothing(monkeypatch):
    monkeypatch.setattr("flare_runtime.host_memory.available_bytes", lambda: None)
    assert check_fits(MANIFEST, "openvino", "fp32", 1, CHEST) is None


def test_a_chest_takes_what_was_measured_and_less_in_bfloat16():
    # Two tensors of 32 x 128 x 160 x 160 are 800 MiB in float32, one of 64 x 64 x 80 x 80 is 100 MiB; image and scores
    # take 125 MiB, the mask 75 MiB.
    single, half = (needed_bytes(CHEST, MANIFEST, precision) / MIB for precision in ("fp32", "bf16"))
    assert single == pytest.approx(900 + 125 + 75 + 21, abs=2)
    assert single - half == pytest.approx(100, abs=1)
    # ONNX Runtime holds three.
    other = needed_bytes(CHEST, MANIFEST, "fp32", backend="onnxruntime") / MIB
    assert other - single == pytest.approx(300, abs=1)


def test_more_than_there_is_is_refused_with_both_figures(monkeypatch):
    monkeypatch.setattr("flare_runtime.host_memory.available_bytes", lambda: 1100 * MIB)
    with pytest.raises(CaseError, match=r"needs about 1,1\d\d MiB beside the scan itself, 1,100 MiB are to be had"):
        check_fits(MANIFEST, "openvino", "fp32", 1, CHEST)
    assert check_fits(MANIFEST, "openvino", "bf16", 1, CHEST) is None
    giant = replace(CHEST, crop=(9000, 512, 512), resampled=(9000, 256, 256), padded=(9000, 256, 256))
    with pytest.raises(CaseError, match="use a machine with more memory") as caught:
        check_fits(MANIFEST, "openvino", "bf16", 1, giant)
    assert caught.value.reason == "too_little_memory"


def test_the_estimate_without_the_network_is_what_numpy_takes():
    manifest_changes = {
        "channels": [{"name": "raw", "normalisation": {"scheme": "none"}}],
        "spacing_mm": [2.0, 1.0, 1.0],
        "patch": [16, 32, 32],
    }
    bundle = memory_bundle(**manifest_changes)
    sizes = []
    segmenter = Segmenter(bundle, ArithmeticNetwork(), plan=lambda size: sizes.append(size))
    image = np.full((120, 150, 160), -50, np.int16)
    image[40:60, 50:80, 60:70] = 50
    tracemalloc.start()
    segmenter.segment(image, (1.0, 0.8, 0.8))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    (size,) = sizes
    network = 9 * 16 * 32 * 32 * 4
    estimate = needed_bytes(size, bundle.manifest, "fp32") - network
    assert 0.9 * peak < estimate < 1.5 * peak
