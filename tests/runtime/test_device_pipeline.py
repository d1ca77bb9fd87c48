"""The whole pipeline on a device beside the host, which refuses what CuPy refuses and counts its memory."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from flare_runtime import Segmenter, Volume
from flare_runtime.backends.ensemble import joined
from flare_runtime.cases.finding import find_cases
from flare_runtime.errors import GpuMemoryError
from flare_runtime.imaging.checks import check_volume
from flare_runtime.options import RunOptions
from flare_runtime.pipeline.gpu_memory import placements
from flare_runtime.run.serial import segment_cases
from tests.runtime.manifests import FILE_FIELDS, ArithmeticNetwork, memory_bundle
from tests.runtime.nifti_files import blobs, write_nifti
from tests.runtime.strict_device import StrictDevice, StrictNetwork

CT = {"name": "CT", "normalisation": {"scheme": "ct", "lower": -90.0, "upper": 80.0, "mean": 3.0, "std": 40.0}}
MASKED = {"name": "MR", "normalisation": {"scheme": "zscore", "masked": True}}
RESCALED = {"name": "MR", "normalisation": {"scheme": "rescale01"}}
THREE = {"architecture": "x", "stages": 2, "features": [4, 8], "parameters": 9, "gmac": 1.0, "outputs": 3}


def three_classes(tiles):
    return np.concatenate([np.zeros_like(tiles[:, :1]), tiles[:, :1], -tiles[:, :1] - 0.5], axis=1)


def lopsided(tiles):
    """Logits that depend on the place in the tile, so that mirroring and blending matter."""
    ramp = np.linspace(-0.2, 0.2, tiles[0, 0].size, dtype=np.float32).reshape(tiles.shape[2:])
    return np.concatenate([-tiles[:, :1], tiles[:, :1] + ramp], axis=1)


MODELS = {
    "two classes": ({}, lopsided),
    "three classes": ({"network": THREE}, three_classes),
    "regions": ({"network": THREE, "regions_class_order": [1, 2, 3]}, lambda tiles: three_classes(tiles) - 0.1),
    "transposed": ({"transpose_forward": [2, 0, 1]}, lopsided),
    "masked z-score": ({"channels": [MASKED]}, lopsided),
    "two channels": ({"channels": [CT, RESCALED]}, lambda tiles: lopsided(tiles) + lopsided(tiles[:, 1:])),
    "its own grid": ({"spacing_mm": [3.0, 1.5, 1.25]}, lopsided),
    "turned to RAS": ({"reader": "NibabelIOWithReorient", "spacing_mm": [1.5, 1.5, 2.0]}, lopsided),
    "slices apart": ({"spacing_mm": [3.0, 0.7, 0.7]}, lopsided),
}


def scan(channels=1, slope=1.0):
    image = (blobs((11, 34, 40)) - 20).astype(np.int16)
    image[:, :3] = 0
    volume = Volume.of_array(image, (3.0, 1.5, 1.25), slope=slope, intercept=2.0 if slope != 1 else 0.0)
    return [volume] * channels


def segmenters(model, *, index=0, tta=False, batch=1):
    """Return the same model on the host, and on a device by the placement of that index."""
    changes, function = MODELS[model]
    bundle = memory_bundle(**{"channels": [CT], "spacing_mm": [3.0, 1.0, 1.0], "patch": [6, 16, 12], **changes})
    device = StrictDevice()
    network = StrictNetwork(ArithmeticNetwork(function), device, batch)
    chosen = []

    def place(size):
        chosen.append(list(placements(size))[index])
        return chosen[-1]

    on_device = Segmenter(bundle, network, RunOptions(tta=tta), device=device, place=place)
    return Segmenter(bundle, ArithmeticNetwork(function), RunOptions(tta=tta)), on_device, device, chosen


@pytest.mark.parametrize(("model", "index"), product(MODELS, range(5)))
def test_the_mask_is_the_hosts_and_the_memory_within_the_plan(model, index):
    host, on_device, device, chosen = segmenters(model, index=index)
    image = scan(len(host.bundle.manifest.channels))
    expected, result = host.segment(image), on_device.segment(image)
    assert len(np.unique(expected.mask)) > 1
    np.testing.assert_array_equal(result.mask, expected.mask)
    assert result.lesions == expected.lesions
    assert result.remarks == expected.remarks
    assert 0 < device.memory.peak <= chosen[0].peak_bytes
    assert type(result.mask) is np.ndarray


@pytest.mark.parametrize("index", range(5))
def test_a_scan_that_is_turned_first_is_so_there_too(index):
    host, on_device, device, chosen = segmenters("turned to RAS", index=index)
    (volume,) = scan()
    psr = np.array([[0, 0, 3.0, 0], [-1.25, 0, 0, 0], [0, 1.5, 0, 0], [0, 0, 0, 1]])
    volume = replace(volume, geometry=replace(volume.geometry, affine=psr))
    expected, result = host.segment(volume), on_device.segment(volume)
    assert len(np.unique(expected.mask)) > 1
    np.testing.assert_array_equal(result.mask, expected.mask)
    assert 0 < device.memory.peak <= chosen[0].peak_bytes


@pytest.mark.parametrize(("model", "index"), product(["two classes", "masked z-score"], range(5)))
def test_voxels_that_are_no_numbers_are_the_background_there_too(model, index):
    host, on_device, device, chosen = segmenters(model, index=index)
    (volume,) = scan()
    voxels = volume.voxels.astype(np.float32)
    voxels[5, 10:13, 20:30] = np.nan
    volume = check_volume(Volume.of_array(voxels, volume.spacing_mm))
    expected, result = host.segment(volume), on_device.segment(volume)
    assert len(np.unique(expected.mask)) > 1
    np.testing.assert_array_equal(result.mask, expected.mask)
    assert [remark.code for remark in result.remarks] == ["nonfinite"]
    assert 0 < device.memory.peak <= chosen[0].peak_bytes


@pytest.mark.parametrize("index", range(5))
@pytest.mark.parametrize("axis", range(3))
def test_an_axis_of_thousands_of_voxels_is_resampled_in_several_bands(axis, index):
    host, on_device, device, chosen = segmenters("its own grid", index=index)
    image = (blobs((4, 6, 2700)) - 20).astype(np.int16)
    volume = Volume.of_array(np.ascontiguousarray(np.moveaxis(image, 2, axis)), (1.5, 1.5, 1.5))
    expected, result = host.segment(volume), on_device.segment(volume)
    assert 0 < expected.mask.mean() < 1
    np.testing.assert_array_equal(result.mask, expected.mask)
    assert device.memory.peak <= chosen[0].peak_bytes


@pytest.mark.parametrize(
    ("model", "index"), product(["two classes", "three classes", "regions", "its own grid"], (0, 4))
)
def test_probabilities_are_the_hosts_and_take_no_more_memory_there(model, index):
    host, on_device, device, chosen = segmenters(model, index=index)
    expected, result = (one.segment(scan(), probabilities=True).probabilities for one in (host, on_device))
    assert type(result) is np.ndarray
    np.testing.assert_allclose(result, expected, atol=1e-6)
    assert 0 < device.memory.peak <= chosen[0].peak_bytes


@pytest.mark.parametrize("folds", [1, 3])
@pytest.mark.parametrize("tta", [False, True])
@pytest.mark.parametrize("index", [2, 4])
def test_the_logits_of_many_classes_are_counted_as_often_as_they_are_there(folds, tta, index):
    """Those of 60 classes are all but everything in a single patch: what is planned is not a tenth more."""
    many = {**THREE, "outputs": 60}
    files = [{**FILE_FIELDS, "name": f"{fold}.onnx", "fold": str(fold)} for fold in range(folds)]
    bundle = memory_bundle(channels=[CT], patch=[16, 16, 16], spacing_mm=[1.0] * 3, network=many, files=files)
    device, chosen = StrictDevice(), []

    def place(size):
        chosen.append(list(placements(size))[index])
        return chosen[-1]

    def function(tiles):
        return np.concatenate([tiles * (0.5 - one % 3) for one in range(60)], axis=1)

    network = joined([StrictNetwork(ArithmeticNetwork(function), device) for _ in range(folds)])
    segmenter = Segmenter(bundle, network, RunOptions(tta=tta), device=device, place=place)
    segmenter.segment(Volume.of_array(blobs((16, 16, 16)) - 20, (1.0, 1.0, 1.0)))
    assert 0.9 * chosen[0].peak_bytes <= device.memory.peak <= chosen[0].peak_bytes


@pytest.mark.parametrize("index", [0, 2])
def test_scores_that_are_computed_again_take_the_place_of_those_that_overflowed(index):
    """Of many classes they would be as large as the logits."""
    bundle = memory_bundle(channels=[CT], patch=[24, 24, 24], spacing_mm=[1.0] * 3, network={**THREE, "outputs": 20})
    device, chosen = StrictDevice(), []

    def logits(tiles):
        return np.concatenate([tiles * one for one in range(20)], axis=1)

    half = ArithmeticNetwork(lambda tiles: np.full_like(logits(tiles), np.inf))
    half.precision = "fp16"

    def place(size):
        chosen.append(list(placements(size))[index])
        return chosen[-1]

    segmenter = Segmenter(bundle, StrictNetwork(half, device), device=device, place=place)
    segmenter._rescuer = ArithmeticNetwork(logits)
    volume = Volume.of_array(blobs((24, 24, 24)) - 20, (1.0, 1.0, 1.0))
    result = segmenter.segment(volume)
    assert [remark.code for remark in result.remarks] == ["overflow"]
    np.testing.assert_array_equal(result.mask, Segmenter(bundle, ArithmeticNetwork(logits)).segment(volume).mask)
    assert device.memory.peak <= chosen[0].peak_bytes


def test_nothing_is_left_on_the_device():
    _, on_device, device, _ = segmenters("two classes")
    on_device.segment(scan())
    assert device.memory.used == 0


@pytest.mark.parametrize("model", ["two classes", "three classes"])
def test_mirroring_does_the_same(model):
    host, on_device, device, chosen = segmenters(model, tta=True)
    np.testing.assert_array_equal(on_device.segment(scan()).mask, host.segment(scan()).mask)
    assert device.memory.peak <= chosen[0].peak_bytes


def test_stored_numbers_are_scaled_on_the_device():
    host, on_device, device, chosen = segmenters("two classes")
    np.testing.assert_array_equal(on_device.segment(scan(slope=0.5)).mask, host.segment(scan(slope=0.5)).mask)
    assert device.memory.peak <= chosen[0].peak_bytes


def test_the_scan_goes_up_once_as_stored_and_only_labels_with_their_probabilities_come_down():
    _, on_device, device, _ = segmenters("two classes")
    (volume,) = scan()
    case = on_device.prepare(volume)
    image = case.prepared
    matrices = sum(4 * old * new for old, new in zip(image.crop.shape, image.inner.shape, strict=True))
    assert device.uploads == volume.voxels.itemsize * np.prod(image.crop.shape) + matrices
    result = on_device.finish(case)
    assert device.downloads <= np.prod(image.inner.shape) + (1 + 2) * result.mask.size


@pytest.mark.parametrize("batch", [2, 3, 100])
def test_tiles_go_in_batches(batch):
    host, on_device, device, chosen = segmenters("two classes", batch=batch)
    np.testing.assert_array_equal(on_device.segment(scan()).mask, host.segment(scan()).mask)
    assert device.memory.peak <= chosen[0].peak_bytes
    batches = on_device.network.batches
    assert all(count == batch for count in batches[:-1])
    assert 0 < batches[-1] <= batch


def test_out_of_memory_is_tried_once_more_with_as_little_as_can_be():
    host, on_device, device, chosen = segmenters("two classes")
    on_device.segment(scan())
    largest = chosen[0].peak_bytes
    device.memory.limit = device.memory.peak - 1
    device.memory.peak = 0
    result = on_device.segment(scan())
    np.testing.assert_array_equal(result.mask, host.segment(scan()).mask)
    assert device.memory.peak < largest
    assert len(chosen) == 2  # the second attempt asks for the smallest placement, not for this one


def test_unused_memory_is_given_back_between_the_attempts(monkeypatch):
    _, on_device, device, _ = segmenters("two classes")
    steps = []
    monkeypatch.setattr(device, "release", lambda: steps.append("release"))

    def attempt(smallest):
        steps.append(smallest)
        if not smallest:
            raise GpuMemoryError("full")
        return "result"

    assert on_device.within_memory(attempt) == "result"
    assert steps == [False, "release", True]


def test_the_placement_counts_the_batch_and_every_fold():
    files = [{**FILE_FIELDS, "name": f"{fold}.onnx", "fold": fold} for fold in "012"]
    bundle = memory_bundle(channels=[CT], files=[*files, {**files[0], "name": "half.onnx", "precision": "fp16"}])
    device, sizes = StrictDevice(), []

    def place(size):
        sizes.append(size)
        return next(placements(size))

    network = StrictNetwork(ArithmeticNetwork(), device, batch=4)
    Segmenter(bundle, network, device=device, place=place).prepare(scan())
    assert [(size.batch, size.folds) for size in sizes] == [(4, 3)]


@pytest.mark.parametrize(("share", "status"), [(0.0, "failed"), (0.9, "done"), (1.0, "done")])
def test_a_case_that_never_fits_fails_and_the_others_go_on(tmp_path, share, status):
    (tmp_path / "in").mkdir()
    for name in "ab":
        write_nifti(tmp_path / "in" / f"{name}_0000.nii.gz", blobs((24, 24, 24)) - 20, spacing_mm=(3.0, 1.5, 1.25))
    _, on_device, device, _ = segmenters("its own grid")
    cases = find_cases(tmp_path / "in", tmp_path / "out", 1)
    list(segment_cases(on_device, cases[:1]))
    device.memory.limit = share * device.memory.peak
    records = list(segment_cases(on_device, cases))
    assert [record.status for record in records] == [status] * 2
    if status == "failed":
        assert records[0].reason == "gpu_memory"
        assert "raise --gpu-memory or use --device cpu" in records[0].message


def test_a_second_shortage_is_the_callers():
    _, on_device, device, _ = segmenters("two classes")
    device.memory.limit = 100
    with pytest.raises(GpuMemoryError, match="out of GPU memory"):
        on_device.segment(scan())
