"""The engines, on a real exported network."""

import hashlib
import os
import shutil
import subprocess
import sys
from functools import partial

import msgspec
import numpy as np
import pytest

from flare_runtime import Segmenter
from flare_runtime.backends.ensemble import Ensemble
from flare_runtime.backends.openvino import network as openvino_backend
from flare_runtime.backends.openvino.int8 import cpu_has_int8, encode_ranges
from flare_runtime.backends.registry import running_bytes
from flare_runtime.backends.selection import choose, open_network
from flare_runtime.errors import BundleError, DeviceError, UsageError
from flare_runtime.files.cache_folder import cache_folder
from flare_runtime.model.bundle import Bundle
from flare_runtime.model.manifest import BundleFile, Parity, encode_manifest
from flare_runtime.options import RunOptions
from tests.runtime.manifests import ArithmeticNetwork, write_bundle
from tests.runtime.nifti_files import blobs
from tests.runtime.test_openvino_int8 import ranges_of


@pytest.fixture(scope="module")
def bundle(tiny_bundle):
    return Bundle.open(tiny_bundle)


@pytest.fixture(scope="module")
def tile():
    return np.random.default_rng(0).standard_normal((1, 1, 16, 16, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def expected(tiny_model, tile):
    """The logits PyTorch computes from the checkpoint."""
    torch = pytest.importorskip("torch")
    from flare_export.source.model_folder import ModelFolder

    folder = ModelFolder.read(tiny_model)
    with torch.inference_mode():
        return folder.network(folder.checkpoints[0])(torch.from_numpy(tile)).numpy()


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime", "auto"])
def test_float32_engines_compute_what_pytorch_does(bundle, tile, expected, backend):
    network = open_network(bundle, RunOptions(backend=backend, precision="fp32", threads=1))
    np.testing.assert_allclose(network.run(tile), expected, atol=1e-3)
    assert network.backend == ("openvino" if backend == "auto" else backend)
    assert (network.device, network.precision) == ("cpu", "fp32")


def test_bfloat16_is_close_where_the_cpu_has_it(bundle, tile, expected):
    if not openvino_backend.cpu_has_bf16():
        pytest.skip("this CPU has no bfloat16")
    network = open_network(bundle, RunOptions(precision="bf16", threads=1))
    assert network.precision == "bf16"
    logits = network.run(tile)
    assert 0 < np.abs(logits - expected).max() < 0.1 * np.abs(expected).max()


def test_bfloat16_is_refused_where_the_cpu_has_none(bundle, monkeypatch):
    monkeypatch.setattr(openvino_backend, "cpu_has_bf16", lambda: False)
    with pytest.raises(DeviceError, match="no bfloat16"):
        open_network(bundle, RunOptions(precision="bf16"))


def test_runs_do_not_depend_on_earlier_ones(bundle, tile, expected):
    network = open_network(bundle, RunOptions(precision="fp32", threads=1))
    network.run(tile * 7 + 3)
    np.testing.assert_allclose(network.run(tile), expected, atol=1e-3)


def test_threads_bind_the_network_of_overflowing_tiles_as_well(bundle):
    rescuer = Segmenter.load(bundle, RunOptions(device="cpu", precision="fp32", threads=1))._float32_network()
    assert rescuer._compiled.get_property("INFERENCE_NUM_THREADS") == 1


@pytest.mark.parametrize(
    "options", [{"device": "abacus"}, {"backend": "tensorflow"}, {"precision": "int1"}, {"device": ""}]
)
def test_unknown_choices_are_usage_errors_that_list_the_known(bundle, options):
    with pytest.raises(UsageError, match="choose one of auto, "):
        open_network(bundle, RunOptions(**options))


def test_onnxruntime_has_no_bfloat16(bundle):
    with pytest.raises(UsageError, match="no bf16; use"):
        open_network(bundle, RunOptions(backend="onnxruntime", precision="bf16"))


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_bytes_that_are_no_onnx_are_a_bundle_error_of_one_line(tmp_path, backend):
    with pytest.raises(BundleError, match="not a network that flare-export writes") as caught:
        open_network(Bundle.open(write_bundle(tmp_path / "model")), RunOptions(backend=backend, precision="fp32"))
    assert "\n" not in str(caught.value)


def test_a_bundle_without_float32_network_is_refused(tmp_path, bundle, tiny_bundle):
    shutil.copytree(tiny_bundle, tmp_path / "model")
    file = msgspec.structs.replace(bundle.manifest.files[0], precision="fp16")
    manifest = msgspec.structs.replace(bundle.manifest, files=(file,))
    (tmp_path / "model" / "manifest.json").write_bytes(encode_manifest(manifest))
    with pytest.raises(BundleError, match="no fp32 network"):
        open_network(Bundle.open(tmp_path / "model"))


def record(dice, *, precision="bf16", scope="case", foreground=1000, backend="openvino"):
    return Parity(
        backend=backend,
        precision=precision,
        reference="nnU-Net",
        scope=scope,
        subject="case",
        voxel_agreement=1.0,
        dice=dice,
        foreground_voxels=foreground,
    )


@pytest.mark.parametrize(
    ("parity", "agrees"),
    [
        ((), False),
        ((record(1.0, scope="patch"),), False),
        ((record(1.0, precision="fp32"),), False),
        ((record(1.0, backend="onnxruntime"),), False),
        ((record(1.0, foreground=0),), False),
        ((record(0.999), record(0.994)), False),
        ((record(0.999), record(0.995)), True),
        ((record(0.999), record(0.0, foreground=0)), True),
    ],
)
def test_auto_takes_bfloat16_only_where_whole_cases_were_measured_to_agree(bundle, monkeypatch, parity, agrees):
    monkeypatch.setattr(openvino_backend, "cpu_lists_bf16", lambda: True)
    measured = Bundle(bundle.path, msgspec.structs.replace(bundle.manifest, parity=parity), bundle.sha256)
    assert choose(measured, RunOptions(device="cpu")).precision == ("bf16" if agrees else "fp32")
    expected = "bf16" if agrees and openvino_backend.cpu_has_bf16() else "fp32"
    assert open_network(measured, RunOptions(threads=1)).precision == expected


@pytest.mark.parametrize(("lists", "expected"), [("fpu avx512_bf16", "bf16"), ("fpu avx2", "fp32")])
def test_the_memory_of_a_case_is_that_of_the_precision_which_the_cpu_has(
    bundle, tmp_path, monkeypatch, lists, expected
):
    (tmp_path / "cpuinfo").write_text(lists)
    asked = partial(openvino_backend.cpu_lists_bf16, tmp_path / "cpuinfo")
    monkeypatch.setattr(openvino_backend, "cpu_lists_bf16", asked)
    measured = Bundle(bundle.path, msgspec.structs.replace(bundle.manifest, parity=(record(1.0),)), bundle.sha256)
    choice = choose(measured, RunOptions(device="cpu"))
    assert choice.precision == expected
    segmenter = Segmenter.open(choice)
    assert segmenter.memory.network_bytes == running_bytes(choice)
    assert segmenter.network.precision in ("fp32", expected)


def test_where_the_system_lists_nothing_the_engine_is_asked_for_bfloat16(tmp_path, monkeypatch):
    for has in (True, False):
        monkeypatch.setattr(openvino_backend, "cpu_has_bf16", lambda has=has: has)
        assert openvino_backend.cpu_lists_bf16(tmp_path / "there is none") == has


def test_where_the_engine_has_no_bfloat16_that_the_system_lists_auto_goes_on_in_float32(bundle, monkeypatch):
    monkeypatch.setattr(openvino_backend, "cpu_lists_bf16", lambda: True)
    monkeypatch.setattr(openvino_backend, "cpu_has_bf16", lambda: False)
    measured = Bundle(bundle.path, msgspec.structs.replace(bundle.manifest, parity=(record(1.0),)), bundle.sha256)
    assert open_network(measured, RunOptions(threads=1)).precision == "fp32"


@pytest.fixture
def int8_bundle(bundle, tmp_path):
    """The tiny bundle with ranges for int8."""
    shutil.copytree(bundle.path, tmp_path / "int8")
    data = encode_ranges(ranges_of(bundle.path))
    (tmp_path / "int8" / "ranges.json").write_bytes(data)
    (network,) = bundle.networks()
    file = BundleFile(
        name="ranges.json",
        role="activations",
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        precision="int8",
        fold=network.fold,
    )
    manifest = msgspec.structs.replace(bundle.manifest, files=(*bundle.manifest.files, file))
    (tmp_path / "int8" / "manifest.json").write_bytes(encode_manifest(manifest))
    return Bundle.open(tmp_path / "int8")


@pytest.mark.parametrize("dice", [0.999, 0.99])
@pytest.mark.parametrize("able", [True, False])
def test_auto_takes_int8_where_the_cpu_has_it_and_it_was_measured_to_agree(int8_bundle, monkeypatch, dice, able):
    monkeypatch.setattr("flare_runtime.backends.openvino.int8.cpu_has_int8", lambda: able)
    parity = (record(dice, precision="int8"),)
    measured = Bundle(
        int8_bundle.path, msgspec.structs.replace(int8_bundle.manifest, parity=parity), int8_bundle.sha256
    )
    expected = "int8" if able and dice > 0.995 else "fp32"
    assert choose(measured, RunOptions(device="cpu")).precision == expected
    if cpu_has_int8():
        assert open_network(measured, RunOptions(threads=1)).precision == expected


def test_auto_goes_on_without_ranges_that_a_record_promises(bundle):
    parity = (record(0.999, precision="int8"),)
    measured = Bundle(bundle.path, msgspec.structs.replace(bundle.manifest, parity=parity), bundle.sha256)
    assert open_network(measured, RunOptions(threads=1)).precision == "fp32"


def test_int8_of_a_bundle_without_it_says_how_to_get_it(bundle):
    with pytest.raises(BundleError, match=r"0 of 1 networks can run in int8; add what it takes: flare-export int8 "):
        open_network(bundle, RunOptions(precision="int8"))


def test_int8_is_refused_where_the_cpu_would_cut_its_sums_off(int8_bundle, monkeypatch):
    monkeypatch.setattr("flare_runtime.backends.openvino.network.cpu_has_int8", lambda: False)
    with pytest.raises(DeviceError, match="no dot products of 8-bit integers"):
        open_network(int8_bundle, RunOptions(precision="int8"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cpu", "backend": "tensorrt"}, "needs a GPU"),
        ({"device": "cuda:0", "backend": "openvino"}, "runs on the CPU"),
        ({"device": "cuda:0", "precision": "bf16"}, "no bf16 on GPUs"),
        ({"device": "cuda:0", "precision": "int8"}, "no int8 on GPUs"),
        ({"device": "cpu", "backend": "onnxruntime", "precision": "int8"}, "onnxruntime backend has no int8"),
        ({"device": "cuda:0", "backend": "tensorrt", "precision": "fp32"}, "fp16 alone"),
        ({"backend": "openvino", "precision": "fp16"}, "no fp16 on the CPU"),
        ({"backend": "tensorrt", "precision": "int8"}, "needs a GPU"),
    ],
)
def test_what_goes_together_on_no_machine_is_a_usage_error(bundle, options, message):
    with pytest.raises(UsageError, match=message):
        choose(bundle, RunOptions(**options))


@pytest.mark.parametrize("options", [{"backend": "tensorrt"}, {"precision": "fp16"}])
def test_what_a_machine_without_a_gpu_lacks_is_a_device_error(bundle, monkeypatch, options):
    monkeypatch.setattr("flare_runtime.backends.selection.resolve", lambda _name, _has_engine: "cpu")
    with pytest.raises(DeviceError):
        choose(bundle, RunOptions(**options))


def test_what_only_the_cpu_has_makes_auto_the_cpu(bundle, monkeypatch):
    monkeypatch.setattr("flare_runtime.compute.device.Path.exists", lambda _path: True)
    monkeypatch.setattr("flare_runtime.compute.device.find_spec", lambda _name: True)
    monkeypatch.setattr("flare_runtime.backends.engine.find_spec", lambda _name: True)
    assert choose(bundle, RunOptions(backend="openvino")).device == "cpu"
    assert choose(bundle, RunOptions(precision="bf16")).device == "cpu"
    assert choose(bundle).device == "cuda:0"


@pytest.mark.parametrize(
    ("parity", "precision"),
    [
        ((), "fp32"),
        ((record(0.999, precision="fp16", backend="onnxruntime"),), "fp16"),
        ((record(0.9, precision="fp16", backend="onnxruntime"),), "fp32"),
    ],
)
def test_a_gpu_computes_in_float16_only_where_whole_cases_were_measured_to_agree(bundle, parity, precision):
    measured = Bundle(bundle.path, msgspec.structs.replace(bundle.manifest, parity=parity), bundle.sha256)
    choice = choose(measured, RunOptions(device="cuda:1"))
    assert (choice.device, choice.backend, choice.precision) == ("cuda:1", "auto", precision)
    assert [file.precision for file in choice.networks] == [precision]


def test_a_case_goes_on_in_float32_where_half_precision_overflows(bundle):
    half = open_network(bundle, RunOptions(backend="onnxruntime", precision="fp16"))
    image = (blobs((20, 30, 28)) - 20).astype(np.int16)

    class Overflowing:
        backend, device, precision, batch, calls = half.backend, half.device, half.precision, half.batch, 0

        def run(self, tiles):
            self.calls += 1
            logits = half.run(tiles)
            if self.calls == 1:
                logits[0, 1, 0, 0, 0] = np.inf
            return logits

        def release(self):
            half.release()

    expected, result = (Segmenter(bundle, network).segment(image, (2.5, 1.5, 1.5)) for network in (half, Overflowing()))
    assert expected.remarks == ()
    assert [(remark.code, remark.text[:9]) for remark in result.remarks] == [("overflow", "1 tile(s)")]
    assert np.mean(result.mask == expected.mask) > 0.999


def test_an_ensemble_averages_logits():
    members = [ArithmeticNetwork(lambda tiles, k=k: np.concatenate([tiles * k, tiles + k], axis=1)) for k in (1, 2, 6)]
    tiles = np.random.default_rng(0).standard_normal((1, 1, 3, 3, 3)).astype(np.float32)
    mean = Ensemble(members).run(tiles)
    np.testing.assert_allclose(mean, np.concatenate([tiles * 3, tiles + 3], axis=1), rtol=1e-6)
    assert [member.calls for member in members] == [1, 1, 1]


def test_an_ensemble_survives_members_that_reuse_their_output():
    shared = np.zeros((1, 2, 2, 2, 2), np.float32)

    class Reusing(ArithmeticNetwork):
        def __init__(self, value):
            super().__init__()
            self.value = value

        def run(self, tiles):
            shared[:] = self.value
            return shared

    mean = Ensemble([Reusing(1), Reusing(2), Reusing(6)]).run(np.zeros((1, 1, 2, 2, 2), np.float32))
    np.testing.assert_array_equal(mean, 3)


def test_both_engines_give_one_mask(tiny_bundle):
    image = blobs((20, 30, 28))
    masks = [
        Segmenter.load(tiny_bundle, RunOptions(backend=backend, precision="fp32", threads=1))
        .segment(image, (2.5, 1.5, 1.5))
        .mask
        for backend in ("openvino", "onnxruntime")
    ]
    assert 0.05 < masks[0].mean() < 0.95
    assert np.mean(masks[0] == masks[1]) > 0.9999


def test_compiled_networks_are_kept_in_a_private_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = cache_folder("openvino")
    assert folder == tmp_path / "flare-lite" / "openvino"
    assert folder.stat().st_mode & 0o077 == 0


def test_a_cache_that_others_can_write_to_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache_folder("openvino").chmod(0o777)
    assert cache_folder("openvino") is None


def test_where_no_cache_can_be_had_there_is_none(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert cache_folder("openvino") is None


NOBODY = """
import os
from flare_runtime.files.cache_folder import cache_folder
for name in ("HOME", "XDG_CACHE_HOME"):
    os.environ.pop(name, None)
os.setuid(54321)
print(cache_folder("openvino"))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become a user without a home")
def test_a_user_without_a_home_has_no_cache():
    # As in a container that runs under a number no password file knows.
    result = subprocess.run([sys.executable, "-c", NOBODY], capture_output=True, text=True, check=False)
    assert (result.stdout, result.stderr) == ("None\n", "")


SILENT = """
import sys
from flare_runtime.backends.openvino.network import cpu_has_bf16
cpu_has_bf16()
print("openvino" in sys.modules, sys.modules["openvino_telemetry"], "multiprocessing.popen_fork" in sys.modules)
"""


def test_openvino_tells_nobody_that_it_is_used_and_forks_no_process():
    result = subprocess.run([sys.executable, "-c", SILENT], capture_output=True, text=True, check=True)
    assert result.stdout == "True None False\n"
