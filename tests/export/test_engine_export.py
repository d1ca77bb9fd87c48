"""`flare-export trt` around TensorRT: what is built, verified and kept; ONNX Runtime plays the engines."""

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

pytest.importorskip("onnx")

from flare_export import cli
from flare_export.engine.export import EngineExport
from flare_export.errors import DisagreementError
from flare_export.graph.batched_graph import with_batch
from flare_export.parity.case_files import channel_files
from flare_runtime.backends.onnxruntime_cpu import OnnxRuntimeNetwork
from flare_runtime.backends.tensorrt.cache import EngineCache, EngineKey
from flare_runtime.errors import BundleError, CaseError, DeviceError, UsageError
from flare_runtime.model.bundle import Bundle
from tests.runtime.nifti_files import blobs, write_nifti

HALF = json.dumps({"Layers": [{"Name": "c", "LayerType": "Convolution", "Inputs": [{"Datatype": "Half"}]}]})


class StandInEngine:
    """An engine whose bytes are the ONNX network, which ONNX Runtime runs."""

    memory_bytes = 4096

    def __init__(self, onnx, batch):
        self.engine = with_batch(onnx, batch)
        self._network = OnnxRuntimeNetwork(self.engine, "fp16", threads=1)
        self.layers = HALF
        self.change = lambda logits: logits

    def layer_information(self):
        return self.layers

    def run(self, tiles):
        return self.change(self._network.run(tiles))


class StandInBuilder:
    """Counts what is built, and lets a test spoil it."""

    def __init__(self):
        self.built = []
        self.spoil = lambda engine: None

    def __call__(self, onnx, batch):
        self.built.append(batch)
        engine = StandInEngine(onnx, batch)
        self.spoil(engine)
        return engine


@pytest.fixture
def bundle(tiny_bundle):
    return Bundle.open(tiny_bundle)


@pytest.fixture
def builder():
    return StandInBuilder()


@pytest.fixture
def lines():
    return []


@pytest.fixture
def case(tmp_path):
    return [[write_nifti(tmp_path / "case_0000.nii.gz", blobs((30, 30, 30)), spacing_mm=(2.5, 1.5, 1.5))]]


def key_of(digest, batch, compatible=False):
    return EngineKey(digest, "11.4.0.106", "NVIDIA Stand-in", "9.0", (16, 16, 16), batch, compatible)


@pytest.fixture
def export(tmp_path, builder, lines):
    folder = tmp_path / "engines"
    folder.mkdir()

    def made(**changes):
        options = {"key_of": key_of, "build": builder, "report": lines.append, **changes}
        return EngineExport(cache=EngineCache(folder, lines.append), **options)

    made.folder = folder
    return made


def kept(export):
    return sorted(path.name for path in export.folder.glob("*.engine"))


def test_every_batch_is_built_verified_and_kept(bundle, export, builder, lines):
    engines = export().run(bundle, [1, 2])
    assert builder.built == [1, 2]
    assert kept(export) == sorted(engine.path.name for engine in engines)
    (file,) = bundle.networks("fp16")
    for engine, batch in zip(engines, (1, 2), strict=True):
        assert engine.key == key_of(file.sha256, batch)
        assert engine.engine == with_batch(bundle.read(file), batch)
        record = engine.record
        assert (record.subject, record.tiles, record.memory_bytes) == ("synthetic patches", batch, 4096)
        assert record.reference.startswith("onnxruntime ")
        assert 0.999 < record.dice <= 1
        assert record.foreground_voxels > 1000
    steps = ["built in", "1 of 1 convolutions", "against onnxruntime", "kept as"]
    for line, (batch, step) in zip(lines, [(batch, step) for batch in (1, 2) for step in steps], strict=True):
        assert line.startswith(f"{file.name}, batch {batch}: {step}"), line


def test_what_is_kept_is_not_built_again_but_on_demand(bundle, export, builder, lines, case):
    first = export().run(bundle, [2])
    del lines[:]
    assert export(cases=case).run(bundle, [2]) == first
    assert builder.built == [2]
    assert [line.split(": ")[1].split(",")[0] for line in lines] == [
        "already built",
        f"against {first[0].record.reference} on 2 tile(s) of synthetic patches",
    ]
    (anew,) = export(cases=case, anew=True).run(bundle, [2])
    assert builder.built == [2, 2]
    assert (anew.record.subject, anew.record.tiles) == ("case", 4)
    assert EngineCache(export.folder).find(anew.key) == anew


def test_every_fold_is_compared_with_its_own_network(tmp_path, export, builder):
    pytest.importorskip("torch")
    from flare_export.bundle.conversion import Naming, export_bundle
    from flare_export.source.model_folder import ModelFolder
    from tests.model_folders import write_model_folder

    folder = write_model_folder(tmp_path / "model", folds=("0", "1"))
    bundle, _ = export_bundle(ModelFolder.read(folder), tmp_path / "bundle", Naming())
    engines = export().run(bundle, [1])
    assert [engine.key.onnx_sha256 for engine in engines] == [file.sha256 for file in bundle.networks("fp16")]
    assert len(kept(export)) == 2
    # The folds disagree with each other, so an engine of the other fold would have been refused.
    other = bundle.read(bundle.networks("fp16")[1])
    with pytest.raises(DisagreementError, match="a Dice of"):
        export(build=lambda _onnx, batch: builder(other, batch), anew=True).run(bundle, [1])


def spoiled_logits(engine):
    engine.change = lambda logits: np.concatenate([logits[:1], logits[:-1]])


def not_a_number(engine):
    engine.change = lambda logits: logits * np.float32("nan")


def background(engine):
    engine.change = lambda logits: np.stack([np.ones_like(logits[:, 0]), -np.ones_like(logits[:, 0])], axis=1)


def single_precision(engine):
    engine.layers = HALF.replace("Half", "Float")


def undescribed(engine):
    engine.layers = ""


def bloated(engine):
    engine.engine = bytes(100 << 20)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (spoiled_logits, "a Dice of"),
        (not_a_number, "NaN or infinity"),
        (background, "finds nothing"),
        (single_precision, "compute in float32"),
        (undescribed, "none of the 0 layers"),
        (bloated, "its weights seem to be float32"),
    ],
)
def test_an_engine_that_is_refused_is_never_kept(bundle, export, builder, spoil, reason):
    builder.spoil = spoil
    with pytest.raises(DisagreementError, match=reason):
        export().run(bundle, [2])
    assert builder.built == [2]
    assert kept(export) == []
    builder.spoil = lambda _engine: None
    assert len(export().run(bundle, [2])) == 1


def test_an_engine_does_not_outlive_its_refusal(bundle, export, builder):
    export().run(bundle, [2])
    builder.spoil = spoiled_logits
    with pytest.raises(DisagreementError, match="a Dice of"):
        export(anew=True).run(bundle, [2])
    assert kept(export) == []


def test_those_before_a_refused_one_are_kept(bundle, export, builder):
    builder.spoil = lambda engine: spoiled_logits(engine) if len(builder.built) == 2 else None
    with pytest.raises(DisagreementError, match="a Dice of"):
        export().run(bundle, [1, 2, 4])
    assert (builder.built, len(kept(export))) == ([1, 2], 1)


def test_a_compatible_engine_may_keep_its_layers_to_itself(bundle, export, builder, lines):
    builder.spoil = undescribed
    (engine,) = export(key_of=lambda digest, batch: key_of(digest, batch, compatible=True)).run(bundle, [1])
    assert engine.key.version_compatible
    assert any("describes no layer" in line for line in lines)


def test_what_is_wrong_with_the_inputs_is_said_before_anything_is_built(bundle, export, builder, tmp_path):
    with pytest.raises(CaseError, match="No such file"):
        export(cases=[[tmp_path / "nowhere.nii.gz"]]).run(bundle, [1])
    damaged = Bundle(tmp_path, bundle.manifest, bundle.sha256)
    with pytest.raises(BundleError, match="missing from the bundle"):
        export().run(damaged, [1])
    assert builder.built == []


@pytest.mark.parametrize("lacking", ["fp16", "fp32"])
def test_a_bundle_that_lacks_a_network_is_refused(bundle, export, lacking):
    files = tuple(file for file in bundle.manifest.files if file.precision != lacking)
    lean = Bundle(bundle.path, msgspec.structs.replace(bundle.manifest, files=files), bundle.sha256)
    with pytest.raises(BundleError, match=f"no {lacking} network"):
        export().run(lean, [1])


def test_the_channels_of_a_case_are_found_by_their_numbers(tmp_path):
    names = [tmp_path / f"case_000{channel}.nii.gz" for channel in range(2)]
    for name in names:
        name.touch()
    assert channel_files(names[:1], 2) == [names]
    with pytest.raises(UsageError, match="channel 2 is missing"):
        channel_files(names[:1], 3)


# --- the command


def run(*arguments, without=()):
    """Run the command in a fresh interpreter that lacks some packages."""
    script = (
        "import sys\n"
        f"for name in {list(without)!r}: sys.modules[name] = None\n"
        "from flare_export.cli import main\n"
        f"sys.exit(main({[str(argument) for argument in arguments]!r}))"
    )
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)


WITHOUT_TENSORRT = ("tensorrt", "tensorrt_lean")


def test_without_tensorrt_the_command_says_what_to_install(tiny_bundle):
    result = run("trt", tiny_bundle, without=(*WITHOUT_TENSORRT, "onnx", "torch"))
    assert result.returncode == DeviceError.exit_code == 5
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("flare-export trt: TensorRT is not installed")
    assert "pip install '.[tensorrt]'" in result.stderr


def test_with_the_lean_runtime_alone_the_command_says_that_it_builds_none(tiny_bundle):
    script = (
        "import sys\n"
        "from tests.runtime.stand_in_tensorrt import stand_in_module\n"
        "sys.modules['tensorrt'], sys.modules['tensorrt_lean'] = None, stand_in_module('tensorrt_lean')\n"
        "from flare_export.cli import main\n"
        f"sys.exit(main(['trt', {str(tiny_bundle)!r}]))"
    )
    root = Path(__file__).resolve().parents[2]
    result = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr.count("\n")) == (5, 1)
    assert "tensorrt_lean runs engines but builds none" in result.stderr


def test_a_bundle_that_is_none_comes_first(tmp_path):
    result = run("trt", tmp_path / "nowhere", without=WITHOUT_TENSORRT)
    assert (result.returncode, result.stderr.count("\n")) == (7, 1)


def test_a_model_folder_named_trt_is_still_a_model_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trt").mkdir()
    assert cli.main(["./trt", "-o", "bundle"]) == 3
    assert "flare-export: trt: holds no plans.json" in capsys.readouterr().err


def test_each_help_tells_of_its_own_arguments(capsys):
    for arguments, holds, lacks in ((["--help"], "MODEL_FOLDER", "--batch"), (["trt", "--help"], "--batch", "--fold")):
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        text = capsys.readouterr().out
        assert ended.value.code == 0
        assert holds in text
        assert lacks not in text
        assert "trt" in text


@pytest.mark.parametrize("arguments", [["trt"], ["trt", "b", "--batch", "0"], ["trt", "b", "--workspace-mib", "-1"]])
def test_wrong_arguments_are_usage_errors(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("flare-export trt: ")


@pytest.mark.tensorrt
def test_with_tensorrt_the_command_builds_and_verifies_and_the_runtime_finds(tiny_bundle, tmp_path, monkeypatch):
    pytest.importorskip("tensorrt")
    from flare_runtime.compute.device import CudaDevice

    try:
        device = CudaDevice(0)
    except DeviceError as error:
        pytest.skip(str(error))
    from flare_runtime.backends.tensorrt.library import TENSORRT
    from flare_runtime.backends.tensorrt.network import find_engines, load_engine

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    bundle = Bundle.open(tiny_bundle)
    assert find_engines(TENSORRT, bundle, device) == []
    assert cli.main(["trt", str(tiny_bundle), "--batch", "1", "2"]) == 0
    (network,) = [load_engine(TENSORRT, found, device) for found in find_engines(TENSORRT, bundle, device)]
    tiles = np.random.default_rng(0).standard_normal((2, 1, 16, 16, 16)).astype(np.float32)
    reference = OnnxRuntimeNetwork(bundle.read(bundle.networks("fp32")[0]), threads=1)
    with device.active():
        logits = device.download(network.run(device.upload(tiles)))
    expected = np.concatenate([reference.run(tile[None]) for tile in tiles])
    assert np.abs(logits - expected).max() < 0.02 * np.abs(expected).max()
