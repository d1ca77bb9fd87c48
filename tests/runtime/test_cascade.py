"""A cascade: the labels of one model as channels of the next one's image."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flare_runtime.backends.gpu import GpuNetwork, keep_together
from flare_runtime.errors import BundleError, DeviceError
from flare_runtime.imaging.volume import Grid, Volume
from flare_runtime.model.manifest import Resampling, decode_manifest, encode_manifest
from flare_runtime.options import RunOptions
from flare_runtime.pipeline.gpu_memory import CONTEXT_MIB, MIB, CaseSize, EngineMemory, GpuBudget, placements
from flare_runtime.pipeline.host_memory import HostMemory
from flare_runtime.pipeline.preprocessing import prepare
from flare_runtime.pipeline.previous_mask import resized_labels
from flare_runtime.segmenter import Segmenter
from tests.runtime.manifests import FILE_FIELDS, ArithmeticNetwork, make_manifest, manifest_fields, memory_bundle
from tests.runtime.strict_device import StrictDevice, StrictNetwork

THREE = {**manifest_fields()["network"], "outputs": 3}
LABELS = [{"name": "organ", "values": [1]}, {"name": "lesion", "values": [2]}]
FIRST = {
    "labels": LABELS,
    "network": THREE,
    "spacing_mm": [3.0, 3.0, 3.0],
    "files": [{**FILE_FIELDS, "name": "a.onnx"}],
}


def cascade_fields(first=FIRST, rule=(1, 0), **changes):
    order, order_z = rule
    resampling = {"order": order, "order_z": order_z}
    previous = {"model": manifest_fields(**first), "mask_resampling": resampling}
    return manifest_fields(**{"labels": LABELS, "network": THREE, "previous_stage": previous} | changes)


def test_a_cascades_network_takes_a_channel_for_every_label_behind_the_images():
    manifest = decode_manifest(encode_manifest(make_manifest(**cascade_fields())), "m")
    assert manifest.label_values == (1, 2)
    assert (len(manifest.channels), manifest.inputs) == (1, 3)
    assert [file.name for file in manifest.all_files] == ["network.onnx", "a.onnx"]
    assert manifest.previous_stage.model.inputs == 1
    bundle = memory_bundle(**cascade_fields())
    assert [stage.manifest.inputs for stage in bundle.stages] == [1, 3]
    assert {stage.sha256 for stage in bundle.stages} == {bundle.sha256}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (cascade_fields(FIRST | {"files": [FILE_FIELDS]}), "a file is listed twice"),
        (cascade_fields(FIRST | {"files": []}), "no file has the role network"),
        (cascade_fields(FIRST | {"files": [{**FILE_FIELDS, "name": "a.onnx", "precision": "fp16"}]}), "precisions"),
        (cascade_fields(FIRST | {"labels": LABELS[:1], "network": manifest_fields()["network"]}), r"labels \(1,\)"),
        (cascade_fields(FIRST | {"channels": manifest_fields()["channels"] * 2}), "2 channels in the previous stage"),
        (cascade_fields(FIRST | {"mirror_axes": [1, 1]}), "previous_stage: mirror_axes"),
        (cascade_fields(cascade_fields()), "two stages are allowed"),
        (cascade_fields(rule=(3, 0)), "order 0 or 1"),
        (cascade_fields(rule=(1, 1)), "order 0 or 1"),
        (cascade_fields(previous_stage={"model": manifest_fields(**FIRST)}), "mask_resampling"),
    ],
)
def test_stages_that_contradict_each_other_are_refused(fields, says):
    with pytest.raises(BundleError, match=says):
        decode_manifest(json.dumps(fields).encode(), "m")


@given(data=st.data())
@settings(max_examples=40)
def test_labels_are_resampled_as_nnunet_resamples_them(data):
    theirs = pytest.importorskip("nnunetv2.preprocessing.resampling.default_resampling")
    old, new = (tuple(data.draw(st.tuples(*[st.integers(2, 9)] * 3))) for _ in range(2))
    if data.draw(st.booleans()):
        new = tuple(2 * side for side in old)  # every second voxel lies exactly between two
    random = np.random.default_rng(data.draw(st.integers(0, 1 << 20)))
    labels = random.integers(0, 4, old).astype(np.uint8) * (random.random(old) < 0.7)
    inside = (random.random(old) < 0.5) | (labels > 0) if data.draw(st.booleans()) else None
    spacing = data.draw(st.sampled_from([(1.0, 1.0, 1.0), (5.0, 1.0, 1.2), (1.0, 0.9, 4.0)]))
    new_spacing = tuple(mm * o / n for mm, o, n in zip(spacing, old, new, strict=True))
    order, force = data.draw(st.sampled_from([0, 1])), data.draw(st.sampled_from([None, False, True]))
    given_labels = labels.astype(np.float32)
    if inside is not None:
        given_labels[~inside] = -1
    expected = theirs.resample_data_or_seg_to_shape(
        given_labels[None], new, spacing, new_spacing, is_seg=True, order=order, force_separate_z=force
    )
    rule = Resampling(order=order, force_separate_z=force)
    resized = resized_labels(labels, inside, new, spacing, new_spacing, rule)
    np.testing.assert_array_equal(resized, np.maximum(expected[0], 0))


def scan(shape=(12, 20, 16)):
    random = np.random.default_rng(0)
    voxels = random.normal(0, 300, shape).astype(np.int16)
    voxels[:2], voxels[5, 8] = 0, 0
    return Volume.of_array(voxels, (2.5, 1.5, 1.5))


def test_a_mask_on_the_networks_own_grid_becomes_ones_and_zeros():
    manifest = make_manifest(**cascade_fields(transpose_forward=[1, 0, 2], spacing_mm=[1.5, 2.5, 1.5]))
    image, mask = scan(), np.random.default_rng(1).integers(0, 3, (12, 20, 16)).astype(np.uint8)
    prepared = prepare([image], manifest, previous_mask=mask, any_intensity=True)
    seen = prepared.inner.cut(prepared.image)
    assert seen.shape == (3, 20, 10, 16)  # without two planes of zeros
    for channel, value in ((1, 1), (2, 2)):
        np.testing.assert_array_equal(seen[channel], (mask[2:] == value).transpose(1, 0, 2))
    with pytest.raises(ValueError, match="the mask of its previous stage"):
        prepare([image], manifest, any_intensity=True)


def first_logits(tiles):
    ct = tiles[:, :1]
    return np.concatenate([np.zeros_like(ct), ct - 0.1, -ct - 1.0], axis=1)


def second_logits(tiles):
    ct, organ, lesion = (tiles[:, index : index + 1] for index in range(3))
    return np.concatenate([np.full_like(ct, 0.5), organ + 0.1 * ct, 1.5 * lesion], axis=1)


def both_stages(device=None, place=lambda _size: None, options=None):
    """Segmenters of a cascade of two networks that are plain arithmetic, on the host or on a device."""
    bundle, segmenter = memory_bundle(**cascade_fields()), None
    on = {} if device is None else {"device": device, "place": place}
    for stage, function in zip(bundle.stages, (first_logits, second_logits), strict=True):
        network = ArithmeticNetwork(function)
        network = network if device is None else StrictNetwork(network, device, 1)
        segmenter = Segmenter(stage, network, options or RunOptions(any_intensity=True), previous=segmenter, **on)
    return segmenter


def test_the_second_stage_sees_the_mask_of_the_first():
    tiles = []
    whole = both_stages()
    first = whole.bundle.stages[0]
    alone = Segmenter(first, ArithmeticNetwork(first_logits), RunOptions(any_intensity=True)).segment(scan())
    result = whole.segment(scan(), progress=lambda grid: tiles.append(len(grid)) or grid)
    assert len(tiles) == 2  # the tiles of both stages are shown
    assert set(np.unique(result.mask)) == {0, 1, 2}
    overlap = (result.mask == alone.mask)[alone.mask > 0].mean()
    assert overlap > 0.6  # on another grid
    assert {"preprocess", "network", "blend", "restore"} <= set(result.timings_s)
    assert all(seconds >= 0 for seconds in result.timings_s.values())
    empty = both_stages().segment(np.zeros((4, 5, 6), np.int16), (2.5, 1.5, 1.5))
    assert not empty.mask.any()


@pytest.mark.parametrize("index", range(5))
def test_on_a_device_both_stages_give_the_hosts_mask_within_the_plan(index):
    device, chosen = StrictDevice(), []

    def place(size):
        chosen.append(list(placements(size))[index])
        return chosen[-1]

    expected, result = both_stages().segment(scan()), both_stages(device, place).segment(scan())
    np.testing.assert_array_equal(result.mask, expected.mask)
    assert len(chosen) == 2
    assert 0 < device.memory.peak <= max(placement.peak_bytes for placement in chosen)


def test_postprocessing_is_of_the_last_stage_alone():
    options = RunOptions(any_intensity=True, keep_largest="foreground")
    kept = both_stages(options=options)
    assert kept.postprocessing
    from flare_runtime.backends.selection import choose

    choice = choose(kept.bundle, RunOptions(device="cpu", keep_largest="foreground", min_volume_mm3=5.0))
    assert choice.previous_stage.options == RunOptions(device="cpu")
    assert choice.previous_stage.previous_stage is None


def test_the_memory_of_both_stages_is_estimated():
    manifest = make_manifest(**cascade_fields())
    first = HostMemory(manifest.previous_stage.model, 10 * MIB, keeps_scan=True)
    whole = HostMemory(manifest, 1 * MIB, previous=first)
    grid = Grid((100, 200, 200), (2.5, 1.5, 1.5), 2)
    size = CaseSize.of([grid], grid.shape, manifest)
    assert (size.channels, size.masks, size.inputs) == (1, 2, 3)
    alone = HostMemory(manifest.previous_stage.model, 10 * MIB)
    first_size = CaseSize.of([grid], grid.shape, manifest.previous_stage.model)
    scan_bytes, mask_bytes = 2 * 4_000_000, 4_000_000
    assert first.need(first_size).running == alone.need(first_size).running + scan_bytes
    one_input = CaseSize.of([grid], grid.shape, make_manifest(labels=LABELS, network=THREE))
    two_channels = 2 * (size.resampled[0] * size.padded[1] * size.padded[2] + 8**3) * 4
    assert whole.need(size).running == HostMemory(manifest, MIB).need(one_input).running + mask_bytes + two_channels
    assert whole.peak_of([grid]) == max(whole.need(size).peak, first.need(first_size).peak)
    small = HostMemory(manifest, 0, previous=HostMemory(manifest.previous_stage.model, 1 << 40, keeps_scan=True))
    assert small.peak_of([grid]) > 1 << 40


class CountedDevice:
    """A GPU whose pool is only told its limit."""

    limit = 0

    def limit_memory(self, size):
        self.limit = size


@pytest.mark.parametrize(("bound_mib", "fits"), [(4096, True), (1400, True), (1300, False)])
def test_the_networks_of_both_stages_share_one_bound_of_a_gpus_memory(bound_mib, fits):
    device = CountedDevice()
    engines = [EngineMemory((CONTEXT_MIB + 100) * MIB, 200 * MIB), EngineMemory((CONTEXT_MIB + 50) * MIB, 310 * MIB)]
    networks = [
        GpuNetwork([ArithmeticNetwork()], device, GpuBudget.sharing(bound_mib, engine, "one"), None)
        for engine in engines
    ]
    if not fits:
        with pytest.raises(DeviceError, match="the networks of both stages needs about 1300 MiB"):
            keep_together(*networks)
        return
    keep_together(*networks)
    left = bound_mib - CONTEXT_MIB - 100 - 50 - 200 - 310
    assert [network.budget.arrays_bytes for network in networks] == [left * MIB] * 2
    assert device.limit == (left + 200 + 310) * MIB
    assert all(network.beside_another for network in networks)
