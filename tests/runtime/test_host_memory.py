"""What a case takes on the CPU, and the refusal where that is more than there is."""

import gzip
import platform
import re
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from itertools import groupby
from threading import Event

import numpy as np
import pytest

from flare_runtime import RunOptions, Segmenter, Volume
from flare_runtime.backends.registry import find_engine, running_bytes
from flare_runtime.backends.selection import choose
from flare_runtime.cases.finding import find_cases
from flare_runtime.errors import CaseError
from flare_runtime.imaging.read import read_volume
from flare_runtime.imaging.volume import Grid
from flare_runtime.pipeline.gpu_memory import CaseSize
from flare_runtime.pipeline.host_memory import HostMemory, engine_bytes
from flare_runtime.run.serial import segment_cases
from tests.runtime.manifests import FILE_FIELDS, ArithmeticNetwork, make_manifest, memory_bundle
from tests.runtime.nifti_files import nifti_header, write_nifti
from tests.runtime.test_gpu_memory import CHEST, four_stages

MIB = 1 << 20
MANIFEST = make_manifest(patch=[128, 160, 160], network=four_stages())


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps freed memory and can be told")
def test_freed_memory_goes_back_to_the_system():
    # Small pieces below one that stays: the C library cannot give them back by itself.
    code = """
from flare_runtime.pipeline.host_memory import give_back
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


def memory_of(backend="openvino", precision="fp32", **changes):
    return HostMemory(MANIFEST, find_engine(backend, gpu=False).running_bytes(MANIFEST, precision), **changes)


@pytest.fixture
def available(monkeypatch):
    """A function that says what is to be had, in MiB; None where the system does not say."""

    def say(mib):
        left = None if mib is None else round(mib * MIB)
        monkeypatch.setattr("flare_runtime.pipeline.host_memory.available_bytes", lambda: left)
        monkeypatch.setattr("flare_runtime.run.serial.available_bytes", lambda: left)

    return say


def test_a_system_that_does_not_say_refuses_nothing(available):
    available(None)
    memory_of().check(CHEST)


def test_every_stage_of_a_chest_is_counted():
    # The scan is 150 MiB, image and scores are 62.5 each; in plane it is 75, its slabs take 28 and the matrices 1.
    need = memory_of().need(CHEST)
    assert need.scan / MIB == 150
    assert need.preparing / MIB == pytest.approx(150 + 62.5 + 75 + 28, abs=1.5)
    # Two tensors of 32 x 128 x 160 x 160 are 800 MiB in float32, one of 64 x 64 x 80 x 80 is 100 MiB; a tile has 12.5
    # MiB a channel, and seven of them: of the image, of the logits twice, of scores and weights.
    assert need.running / MIB == 900 + 2 * 62.5 + 7 * 12.5
    # The mask, and where a coarse score is positive.
    assert need.restoring / MIB == pytest.approx(75 + 2 * 62.5 + 2 * 250 / 16, abs=1)
    assert need.peak == need.running


def test_removing_components_takes_its_share_once_the_scores_are_gone():
    assert memory_of().need(CHEST).removing < memory_of().need(CHEST).restoring
    # The image, the mask of 75 MiB, and eight bytes a voxel of it.
    assert memory_of(removes=True).need(CHEST).removing / MIB == pytest.approx(62.5 + 75 + 8 * 75)
    assert HostMemory(MANIFEST, removes=True).need(CHEST).removing / MIB == pytest.approx(9 * 75)


def test_maps_of_probabilities_take_one_class_and_the_divisor_of_all(available):
    plain, maps = memory_of().need(CHEST), memory_of(maps="input").need(CHEST)
    # 75 million voxels of the float32 divisor and of one class in float16, beside what labels take: blocks of both are
    # interpolated alike.
    assert maps.restoring / MIB == pytest.approx(plain.restoring / MIB + (4 + 2) * 75)
    assert (maps.scan, maps.preparing, maps.running) == (plain.scan, plain.preparing, plain.running)
    on_network = memory_of(maps="network").need(CHEST)
    assert on_network.restoring / MIB == pytest.approx(plain.restoring / MIB + 6 * 62.5 / 4)
    assert HostMemory(MANIFEST, maps="input").need(CHEST).restoring / MIB == pytest.approx(7 * 75)
    available(100)
    with pytest.raises(CaseError, match="the scan and the probabilities included"):
        memory_of(maps="input").check(CHEST)


def test_the_network_takes_what_its_backend_and_precision_do():
    openvino, bf16 = memory_of().need(CHEST).running, memory_of(precision="bf16").need(CHEST).running
    assert (openvino - bf16) / MIB == 100
    # ONNX Runtime holds four tensors.
    assert (memory_of("onnxruntime").need(CHEST).running - openvino) / MIB == 1600 - 900
    on_gpu = HostMemory(MANIFEST).need(CHEST)
    assert on_gpu.peak == on_gpu.scan


def test_beside_each_other_cases_count_what_a_gpu_may_have_no_room_for():
    grid = Grid((300, 512, 512), (2.0, 0.8, 0.8), 2)
    on_gpu = HostMemory(MANIFEST).need_of([grid])
    assert on_gpu.beside_network == memory_of().need_of([grid]).beside_network > on_gpu.scan
    # Two of them fit where the tile of one, and what both take beside it, are there.
    with pytest.MonkeyPatch.context() as patch:
        for spare, fits in ((1, True), (-1, False)):
            left = 2 * on_gpu.beside_network + on_gpu.network + spare
            patch.setattr("flare_runtime.pipeline.host_memory.available_bytes", lambda left=left: left)
            assert HostMemory(MANIFEST).fit([on_gpu] * 2) == fits
        assert not HostMemory(MANIFEST).fit([on_gpu], processes=3)


def test_every_fold_takes_its_share():
    # Nine quarters of a tensor of 400 MiB each; to compile, 5 x 5,602,950 weights of 4 bytes each beside 96 MiB.
    files = [{**FILE_FIELDS, "name": f"{fold}.onnx", "fold": str(fold)} for fold in range(5)]
    bundle = memory_bundle(patch=[128, 160, 160], network=four_stages(), files=files)
    assert running_bytes(choose(bundle, RunOptions(device="cpu"))) / MIB == 5 * 900
    assert [engine_bytes(MANIFEST, folds) - 96 * MIB for folds in (1, 3)] == [112_059_000, 336_177_000]


def test_the_mask_of_what_is_not_zero_is_counted_where_it_is_made():
    def preparing(**scheme):
        channels = [{"name": "MR", "normalisation": {"scheme": "zscore", **scheme}}]
        return HostMemory(make_manifest(patch=[128, 160, 160], channels=channels), 0).need(CHEST).preparing

    assert preparing(masked=True) - preparing(masked=False) == 300 * 512 * 512
    assert preparing() == preparing(masked=False)


def test_two_channels_are_read_and_prepared_side_by_side():
    one, two = (memory_of().need(replace(CHEST, channels=count)) for count in (1, 2))
    assert (two.scan - one.scan) / MIB == 150
    assert (two.preparing - one.preparing) / MIB == 150 + 62.5
    assert (two.running - one.running) / MIB == 62.5 + 12.5


def test_a_long_scan_is_at_its_peak_while_it_is_prepared_or_restored():
    fine, coarse = (9000, 512, 512), (9000, 256, 256)
    long = replace(CHEST, scan=fine, crop=fine, resampled=coarse, padded=coarse)
    need = memory_of("openvino", "bf16").need(long)
    assert need.preparing == need.peak > 9000 * 512 * 512 * 2 + 2 * 9000 * 256 * 256 * 4
    bytes_at_once = replace(long, raw_itemsize=1)
    need = memory_of("openvino", "bf16").need(bytes_at_once)
    assert need.restoring == need.peak


def test_more_than_there_is_is_refused_with_both_figures(available):
    # What is in memory already need not be had once more.
    available(1000)
    with pytest.raises(
        CaseError, match=r"needs about 1,1\d\d MiB, the scan included, 1,1\d\d MiB are to be had"
    ) as caught:
        memory_of(compiling_bytes=lambda: 80 * MIB).check(CHEST)
    assert caught.value.reason == "too_little_memory"
    assert "use a machine with more memory" in str(caught.value)
    memory_of().check(CHEST)
    available(memory_of().need(CHEST).peak / MIB - 151)
    with pytest.raises(CaseError, match="needs about"):
        memory_of().check(CHEST)


def test_probabilities_of_two_classes_need_nine_bytes_a_voxel_beside_the_scores(available):
    # 78.6 million voxels of the scan, 16.4 million scores of four bytes.
    shape, padded = (300, 512, 512), 250 * 256 * 256
    available(9 * 75 + 62.5 + 1)
    memory_of().check_probabilities(shape, padded)
    available(9 * 75 + 62.5 - 1)
    with pytest.raises(CaseError, match="needs about 737 MiB, the probabilities included, 736 MiB are to be had"):
        memory_of().check_probabilities(shape, padded)
    HostMemory(MANIFEST).check_probabilities(shape, padded)  # a GPU has the scores


def test_before_reading_only_what_is_certain_is_asked_for(available):
    grid = Grid((300, 512, 512), (2.0, 0.8, 0.8), 2)
    # All of it could be zero but for a voxel: then a plane of the image, a patch of the scores, a tile and the network.
    certain = 900 + 160 * 160 * 4 / MIB + 8 * 12.5
    available(certain + 1)
    memory_of().check_before_reading([grid])
    assert memory_of().peak_of([grid]) / MIB > certain + 100
    available(certain - 1)
    with pytest.raises(CaseError, match=r"needs about 1,000 MiB, the scan included, 999 MiB are to be had"):
        memory_of().check_before_reading([grid])
    with pytest.raises(CaseError, match=r"needs about 1,5\d\d MiB"):
        memory_of().check_before_reading([replace(grid, itemsize=8, shape=(768, 512, 512))])


def raw_segmenter(network=None, **changes):
    bundle = memory_bundle(
        channels=[{"name": "raw", "normalisation": {"scheme": "none"}}], spacing_mm=[2.0, 1.0, 1.0], **changes
    )
    network = network or ArithmeticNetwork()
    return Segmenter(bundle, network, memory=HostMemory(bundle.manifest, network_bytes=0))


def test_the_estimate_without_the_network_is_what_numpy_takes():
    segmenter = raw_segmenter(patch=[16, 32, 32])
    image = np.full((120, 150, 160), -50, np.int16)
    image[40:60, 50:80, 60:70] = 50
    volume = Volume.of_array(image, (1.0, 0.8, 0.8))
    size = CaseSize.of([volume.grid], volume.shape, segmenter.bundle.manifest)
    tracemalloc.start()
    segmenter.segment(volume)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    need = segmenter.memory.need(size)
    estimate = max(need.preparing - need.scan, need.running, need.restoring)  # the scan was there before
    assert 0.9 * peak < estimate < 1.5 * peak


def test_a_case_whose_probabilities_cannot_be_held_is_refused_before_the_network_runs(available):
    network = ArithmeticNetwork()
    segmenter = raw_segmenter(network)
    case = segmenter.prepare(np.full((40, 50, 60), 1, np.int16), (2.0, 1.0, 1.0))
    available(1)  # two classes take 0.92 MiB, the scores 0.46 and the mask 0.11
    with pytest.raises(CaseError, match="the probabilities included") as caught:
        segmenter.finish(case, with_probabilities=True)
    assert (caught.value.reason, network.calls) == ("too_little_memory", 0)
    assert segmenter.finish(case).probabilities is None


def cases_of(tmp_path):
    return find_cases(tmp_path / "in", tmp_path / "out", 1)


def test_a_scan_that_cannot_be_held_is_refused_by_its_header(tmp_path, monkeypatch, available):
    (tmp_path / "in").mkdir()
    write_nifti(tmp_path / "in" / "a.nii.gz", np.zeros((40, 200, 200), np.int16))
    monkeypatch.setattr("flare_runtime.run.serial.read_volume", lambda *_: pytest.fail("it was read"))
    available(2)
    (record,) = segment_cases(raw_segmenter(), cases_of(tmp_path))
    assert (record.status, record.reason) == ("refused", "too_little_memory")
    assert "needs about 3 MiB, the scan included, 2 MiB are to be had" in record.message


@pytest.mark.parametrize(("spare_mib", "expected"), [(2.9, "a|b|"), (3.2, "ab|")])
def test_the_next_scan_is_read_while_one_is_segmented_where_there_is_room(
    tmp_path, monkeypatch, available, spare_mib, expected
):
    (tmp_path / "in").mkdir()
    image = np.full((40, 200, 200), -50, np.int16)  # 3.05 MiB
    for name in "ab":
        write_nifti(tmp_path / "in" / f"{name}.nii.gz", image, spacing_mm=(2.0, 1.0, 1.0))
    events = []
    both_read = Event()

    def reading(path, max_voxels, plausible):
        events.append(path.name[0])
        if len(events) > 1:
            both_read.set()
        return read_volume(path, max_voxels, plausible)

    def logits(tiles):
        both_read.wait(0.3 if expected == "a|b|" else 120)
        events.append("|")
        return np.concatenate([-tiles, tiles], axis=1)

    monkeypatch.setattr("flare_runtime.run.serial.read_volume", reading)
    segmenter = raw_segmenter(ArithmeticNetwork(logits), patch=[16, 32, 32])
    volume = Volume.of_array(image, (2.0, 1.0, 1.0))
    available((segmenter.memory.peak_of([volume.grid]) - image.nbytes) / MIB + spare_mib)
    records = list(segment_cases(segmenter, cases_of(tmp_path)))
    assert [record.status for record in records] == ["done", "done"]
    assert "".join(event for event, _ in groupby(events)) == expected


@pytest.mark.parametrize("shape", [(1, 1, 12000), (1, 12000, 1), (12000, 1, 1)])
def test_a_row_of_12000_voxels_takes_megabytes(tmp_path, shape):
    (tmp_path / "in").mkdir()
    row = np.random.default_rng(0).integers(-1000, 1000, shape, dtype=np.int16)
    spacing = tuple(0.25 if side > 1 else 2.0 for side in shape)
    file = write_nifti(tmp_path / "in" / "a.nii.gz", row, spacing_mm=spacing)
    assert file.stat().st_size < 24_000
    tracemalloc.start()
    (record,) = segment_cases(raw_segmenter(), cases_of(tmp_path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert record.status == "done"
    assert peak < 24 * MIB


def test_under_a_limit_of_the_process_a_scan_is_refused_and_the_next_one_done(tmp_path):
    (tmp_path / "in").mkdir()
    write_nifti(tmp_path / "in" / "b.nii.gz", np.full((20, 30, 40), 50, np.int16))
    header = nifti_header((600, 1024, 512))
    with gzip.open(tmp_path / "in" / "a.nii.gz", "wb", compresslevel=1) as stream:
        stream.write(bytes(header.binaryblock) + bytes(4))
        for _ in range(600):
            stream.write(bytes(1 << 20))
    code = f"""
import resource
from pathlib import Path
from tests.runtime.test_host_memory import cases_of, raw_segmenter
from flare_runtime.run.serial import segment_cases
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (400 << 20), resource.RLIM_INFINITY))
for record in segment_cases(raw_segmenter(), cases_of(Path({str(tmp_path)!r}))):
    print(record.case, record.status, record.reason, record.message)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = ran.stdout.splitlines()
    assert re.match(r"a refused too_little_memory needs about 6\d\d MiB, the scan included, 3\d\d MiB are", first)
    assert second.startswith("b done")


def test_the_memory_of_compiling_counts_until_it_is_done(monkeypatch):
    compiled = Event()
    monkeypatch.setattr(
        "flare_runtime.segmenter.read_network",
        lambda _choice: lambda _device: compiled.wait(300) and ArithmeticNetwork(),
    )
    bundle = memory_bundle()
    coming = Segmenter.load(bundle, RunOptions(device="cpu"), wait=False)
    assert coming.memory.compiling_bytes() == engine_bytes(bundle.manifest, 1) > 0
    compiled.set()
    assert coming.network.backend == "arithmetic"
    assert coming.memory.compiling_bytes() == 0
