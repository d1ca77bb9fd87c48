"""The pipeline on a real GPU with CuPy and ONNX Runtime; skipped by name where either is missing."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from flare_runtime import Segmenter, Session
from flare_runtime.cases.finding import find_cases
from flare_runtime.cli import main
from flare_runtime.compute.device import CudaDevice
from flare_runtime.errors import DeviceError, GpuMemoryError
from flare_runtime.options import RunOptions
from flare_runtime.pipeline.gpu_memory import MIB, placements
from flare_runtime.run.overlap import segment_overlapping
from flare_runtime.run.serial import segment_cases
from tests.runtime.nifti_files import blobs, write_nifti

pytestmark = pytest.mark.gpu
SPACING = (2.5, 0.8, 0.8)


@pytest.fixture(scope="module")
def device():
    pytest.importorskip("cupy", reason="cupy is not installed")
    try:
        return CudaDevice(0)
    except DeviceError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def cuda(device):
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("the installed onnxruntime has no CUDA")
    return device


@pytest.fixture(scope="module")
def image():
    return (blobs((60, 90, 100)) - 20).astype(np.int16)


def test_arrays_go_there_and_come_back(device):
    array = np.random.default_rng(0).standard_normal((3, 5, 7)).astype(np.float32)
    with device.active():
        there = device.upload(array)
        np.testing.assert_array_equal(device.download(there[:, ::2] * 2), array[:, ::2] * 2)


def test_an_index_beyond_the_last_gpu_says_how_many_there_are(device):
    with pytest.raises(DeviceError, match=r"cuda:4000 is not there; this machine has \d+ GPU"):
        CudaDevice(4000)


@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.9999), ("fp16", 0.99)])
def test_the_mask_agrees_with_the_cpu(cuda, tiny_bundle, image, precision, least):
    expected = Segmenter.load(tiny_bundle, RunOptions(device="cpu", precision="fp32")).segment(image, SPACING).mask
    segmenter = Segmenter.load(tiny_bundle, RunOptions(device="cuda:0", backend="onnxruntime", precision=precision))
    assert (segmenter.network.device, segmenter.network.precision) == ("cuda:0", precision)
    for _ in range(2):
        assert np.mean(segmenter.segment(image, SPACING).mask == expected) >= least


@pytest.mark.parametrize("index", range(5))
def test_every_plan_gives_the_same_mask_within_its_memory(cuda, tiny_bundle, image, index):
    reference = Segmenter.load(tiny_bundle, RunOptions(device="cuda:0", backend="onnxruntime", precision="fp32"))
    chosen = []

    def place(size):
        chosen.append(list(placements(size))[index])
        return chosen[-1]

    planned = Segmenter(reference.bundle, reference.network, device=reference.device, place=place)
    pool = reference.device.pool
    reference.device.release()
    mask = planned.segment(image, SPACING).mask
    # Blocks are freed within the pool, which gives none back before the next case: so much there was at once.
    with reference.device.active():
        taken = pool.total_bytes()
    assert taken <= chosen[0].peak_bytes + MIB
    assert np.mean(mask == reference.segment(image, SPACING).mask) > 0.9999


def test_a_pool_that_is_too_small_is_tried_once_more_and_then_fails_the_case(cuda, tiny_bundle, image, tmp_path):
    segmenter = Segmenter.load(tiny_bundle, RunOptions(device="cuda:0", backend="onnxruntime", precision="fp32"))
    expected = segmenter.segment(image, SPACING).mask
    smallest = min(placement.peak_bytes for placement in placements(_size_of(segmenter, image)))
    segmenter.device.release()
    segmenter.device.limit_memory(2 * smallest + 4 * MIB)
    try:
        assert np.mean(segmenter.segment(image, SPACING).mask == expected) > 0.9999
        segmenter.device.release()
        segmenter.device.limit_memory(1 << 12)  # a tile takes 16 KiB
        with pytest.raises(GpuMemoryError):
            segmenter.segment(image, SPACING)
    finally:
        segmenter.device.limit_memory(0)


def test_a_program_that_has_used_cuda_can_run_the_command(cuda, tiny_bundle, image, tmp_path):
    write_nifti(tmp_path / "scan_0000.nii.gz", image, spacing_mm=SPACING)
    options = ["-m", str(tiny_bundle), "--device", "cuda:0", "--backend", "onnxruntime"]
    assert main(["-i", str(tmp_path / "scan_0000.nii.gz"), "-o", str(tmp_path / "mask.nii.gz"), *options]) == 0
    record = json.loads((tmp_path / "mask.json").read_text(encoding="utf-8"))
    assert (record["model"]["device"], record["model"]["backend"]) == ("cuda:0", "onnxruntime")


@pytest.mark.parametrize("mib", [4096, 1600])
def test_cases_that_overlap_are_those_of_one_after_the_other(cuda, eight_bundle, image, tmp_path, mib):
    (tmp_path / "in").mkdir()
    for index in range(6):
        write_nifti(tmp_path / "in" / f"{index}.nii.gz", image[index:], spacing_mm=SPACING)
    options = RunOptions(device="cuda:0", backend="onnxruntime", precision="fp32", gpu_memory_mib=mib)
    segmenter = Segmenter.load(eight_bundle, options)
    ways = {"one": segment_cases, "many": segment_overlapping}
    records = {
        name: list(segment(segmenter, find_cases(tmp_path / "in", tmp_path / name, 1)))
        for name, segment in ways.items()
    }
    one, many = ([record.mask_sha256 for record in records[name]] for name in ways)
    assert one == many
    for record in records["many"]:
        assert record.gpu_memory_mib["measured"] <= mib


def test_all_gpus_share_the_cases_of_a_folder(cuda, eight_bundle, image, tmp_path):
    (tmp_path / "in").mkdir()
    for index in range(4):
        write_nifti(tmp_path / "in" / f"{index}.nii.gz", image, spacing_mm=SPACING)
    session = Session(eight_bundle, RunOptions(device="cuda:all", backend="onnxruntime"))
    records = list(session.run(tmp_path / "in", tmp_path / "out"))
    assert [record.status for record in records] == ["done"] * 4
    assert len({record.mask_sha256 for record in records}) == 1


@pytest.mark.parametrize("backend", ["onnxruntime", "cudnn"])
def test_the_command_says_where_it_ran_and_nothing_else(cuda, eight_bundle, image, tmp_path, backend):
    if backend == "cudnn":
        pytest.importorskip("cudnn", reason="cuDNN's frontend is not installed")
    write_nifti(tmp_path / "scan_0000.nii.gz", image, spacing_mm=SPACING)
    paths = ["-i", tmp_path / "scan_0000.nii.gz", "-o", tmp_path / "mask.nii.gz", "-m", eight_bundle]
    command = [sys.executable, "-m", "flare_runtime.cli", *map(str, paths), "--device", "cuda:0", "--backend", backend]
    for _ in range(2):  # the first time cudnn is compared with float32, and says so
        run = subprocess.run(command, capture_output=True, text=True, check=True)
    first, second = run.stderr.splitlines()
    assert first.startswith(f"eight on cuda:0 ({backend}, ")
    assert second.startswith("scan: ")
    record = json.loads((tmp_path / "mask.json").read_text(encoding="utf-8"))
    # Planned with what the first run has measured.
    assert 0 < record["gpu_memory_mib"]["measured"] <= record["gpu_memory_mib"]["planned"] + 16


@pytest.mark.parametrize("tta", [False, True])
def test_cudnn_agrees_with_the_cpu_on_every_fold(device, eight_bundle, image, tta):
    pytest.importorskip("cudnn", reason="cuDNN's frontend is not installed")
    expected = (
        Segmenter.load(eight_bundle, RunOptions(device="cpu", precision="fp32", tta=tta)).segment(image, SPACING).mask
    )
    segmenter = Segmenter.load(eight_bundle, RunOptions(device="cuda:0", backend="cudnn", tta=tta))
    assert (segmenter.network.backend, segmenter.network.precision) == ("cudnn", "fp16")
    for _ in range(2):
        assert np.mean(segmenter.segment(image, SPACING).mask == expected) >= 0.99


@pytest.mark.tensorrt
def test_tensorrt_without_an_engine_says_how_to_build_one(device, tiny_bundle, tmp_path):
    pytest.importorskip("tensorrt", reason="tensorrt is not installed")
    shutil.copytree(tiny_bundle, tmp_path / "bundle")
    with pytest.raises(DeviceError, match="flare-export trt "):
        Segmenter.load(tmp_path / "bundle", RunOptions(device="cuda:0", backend="tensorrt"))


def _size_of(segmenter, image):
    seen = []

    def remember(size):
        seen.append(size)
        return next(placements(size))

    Segmenter(segmenter.bundle, segmenter.network, device=segmenter.device, place=remember).prepare(image, SPACING)
    return seen[0]
