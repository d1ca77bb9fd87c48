"""Engines as entries of a registry: a new one is a module and an entry, and takes part in everything."""

import json
import logging
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from flare_runtime import RunOptions, Segmenter
from flare_runtime.backends import registry
from flare_runtime.backends.engine import AbsentEngineError, Engine
from flare_runtime.backends.ensemble import joined
from flare_runtime.backends.onnxruntime_cpu import OnnxRuntimeNetwork
from flare_runtime.backends.selection import choose, read_network
from flare_runtime.cli import main
from flare_runtime.errors import DeviceError, GpuMemoryError, LostDeviceError, UsageError
from flare_runtime.model.bundle import Bundle
from tests.runtime.nifti_files import blobs, write_nifti

SPACING = (2.5, 1.5, 1.5)


# --- what a new engine's module holds


class ExampleNetwork(OnnxRuntimeNetwork):
    """A network of the example engine, which leaves the arithmetic to another."""

    backend = "example"


def open_networks(choice):
    models = choice.read_networks()
    return lambda _device: joined([ExampleNetwork(model, choice.precision, choice.options.threads) for model in models])


# --- and its entry

EXAMPLE = Engine(
    "example",
    on_gpu=False,
    precisions=("fp32",),
    open=open_networks,
    available=lambda: True,
    running_bytes=lambda manifest, _precision: 1000 * manifest.network.outputs,
)


@pytest.fixture
def example(monkeypatch):
    monkeypatch.setattr(registry, "ENGINES", (*registry.ENGINES, EXAMPLE))


@pytest.mark.usefixtures("example")
def test_a_new_engine_segments_and_says_so(tiny_bundle):
    image = blobs((20, 30, 28))
    results = [
        Segmenter.load(tiny_bundle, RunOptions(backend=backend, precision="fp32"))
        for backend in ("example", "openvino")
    ]
    assert results[0].network.backend == "example"
    # What it takes is planned with: two outputs.
    assert results[0].memory.network_bytes == 2000
    new, known = (segmenter.segment(image, SPACING).mask for segmenter in results)
    assert 0.05 < new.mean() < 0.95
    assert np.mean(new == known) > 0.9999


@pytest.mark.usefixtures("example")
def test_the_command_knows_a_new_engine(tiny_bundle, tmp_path):
    scan = write_nifti(tmp_path / "scan.nii", blobs((20, 30, 28)), spacing_mm=SPACING)
    arguments = ["-i", str(scan), "-o", str(tmp_path / "mask.nii"), "-m", str(tiny_bundle), "--backend", "example"]
    assert main(arguments) == 0
    assert json.loads((tmp_path / "mask.json").read_text(encoding="utf-8"))["model"]["backend"] == "example"


@pytest.mark.usefixtures("example")
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"backend": "exemplar"}, "choose one of auto, openvino, onnxruntime, tensorrt, cudnn, tensorrt-rtx, example$"),
        ({"backend": "example", "device": "cuda:0"}, "the example backend runs on the CPU"),
        ({"backend": "example", "precision": "bf16"}, "the example backend has no bf16; use --backend openvino or"),
    ],
)
def test_a_new_engine_is_refused_by_the_rules_of_all(tiny_bundle, options, says):
    with pytest.raises(UsageError, match=says):
        choose(Bundle.open(tiny_bundle), RunOptions(**options))


@pytest.mark.usefixtures("example")
def test_auto_is_what_it_was_before(tiny_bundle):
    assert choose(Bundle.open(tiny_bundle), RunOptions(device="cpu")).backend == "openvino"


# --- `auto` on a GPU


def gpu_engine(name, outcome, *, available=True, precisions=("fp16",)):
    """Return an engine that compiles to its outcome, or raises it."""

    def compiled(_device):
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return Engine(name, on_gpu=True, precisions=precisions, open=lambda _choice: compiled, available=lambda: available)


def first_of(monkeypatch, bundle, *engines, precision="fp16"):
    """Return what `auto` makes on a GPU with these engines, and how often memory was given back in between."""
    last = gpu_engine("last", "the last", precisions=("fp32", "fp16"))
    monkeypatch.setattr(registry, "ENGINES", (*registry.ENGINES[:2], *engines, last))
    released = []
    device = SimpleNamespace(release=lambda: released.append(1))
    choice = choose(Bundle.open(bundle), RunOptions(device="cuda:0", precision=precision))
    return read_network(choice)(device), len(released)


def test_the_first_engine_that_works_is_taken(monkeypatch, tiny_bundle):
    engines = [gpu_engine("fast", "the fast"), gpu_engine("slow", "the slow")]
    assert first_of(monkeypatch, tiny_bundle, *engines) == ("the fast", 0)


@pytest.mark.parametrize("error", [DeviceError("no plan"), GpuMemoryError("full")])
def test_an_engine_that_fails_is_left_with_a_warning_and_its_memory_given_back(monkeypatch, tiny_bundle, caplog, error):
    engines = [gpu_engine("fast", error), gpu_engine("slow", "the slow")]
    assert first_of(monkeypatch, tiny_bundle, *engines) == ("the slow", 1)
    assert caplog.messages == [f"fast is left for another engine: {error}"]


@pytest.mark.parametrize(
    "engine", [gpu_engine("fast", AbsentEngineError("not installed")), gpu_engine("fast", "it", available=False)]
)
def test_an_engine_that_is_absent_is_left_without_a_word(monkeypatch, tiny_bundle, caplog, engine):
    caplog.set_level(logging.INFO)
    assert first_of(monkeypatch, tiny_bundle, engine)[0] == "the last"
    assert caplog.messages == []


def test_a_lost_device_ends_the_search(monkeypatch, tiny_bundle):
    with pytest.raises(LostDeviceError):
        first_of(monkeypatch, tiny_bundle, gpu_engine("fast", LostDeviceError("gone")))


def test_an_engine_without_the_precision_is_not_asked(monkeypatch, tiny_bundle):
    assert first_of(monkeypatch, tiny_bundle, gpu_engine("fast", "the fast"), precision="fp32")[0] == "the last"


# --- nothing at import

IMPORT_ALL = """
import importlib, pkgutil, sys
for name in ("openvino", "onnxruntime", "cupy", "cudnn", "tensorrt", "tensorrt_lean", "pynvml"):
    sys.modules[name] = None
import flare_runtime
for module in pkgutil.walk_packages(flare_runtime.__path__, "flare_runtime."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""


def test_every_module_can_be_imported_where_no_engine_is_installed():
    result = subprocess.run([sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


LIBRARY = """
import sys
import numpy as np
from flare_runtime import RunOptions, Segmenter
Segmenter.load({bundle!r}, RunOptions(device="cpu")).segment(np.full((4, 4, 4), -50.0), (2.5, 1.5, 1.5))
import openvino.tools.ovc
print(sys.modules["openvino.tools.ovc"] is not None)
"""


def test_the_library_leaves_openvinos_model_converter_to_other_programs(tiny_bundle):
    code = LIBRARY.format(bundle=str(tiny_bundle))
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "True\n"
