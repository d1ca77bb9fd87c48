"""Engines of TensorRT for RTX, built for real: no GPU is needed, and no stand-in."""

import hashlib
import json
import time
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

pytest.importorskip("tensorrt_rtx")

from benchmarks.rtx_engines import PAPER_PATCH, fp16_network, paper_network

from flare_export import cli
from flare_export.engine import command, portable
from flare_export.engine.builder import BuildOptions, build_engine
from flare_export.engine.inspection import InspectedLayer, describe
from flare_export.errors import DisagreementError, ModelError
from flare_export.graph.batched_graph import with_batch
from flare_runtime.backends.tensorrt.cache import EngineInspection
from flare_runtime.backends.tensorrt.library import RTX
from flare_runtime.backends.tensorrt.network import find_engines
from flare_runtime.backends.tensorrt.targets import TARGETS
from flare_runtime.errors import DeviceError
from flare_runtime.model.bundle import Bundle, default_bundle
from tests.runtime.stand_in_tensorrt import StandInDevice

SHAPES = (1, 1, 16, 16, 16), (1, 2, 16, 16, 16)


@pytest.fixture
def bundle(tiny_bundle):
    return Bundle.open(tiny_bundle)


@pytest.fixture
def half(bundle):
    return bundle.read(bundle.networks("fp16")[0])


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of engines of an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "flare-lite" / "tensorrt"


def build(network, target="sm89", **options):
    return build_engine(RTX, network, BuildOptions(target=target, **options))


def convolutions_of(network):
    return sum(node.op_type in ("Conv", "ConvTranspose") for node in onnx.load_from_string(network).graph.node)


def card(compute_capability):
    device = StandInDevice()
    device.gpu_name, device.compute_capability = "Some NVIDIA GPU", compute_capability
    return device


def export(bundle, *arguments):
    return cli.main(["trt", str(bundle.path), "--builder", "rtx", *map(str, arguments)])


# --- what is built


def test_the_shipped_and_the_papers_network_are_built_for_every_target_within_half_a_minute():
    began = time.process_time()
    shipped = Bundle.open(default_bundle())
    networks = [(shipped.read_network(shipped.networks("fp16")[0]), shipped.manifest.patch, 500)]
    networks.append((paper_network(), PAPER_PATCH, 1500))
    for network, patch, most_mib in networks:
        for target in ("sm75", "sm86", "sm89", "sm120"):
            seen = describe(build(network, target).details).check((1, 1, *patch), (1, 2, *patch))
            assert seen.convolutions == convolutions_of(network) == 18
            # Two tensors of the first stage at least, and no more than a card of the challenge has.
            first_stage = 2 * np.prod(patch) * (16 if patch != PAPER_PATCH else 32)
            assert 2 * first_stage <= seen.memory_bytes < most_mib << 20
    assert time.process_time() - began < 30


@pytest.mark.shared_data
def test_a_network_that_was_trained_at_the_papers_width_is_built(shared_data):
    from flare_export.source.model_folder import ModelFolder

    path = shared_data / "s4_sarcoma"
    if not path.is_dir():
        pytest.skip("no trained network of the paper's width among the data")
    folder = ModelFolder.read(path)
    network = fp16_network(folder.network(folder.checkpoints[0]), folder.patch)
    seen = describe(build(network, "sm75").details).check((1, 1, *folder.patch), (1, 2, *folder.patch))
    assert seen.convolutions == 18


def test_an_engine_is_the_same_each_time(half):
    assert build(half).engine == build(half).engine != build(half, "sm86").engine


def test_a_network_with_types_that_contradict_each_other_is_refused(half):
    model = onnx.load_from_string(half)
    weights = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 5)
    wide = onnx.numpy_helper.to_array(weights).astype(np.float32)
    weights.CopyFrom(onnx.numpy_helper.from_array(wide, weights.name))
    with pytest.raises((ModelError, DeviceError), match=r"TensorRT for RTX 1\.\S+ (cannot read|could not build)"):
        build(model.SerializeToString())


def test_a_float32_network_is_refused_before_it_is_built(bundle):
    with pytest.raises(DisagreementError, match="convolutions compute in float32"):
        build(bundle.read(bundle.networks("fp32")[0]))


@pytest.mark.parametrize(("change", "reason"), [("rename", "Blurred /enc"), ("cut", "parse")])
def test_a_network_that_tensorrt_cannot_read_is_refused_with_its_reason(half, change, reason):
    model = onnx.load_from_string(half)
    model.graph.node[1].op_type = "Blurred"
    content = {"rename": model.SerializeToString(), "cut": half[: len(half) // 2]}[change]
    with pytest.raises(ModelError, match=rf"TensorRT for RTX 1\.\S+ cannot read the network: .*{reason}"):
        build(content)


def test_a_batch_is_in_the_engine_and_in_its_memory(half):
    one, four = (describe(build(with_batch(half, batch)).details) for batch in (1, 4))
    assert [end.shape for end in (*four.inputs, *four.outputs)] == [(4, *shape[1:]) for shape in SHAPES]
    assert one.memory_bytes < four.memory_bytes < 4 * one.memory_bytes


# --- what is inspected


@pytest.fixture(scope="module")
def description(tiny_bundle):
    bundle = Bundle.open(tiny_bundle)
    return describe(build(bundle.read(bundle.networks("fp16")[0])).details)


def test_the_builder_tells_every_layer_and_the_ends(description, half):
    ends = [(end.name, end.shape, end.type) for end in (*description.inputs, *description.outputs)]
    assert ends == [("tiles", SHAPES[0], "Float"), ("logits", SHAPES[1], "Float")]
    kinds = [layer.kind for layer in description.layers]
    graph = onnx.load_from_string(half).graph
    assert kinds.count("correlation") == sum(node.op_type == "Conv" for node in graph.node)
    assert kinds.count("deconv") == sum(node.op_type == "ConvTranspose" for node in graph.node)
    summary = description.check(*SHAPES)
    assert summary.convolutions == convolutions_of(half)
    assert summary.inputs == ("tiles: Float, Row major linear FP32 format (kLINEAR), 1 x 1 x 16 x 16 x 16",)


def with_convolution(description, **changes):
    """Return the description with another first convolution."""
    index = next(index for index, layer in enumerate(description.layers) if layer.kind == "correlation")
    layer = msgspec.structs.replace(description.layers[index], **changes)
    layers = (*description.layers[:index], layer, *description.layers[index + 1 :])
    return msgspec.structs.replace(description, layers=layers)


def in_float32(tensors):
    return (msgspec.structs.replace(tensors[0], type="Float"), *tensors[1:])


@pytest.mark.parametrize("what", ["inputs", "constants"])
def test_a_convolution_in_float32_is_refused(description, what):
    layer: InspectedLayer = next(layer for layer in description.layers if layer.kind == "correlation")
    spoiled = with_convolution(description, **{what: in_float32(getattr(layer, what))})
    with pytest.raises(DisagreementError, match=r"1 of .* convolutions compute in float32"):
        spoiled.check(*SHAPES)


@pytest.mark.parametrize(
    "change",
    [{"shape": (1, 1, 16, 16, 8)}, {"type": "Half"}, {"format": "Channel major FP32 format (kDHWC8)"}],
    ids=["shape", "type", "format"],
)
def test_ends_that_the_runtime_does_not_give_are_refused(description, change):
    end = msgspec.structs.replace(description.inputs[0], **change)
    with pytest.raises(DisagreementError, match="the engine reads tiles: "):
        msgspec.structs.replace(description, inputs=(end,)).check(*SHAPES)


@pytest.mark.parametrize("lacking", ["Layers:", "Total Activation", "Total Weights", "LayerType"])
def test_an_engine_that_is_not_described_is_refused(half, lacking):
    details = [message.replace(lacking, "?") for message in build(half).details]
    with pytest.raises(DisagreementError, match="does not describe the engine"):
        describe(details)


# --- the command


def test_the_command_keeps_what_the_runtime_then_finds_on_any_gpu_of_the_kind(bundle, cache, capsys):
    assert export(bundle, "--target", "sm75", "sm120", "--batch", 1, 2) == 0
    out = capsys.readouterr().out
    assert out.count(": kept as ") == 4
    for capability, target in (("7.5", "sm75"), ("12.0", "sm120")):
        (found,) = find_engines(RTX, bundle, card(capability))
        assert (found.key.batch, found.key.gpu, found.key.package) == (2, "", "tensorrt-rtx")
        assert found.path.name.startswith(f"tensorrt-rtx-{RTX.version()}-{target}-batch2-")
        assert isinstance(found.record, EngineInspection)
        beside = json.loads(found.path.with_suffix(".json").read_bytes())
        assert beside["engine"] == found.path.name
        assert beside["sha256"] == hashlib.sha256(found.path.read_bytes()).hexdigest()
        assert beside["sha256"] in out
        assert beside["summary"]["memory_bytes"] == found.record.memory_bytes > 0
        assert len(beside["description"]["layers"]) == found.record.layers
    assert find_engines(RTX, bundle, card("8.9")) == []
    assert {path.stat().st_mode & 0o777 for path in cache.iterdir()} == {0o600}
    assert export(bundle, "--target", "sm75") == 0
    assert "already built" in capsys.readouterr().out


def test_engines_are_carried_as_files_with_names_that_say_what_they_are(bundle, cache, tmp_path):
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        assert export(bundle, "--target", "sm86", "-o", folder) == 0
    written = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders]
    assert written[0] == written[1]
    assert sorted(Path(name).suffix for name in written[0]) == [".engine", ".json"]
    assert not cache.exists()
    cache.mkdir(parents=True, mode=0o700)
    for path in folders[0].glob("*.engine"):
        path.rename(cache / path.name)
    (found,) = find_engines(RTX, bundle, card("8.6"))
    found.path.write_bytes(found.path.read_bytes()[:-1] + b"?")
    told = []
    assert find_engines(RTX, bundle, card("8.6"), report=told.append) == []
    assert "its sha256 differs" in told[0]


def test_carried_engines_replace_nothing_of_others(bundle, tmp_path, capsys):
    assert export(bundle, "--target", "sm86", "-o", tmp_path / "out") == 0
    for path in list((tmp_path / "out").iterdir()):
        mine = path.read_bytes()
        path.write_bytes(b"a letter")
        capsys.readouterr()
        assert export(bundle, "--target", "sm86", "-o", tmp_path / "out") == 6
        assert "was not written by this command" in capsys.readouterr().err
        assert path.read_bytes() == b"a letter"
        path.write_bytes(mine)
    assert export(bundle, "--target", "sm86", "-o", tmp_path / "out") == 0
    assert export(bundle, "--target", "sm86", "-o", bundle.path / "engines") == 6
    assert not (bundle.path / "engines").exists()


def test_a_refused_engine_is_not_kept(bundle, cache, monkeypatch, capsys):
    monkeypatch.setattr(portable, "describe", lambda details: describe(details[:1]))
    assert export(bundle, "--target", "sm89") == 3
    assert not list(cache.glob("*.engine"))
    assert not list(cache.glob("*.json"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--target", "sm89"], "--target is for --builder rtx"),
        (["-o", "folder"], "--output is for --builder rtx"),
        (["--builder", "rtx", "--verify", "case.nii.gz"], "--verify is not for --builder rtx"),
        (["--builder", "rtx", "--version-compatible"], "--version-compatible is not for --builder rtx"),
        (["--builder", "rtx", "--target", "sm89", "--device", "cuda:1"], "give --target or --device"),
    ],
)
def test_options_that_do_not_go_together_are_usage_errors(bundle, arguments, says, capsys):
    assert cli.main(["trt", str(bundle.path), *arguments]) == 2
    error = capsys.readouterr().err
    assert (error.count("\n"), says in error) == (1, True)


@pytest.mark.parametrize(
    ("target", "cards"), [("sm90", " (H100, H200)"), ("sm100", " (B200)"), ("sm80", " (A100)"), ("sm61", "")]
)
def test_targets_that_nvidia_does_not_support_are_refused_by_name(target, cards, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["trt", "bundle", "--builder", "rtx", "--target", target])
    assert ended.value.code == 2
    assert f"TensorRT for RTX does not support {target}{cards}, only sm75 (Turing)" in capsys.readouterr().err


def test_the_default_target_is_the_gpu_that_is_here(bundle, cache, monkeypatch, capsys):
    monkeypatch.setattr(command, "open_device", lambda _name: card("8.9"))
    assert export(bundle) == 0
    assert len(find_engines(RTX, bundle, card("8.9"))) == 1
    monkeypatch.setattr(command, "open_device", lambda _name: card("9.0"))
    assert export(bundle) == 5
    assert "does not support sm90 (H100, H200)" in capsys.readouterr().err


def test_without_a_gpu_and_a_target_the_command_says_what_to_name(bundle, monkeypatch, capsys):
    def none(_name):
        raise DeviceError("cuda:0 cannot be used; use --device cpu")

    monkeypatch.setattr(command, "open_device", none)
    assert export(bundle) == 2
    assert "name the kind with --target: sm75, sm86, sm89, sm120" in capsys.readouterr().err
    assert export(bundle, "--device", "cuda:0") == 5


@pytest.mark.tensorrt
def test_on_a_card_of_a_target_the_engine_computes_what_the_network_does(bundle, cache):
    from flare_runtime.backends.onnxruntime_cpu import OnnxRuntimeNetwork
    from flare_runtime.backends.selection import choose, read_network
    from flare_runtime.backends.tensorrt.targets import target_of
    from flare_runtime.compute.device import CudaDevice
    from flare_runtime.options import RunOptions

    try:
        device = CudaDevice(0)
    except DeviceError as error:
        pytest.skip(str(error))
    if target_of(device.compute_capability) not in TARGETS:
        pytest.skip(f"TensorRT for RTX does not support the {device.gpu_name}")
    assert export(bundle, "--batch", 2) == 0
    network = read_network(choose(bundle, RunOptions("cuda:0", "tensorrt-rtx")))(device)
    assert (network.backend, network.batch) == ("tensorrt-rtx", 2)
    assert len(list(cache.glob("*.kernels"))) == 1
    tiles = np.random.default_rng(0).standard_normal((2, 1, 16, 16, 16)).astype(np.float32)
    reference = OnnxRuntimeNetwork(bundle.read(bundle.networks("fp32")[0]), threads=1)
    with device.active():
        logits = device.download(network.run(device.upload(tiles)))
    expected = np.concatenate([reference.run(tile[None]) for tile in tiles])
    assert np.abs(logits - expected).max() < 0.02 * np.abs(expected).max()


def test_every_target_is_one_that_the_builder_knows():
    import tensorrt_rtx

    assert all(hasattr(tensorrt_rtx.ComputeCapability, target.upper()) for target in TARGETS)
