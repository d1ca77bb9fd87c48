"""`flare-export triton`: configurations by Triton's schema, and the pipeline's model under a stand-in."""

import gzip
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import nibabel
import numpy as np
import onnxruntime
import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig, ModelInstanceGroup
from tritonclient.grpc.service_pb2 import ModelInferResponse
from tritonclient.grpc.service_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)
from tritonclient.utils import InferenceServerException

from flare_export import cli
from flare_runtime import cli as infer_cli
from tests.runtime.nifti_files import blobs, nifti_bytes, write_nifti

STAND_IN = Path(__file__).with_name("triton_stand_in")
SPACING = (2.5, 1.5, 1.5)


@pytest.fixture(scope="module")
def repository(tiny_bundle, tmp_path_factory):
    place = tmp_path_factory.mktemp("triton") / "repository"
    assert cli.main(["triton", str(tiny_bundle), "-o", str(place)]) == 0
    return place


@pytest.fixture(scope="module")
def utils():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(STAND_IN))
        yield importlib.import_module("triton_python_backend_utils")


@pytest.fixture(scope="module")
def model(repository, utils):
    return loaded(repository)


def loaded(repository):
    """Load an instance as Triton does, which writes no bytecode here: the repository is compared below."""
    spec = importlib.util.spec_from_file_location("triton_model", repository / "tiny" / "1" / "model.py")
    module = importlib.util.module_from_spec(spec)
    exec(compile(Path(spec.origin).read_bytes(), spec.origin, "exec"), module.__dict__)
    instance = module.TritonPythonModel()
    folder = str(repository / "tiny")
    kind = {"model_instance_kind": "CPU", "model_instance_device_id": "0", "model_instance_name": "tiny_0"}
    config = {"model_name": "tiny", "model_version": "1", "model_repository": folder, "model_config": "{}"}
    instance.initialize({**kind, **config})
    return instance


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    return write_nifti(tmp_path_factory.mktemp("scan") / "scan_0000.nii.gz", blobs((20, 30, 28)), spacing_mm=SPACING)


@pytest.fixture(scope="module")
def mask_file(tiny_bundle, scan):
    """The mask that flare-infer makes of the scan."""
    mask = scan.with_name("mask.nii.gz")
    assert infer_cli.main(["-i", str(scan), "-o", str(mask), "-m", str(tiny_bundle), "--no-records"]) == 0
    return mask


def request(utils, names=("mask", "mask_nifti"), **arrays):
    tensors = [utils.Tensor(name, array) for name, array in arrays.items()]
    return utils.InferenceRequest(inputs=tensors, requested_output_names=list(names), model_name="tiny")


def files(*contents):
    array = np.empty(len(contents), np.object_)
    array[:] = contents
    return array


def outputs(response):
    assert not response.has_error(), response.error().message()
    return {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}


def tree(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- configurations


def parsed(path):
    return text_format.Parse(path.read_text(encoding="utf-8"), ModelConfig())


def shapes(tensors):
    return {tensor.name: (DataType.Name(tensor.data_type), list(tensor.dims)) for tensor in tensors}


def test_the_pipeline_is_configured_by_tritons_schema(repository):
    config = parsed(repository / "tiny" / "config.pbtxt")
    assert (config.name, config.backend, config.max_batch_size) == ("tiny", "python", 0)
    assert (repository / "tiny" / "1" / config.default_model_filename).is_file()
    assert shapes(config.input) == {
        "scan": ("TYPE_STRING", [1]),
        "voxels": ("TYPE_FP32", [1, -1, -1, -1]),
        "affine": ("TYPE_FP64", [4, 4]),
    }
    assert all(tensor.optional for tensor in config.input)
    assert shapes(config.output) == {"mask": ("TYPE_UINT8", [-1, -1, -1]), "mask_nifti": ("TYPE_STRING", [1])}
    (group,) = config.instance_group
    assert (group.count, group.kind) == (1, ModelInstanceGroup.KIND_AUTO)


@pytest.mark.parametrize(
    ("file", "backend", "kind", "stored"),
    [
        ("config.pbtxt", "onnxruntime", ModelInstanceGroup.KIND_AUTO, "model.onnx"),
        ("configs/tensorrt.pbtxt", "tensorrt", ModelInstanceGroup.KIND_GPU, "model.fp16.onnx"),
    ],
)
def test_the_network_is_configured_as_its_onnx_is(repository, file, backend, kind, stored):
    config = parsed(repository / "tiny_network" / file)
    assert (config.name, config.backend, config.max_batch_size) == ("tiny_network", backend, 0)
    (group,) = config.instance_group
    assert group.kind == kind
    session = onnxruntime.InferenceSession(repository / "tiny_network" / "1" / stored)
    for tensors, ends in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        assert shapes(tensors) == {end.name: ("TYPE_FP32", end.shape) for end in ends}
        assert {end.type for end in ends} == {"tensor(float)"}


def test_a_plan_is_said_to_be_built_on_the_machine_that_runs_it(repository):
    """No plan is written: without the option that takes this configuration the server does not look for one."""
    config = parsed(repository / "tiny_network" / "configs" / "tensorrt.pbtxt")
    assert config.default_model_filename == "model.plan"
    assert sorted(path.name for path in (repository / "tiny_network" / "1").iterdir()) == [
        "model.fp16.onnx",
        "model.onnx",
    ]
    text = (repository / "tiny_network" / "configs" / "tensorrt.pbtxt").read_text(encoding="utf-8")
    assert "#   trtexec --onnx=1/model.fp16.onnx --stronglyTyped --saveEngine=1/model.plan\n" in text


def test_every_fold_is_a_model(eight_bundle, tmp_path, capsys):
    assert cli.main(["triton", str(eight_bundle), "-o", str(tmp_path / "repository")]) == 0
    names = ["eight", "eight_network_fold_0", "eight_network_fold_1"]
    assert capsys.readouterr().out == f"{tmp_path / 'repository'}: {', '.join(names)}\n"
    for name in names:
        assert parsed(tmp_path / "repository" / name / "config.pbtxt").name == name


# --- the pipeline


def test_the_bytes_of_a_scan_become_the_mask_of_flare_infer(model, utils, scan, mask_file):
    (response,) = model.execute([request(utils, scan=files(scan.read_bytes()))])
    given = outputs(response)
    assert given["mask_nifti"].tolist() == [mask_file.read_bytes()]
    expected = np.asarray(nibabel.load(mask_file).dataobj).T
    assert expected.any()
    assert given["mask"].dtype == np.uint8
    assert np.array_equal(given["mask"], expected)


def test_arrays_with_an_affine_become_the_same_mask(model, utils, scan, mask_file):
    image, mask = nibabel.load(scan), nibabel.load(mask_file)
    voxels = np.asarray(image.dataobj, np.float32).T[None]
    (response,) = model.execute([request(utils, voxels=voxels, affine=image.affine)])
    given = outputs(response)
    assert np.array_equal(given["mask"], np.asarray(mask.dataobj).T)
    own = nibabel.Nifti1Image.from_bytes(gzip.decompress(given["mask_nifti"].item()))
    assert np.allclose(own.affine, mask.affine)


def test_only_what_is_asked_for_is_made(model, utils, scan):
    for name in ("mask", "mask_nifti"):
        (response,) = model.execute([request(utils, [name], scan=files(scan.read_bytes()))])
        assert [*outputs(response)] == [name]


EYE = np.diag([1.5, 1.5, 2.5, 1.0])
VOXELS = np.zeros((1, 8, 8, 8), np.float32)
SOUND = nifti_bytes(blobs((20, 30, 28)))


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({}, "give either scan, the bytes of a NIfTI file for each channel, or voxels and affine"),
        ({"affine": EYE}, "give either scan"),
        ({"voxels": VOXELS}, "give either scan"),
        ({"scan": files(SOUND), "voxels": VOXELS, "affine": EYE}, "give either scan"),
        ({"scan": files(b"")}, "scan: this is not a NIfTI file"),
        ({"scan": files(SOUND[:5000])}, "scan: "),
        ({"scan": files(SOUND, SOUND)}, r"2 image\(s\) given; this model takes 1"),
        ({"voxels": VOXELS[0], "affine": EYE}, r"voxels are of shape \(8, 8, 8\) and affine of \(4, 4\)"),
        ({"voxels": VOXELS[:, :0], "affine": EYE}, "voxels are of shape"),
        ({"voxels": VOXELS, "affine": EYE[:3]}, "voxels are of shape"),
        ({"voxels": VOXELS, "affine": EYE * np.nan}, "the axes, or the origin, cannot be those of a grid"),
        ({"voxels": VOXELS, "affine": EYE * 99}, "the spacing is 148.5 x 148.5 x 247.5 mm"),
        ({"voxels": np.repeat(VOXELS, 2, 0), "affine": EYE}, r"2 image\(s\) given; this model takes 1"),
    ],
)
def test_what_cannot_be_segmented_is_answered_by_an_error_and_the_next_request_by_a_mask(
    model, utils, scan, mask_file, arrays, says
):
    refused, done = model.execute([request(utils, **arrays), request(utils, scan=files(scan.read_bytes()))])
    error = refused.error()
    assert error.code() == utils.TritonError.INVALID_ARG
    assert re.search(says, error.message())
    assert "/proc" not in error.message()
    assert outputs(done)["mask_nifti"].tolist() == [mask_file.read_bytes()]


def test_what_nobody_foresaw_costs_one_request_and_is_logged(model, utils, scan, monkeypatch):
    def fail(*_arguments):
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(type(model._segmenter), "segment", fail)
        (response,) = model.execute([request(utils, scan=files(scan.read_bytes()))])
    assert response.error().code() == utils.TritonError.INTERNAL
    assert response.error().message() == "internal error: ZeroDivisionError; the server's log has more"
    assert "ZeroDivisionError" in utils.Logger.lines[-1]
    assert outputs(model.execute([request(utils, scan=files(scan.read_bytes()))])[0])


def test_a_device_that_is_not_there_is_an_error_of_loading(repository, utils, model):
    from flare_runtime import DeviceError

    with pytest.raises(DeviceError):
        type(model)().initialize({"model_instance_kind": "GPU", "model_instance_device_id": "0"})


INSTANCE = """
import hashlib, sys
sys.dont_write_bytecode = True
sys.path[:0] = [sys.argv[1], sys.argv[2]]
import numpy as np
import triton_python_backend_utils as utils
from importlib import import_module

instance = import_module("1.model").TritonPythonModel()
instance.initialize({"model_instance_kind": "CPU", "model_instance_device_id": "0"})
scan = utils.Tensor("scan", np.array([open(sys.argv[3], "rb").read()], np.object_))
for _ in range(2):
    names = ["mask_nifti"]
    (response,) = instance.execute([utils.InferenceRequest(inputs=[scan], requested_output_names=names, model_name="")])
    print(hashlib.sha256(response.output_tensors()[0].as_numpy().item()).hexdigest())
"""


def test_instances_work_side_by_side_and_write_nothing(repository, scan, mask_file, tmp_path):
    """Each is a process, as in Triton; the places that a program may write to are empty before, and afterwards."""
    before = tree(repository)
    places = {name: tmp_path / name for name in ("here", "TMPDIR", "HOME")}
    for place in places.values():
        place.mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment |= {"TMPDIR": str(places["TMPDIR"]), "HOME": str(places["HOME"])}
    command = [sys.executable, "-c", INSTANCE, str(repository / "tiny"), str(STAND_IN), str(scan)]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=places["here"])
        for _ in range(2)
    ]
    digest = hashlib.sha256(mask_file.read_bytes()).hexdigest()
    assert [process.communicate(timeout=300)[0].split() for process in running] == [[digest] * 2] * 2
    assert tree(repository) == before
    assert [tree(place) for place in places.values()] == [{}] * 3


# --- the client of the documentation


class Service(GRPCInferenceServiceServicer):
    """Answers by KServe's protocol, as Triton does, with what an instance makes of the requests."""

    def __init__(self, utils, instance):
        self._utils, self._instance = utils, instance

    def ModelInfer(self, asked, context):
        given = {}
        for tensor, raw in zip(asked.inputs, asked.raw_input_contents, strict=True):
            assert tensor.datatype == "BYTES"
            given[tensor.name] = self._utils.deserialized(raw, list(tensor.shape))
        names = [output.name for output in asked.outputs]
        (response,) = self._instance.execute([request(self._utils, names, **given)])
        if response.has_error():
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, response.error().message())
        answer = ModelInferResponse(model_name=asked.model_name)
        for tensor in response.output_tensors():
            answer.outputs.add(name=tensor.name(), datatype="BYTES", shape=tensor.shape())
            answer.raw_output_contents.append(self._utils.serialized(tensor.as_numpy()))
        return answer


@pytest.fixture(scope="module")
def address(utils, model):
    server = grpc.server(ThreadPoolExecutor(1))
    add_GRPCInferenceServiceServicer_to_server(Service(utils, model), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_the_clients_call_gets_the_mask_of_flare_infer_or_the_reason(address, scan, mask_file, tmp_path, monkeypatch):
    page = Path(__file__).parents[2] / "docs" / "how-to" / "triton.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    call = compile(code.replace("localhost:8001", address), str(page), "exec")
    monkeypatch.chdir(tmp_path)
    shutil.copy(scan, "scan.nii.gz")
    exec(call, {})
    assert Path("mask.nii.gz").read_bytes() == mask_file.read_bytes()
    Path("scan.nii.gz").write_bytes(b"no scan")
    with pytest.raises(InferenceServerException, match="scan: this is not a NIfTI file"):
        exec(call, {})
