"""What `auto` decides, from the bundle's record and what the machine has; alike on every machine."""

from dataclasses import replace
from threading import Event
from types import SimpleNamespace

import pytest

from flare_runtime import Segmenter
from flare_runtime.backends import registry
from flare_runtime.backends.engine import AbsentEngineError
from flare_runtime.backends.openvino import int8
from flare_runtime.backends.openvino import network as openvino_backend
from flare_runtime.backends.selection import choose, read_network
from flare_runtime.errors import BundleError
from flare_runtime.options import RunOptions
from tests.runtime.manifests import FILE_FIELDS, ArithmeticNetwork, memory_bundle

# The reduced precisions that `auto` may take, and where.
REDUCED = {"bf16": ("openvino", "cpu"), "int8": ("openvino", "cpu"), "fp16": ("onnxruntime", "cuda:0")}


def record(dice, precision="bf16", **changes):
    fields = {
        "backend": REDUCED[precision][0],
        "precision": precision,
        "reference": "nnU-Net",
        "scope": "case",
        "subject": "case",
        "voxel_agreement": 1.0,
        "dice": dice,
        "foreground_voxels": 1000,
    }
    return fields | changes


def file(name, fold, **changes):
    return {**FILE_FIELDS, "name": name, "fold": fold, **changes}


def make_bundle(*records, ranges=("0", "1")):
    """Return a bundle of two folds in both precisions, with what int8 needs of the folds in `ranges`."""
    networks = [
        file(f"{precision}.{fold}", fold, precision=precision) for precision in ("fp32", "fp16") for fold in "01"
    ]
    activations = [file(f"int8.{fold}", fold, role="activations", precision="int8") for fold in ranges]
    return memory_bundle(files=[*networks, *activations], parity=list(records))


@pytest.fixture(autouse=True)
def processor(monkeypatch):
    """A function that says what the processor has; all of it to begin with."""

    def has(*precisions):
        monkeypatch.setattr(openvino_backend, "cpu_lists_bf16", lambda: "bf16" in precisions)
        monkeypatch.setattr(int8, "cpu_has_int8", lambda: "int8" in precisions)

    has("bf16", "int8")
    return has


def auto(bundle, device="cpu"):
    return choose(bundle, RunOptions(device=device)).precision


@pytest.mark.parametrize("precision", REDUCED)
def test_a_reduced_precision_is_taken_where_every_case_agrees(precision):
    device = REDUCED[precision][1]
    assert auto(make_bundle(record(0.999, precision), record(0.995, precision)), device) == precision
    # A case with nothing to find says nothing, and neither does a patch.
    nothing, patch = record(0.0, precision, foreground_voxels=0), record(0.5, precision, scope="patch")
    assert auto(make_bundle(record(0.999, precision), nothing, patch), device) == precision


@pytest.mark.parametrize("precision", REDUCED)
@pytest.mark.parametrize(
    "records",
    [
        [],
        [{"scope": "patch"}],
        [{"backend": "tensorrt"}],
        [{"precision": "fp32"}],
        [{"foreground_voxels": 0}],
        [{"dice": 0.9949}],
        [{"dice": 1.0}, {"dice": 0.9949}],
        [{"dice": 0.9949}, {"dice": 1.0}],
    ],
)
def test_a_reduced_precision_is_not_taken_without_such_a_record(precision, records):
    bundle = make_bundle(*(record(1.0, precision) | changes for changes in records))
    assert auto(bundle, REDUCED[precision][1]) == "fp32"


@pytest.mark.parametrize(
    ("has", "taken"), [(("bf16", "int8"), "int8"), (("bf16",), "bf16"), (("int8",), "int8"), ((), "fp32")]
)
def test_of_those_that_agree_the_first_that_the_processor_has_is_taken(processor, has, taken):
    processor(*has)
    assert auto(make_bundle(record(1.0, "bf16"), record(1.0, "int8"))) == taken


@pytest.mark.parametrize(
    ("ranges", "taken"), [(("0", "1"), "int8"), (("0",), "fp32"), (("0", "0"), "fp32"), ((), "fp32")]
)
def test_int8_is_taken_only_where_every_fold_has_its_ranges(ranges, taken):
    assert auto(make_bundle(record(1.0, "int8"), ranges=ranges)) == taken


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_precision_that_was_asked_for_needs_no_record(processor, precision):
    processor()
    choice = choose(make_bundle(), RunOptions(device="cpu", precision=precision))
    assert (choice.backend, choice.precision) == ("openvino", precision)


@pytest.mark.parametrize(
    ("options", "has", "running"),
    [
        # Of 4 features of 8 x 8 x 8 voxels in each of two folds: 9 bytes, in bfloat16 8, in ONNX Runtime 16.
        ({"precision": "fp32"}, ("bf16",), 2 * 9 * 2048),
        ({}, ("bf16",), 2 * 8 * 2048),
        ({}, (), 2 * 9 * 2048),
        ({"backend": "onnxruntime"}, ("bf16",), 2 * 16 * 2048),
    ],
)
def test_the_memory_of_a_case_is_that_of_the_engine_and_precision_that_are_taken(
    monkeypatch, processor, options, has, running
):
    processor(*has)
    compiled = Event()
    monkeypatch.setattr(
        "flare_runtime.segmenter.read_network",
        lambda _choice: lambda _device: compiled.wait(120) and ArithmeticNetwork(),
    )
    choice = choose(make_bundle(record(1.0, "bf16")), RunOptions(device="cpu", **options))
    segmenter = Segmenter.open(choice, wait=False)
    assert segmenter.memory.network_bytes == running
    # Compiling takes 96 MiB, and five times the 1,000 parameters of each fold, until it is done.
    assert segmenter.memory.compiling_bytes() == (96 << 20) + 2 * 5 * 1000 * 4
    compiled.set()
    assert segmenter.network.backend == "arithmetic"
    assert segmenter.memory.compiling_bytes() == 0


@pytest.mark.parametrize(
    ("options", "stored"),
    [
        ({"device": "cpu"}, "fp32"),
        ({"device": "cpu", "precision": "bf16"}, "fp32"),
        ({"device": "cpu", "precision": "int8"}, "fp32"),
        ({"device": "cpu", "backend": "onnxruntime"}, "fp32"),
        ({"device": "cpu", "backend": "onnxruntime", "precision": "fp16"}, "fp16"),
        ({"device": "cuda:0"}, "fp32"),
        ({"device": "cuda:0", "precision": "fp16"}, "fp16"),
        ({"device": "cuda:0", "backend": "tensorrt"}, "fp16"),
        ({"device": "cuda:0", "backend": "cudnn"}, "fp32"),
    ],
)
def test_every_engine_reads_the_networks_that_it_is_made_for(options, stored):
    choice = choose(make_bundle(), RunOptions(**options))
    assert [file.name for file in choice.networks] == [f"{stored}.0", f"{stored}.1"]


def test_networks_that_are_not_there_are_not_replaced_by_others():
    bundle = memory_bundle(files=[file("fp16.0", "0", precision="fp16")])
    with pytest.raises(BundleError, match="no fp32 network in the bundle"):
        choose(bundle, RunOptions(device="cuda:0", backend="cudnn"))


@pytest.mark.parametrize(
    ("options", "tried"),
    [
        ({}, ["onnxruntime"]),
        ({"precision": "fp16"}, ["tensorrt", "cudnn", "tensorrt-rtx", "onnxruntime"]),
        ({"precision": "fp32"}, ["onnxruntime"]),
        ({"backend": "cudnn"}, ["cudnn"]),
    ],
)
def test_engines_of_a_gpu_are_tried_in_the_order_of_their_speed(monkeypatch, options, tried):
    seen = []

    def opening(name):
        def absent(_choice):
            seen.append(name)
            raise AbsentEngineError("not installed")

        return absent

    engines = [replace(e, open=opening(e.name), available=lambda: True) for e in registry.ENGINES if e.on_gpu]
    monkeypatch.setattr(registry, "ENGINES", (*registry.ENGINES[:2], *engines))
    choice = choose(make_bundle(), RunOptions(device="cuda:0", **options))
    with pytest.raises(AbsentEngineError):
        read_network(choice)(SimpleNamespace(release=lambda: None))
    assert seen == tried
