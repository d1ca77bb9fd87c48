"""Which arrays are placed on the GPU: the arithmetic keeps to the bound, and places all that the bound allows."""

from dataclasses import astuple, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flare_runtime.backends.onnxruntime_cuda import arena_and_weights_bytes
from flare_runtime.errors import CaseError, DeviceError
from flare_runtime.imaging.volume import Grid
from flare_runtime.pipeline.gpu_memory import (
    CONTEXT_MIB,
    MIB,
    CaseSize,
    EngineMemory,
    GpuBudget,
    placements,
    smallest_placement,
)
from tests.runtime.manifests import make_manifest

# The four-stage network's patch, a chest of 512 x 512 x 300 voxels.
CHEST = CaseSize(
    channels=1,
    raw_itemsize=2,
    scan=(300, 512, 512),
    crop=(300, 512, 512),
    resampled=(250, 256, 256),
    padded=(250, 256, 256),
    axis=0,
    scores=1,
    outputs=2,
    patch=(128, 160, 160),
)

sides = st.integers(1, 700)
shapes = st.tuples(sides, sides, sides)


@st.composite
def sizes(draw):
    patch, resampled = draw(shapes), draw(shapes)
    outputs = draw(st.integers(2, 6))
    return CaseSize(
        channels=draw(st.integers(1, 3)),
        raw_itemsize=draw(st.sampled_from([1, 2, 4, 8])),
        scan=(700, 700, 700),
        crop=draw(shapes),
        resampled=resampled,
        padded=tuple(map(max, patch, resampled)),
        axis=draw(st.integers(0, 2)),
        scores=draw(st.sampled_from([outputs - 1, outputs])),
        outputs=outputs,
        patch=patch,
    )


@given(sizes(), st.integers(0, 1 << 34))
def test_a_placement_keeps_to_its_budget_and_is_the_fastest_that_does(size, budget):
    options = list(placements(size))
    fitting = [placement for placement in options if placement.peak_bytes <= budget]
    if fitting:
        assert GpuBudget(EngineMemory(0), budget).place(size) == fitting[0]
    else:
        with pytest.raises(CaseError, match="raise --gpu-memory"):
            GpuBudget(EngineMemory(0), budget).place(size)
    assert smallest_placement(size).peak_bytes == min(placement.peak_bytes for placement in options)


@given(sizes())
def test_a_placement_may_take_all_of_its_budget_and_not_a_byte_more(size):
    least = smallest_placement(size).peak_bytes
    assert GpuBudget(EngineMemory(0), least).place(size).peak_bytes == least
    with pytest.raises(CaseError, match="raise --gpu-memory"):
        GpuBudget(EngineMemory(0), least - 1).place(size)


@given(sizes(), st.integers(0, 3))
def test_what_is_on_the_device_takes_its_room(size, index):
    image = 4 * size.channels * size.padded[0] * size.padded[1] * size.padded[2]
    sums = image // size.channels * size.scores
    placement = list(placements(size))[index]
    assert placement.peak_bytes >= placement.image_on_device * image + placement.sums_on_device * sums


@given(sizes(), st.integers(0, 2))
def test_a_larger_scan_never_needs_less(size, axis):
    def doubled(shape):
        return tuple(side * (2 if i == axis else 1) for i, side in enumerate(shape))

    shapes = {name: doubled(getattr(size, name)) for name in ("crop", "resampled", "padded")}
    for small, large in zip(placements(size), placements(replace(size, **shapes)), strict=True):
        assert large.peak_bytes >= small.peak_bytes


def four_stages():
    return {
        "architecture": "PlainConvUNet",
        "stages": 4,
        "features": [32, 64, 128, 256],
        "parameters": 5_602_950,
        "gmac": 700.0,
        "outputs": 2,
    }


def in_onnxruntime(precision="fp16", folds=1):
    manifest = make_manifest(patch=[128, 160, 160], network=four_stages())
    return EngineMemory(CONTEXT_MIB * MIB + folds * arena_and_weights_bytes(manifest, precision))


# What the cudnn engine takes for the four-stage network.
IN_CUDNN = EngineMemory(CONTEXT_MIB * MIB, 677 * MIB)


@pytest.mark.parametrize("engine", [in_onnxruntime("fp16"), in_onnxruntime("fp32"), IN_CUDNN])
def test_the_whole_of_a_chest_is_on_the_device_by_default(engine):
    budget = GpuBudget.sharing(4096, engine, "the network")
    placement = budget.place(CHEST)
    assert astuple(placement)[:3] == (True, True, True)
    # The scan, what is resampled in plane, and the image.
    assert placement.peak_bytes >= 300 * 512 * 512 * 2 + 300 * 256 * 256 * 4 + 250 * 256 * 256 * 4
    assert budget.total_bytes(placement) <= 4096 * MIB


@pytest.mark.parametrize("mib", [2000, 3000])
def test_in_cudnn_the_whole_of_a_chest_is_on_the_device_in_less(mib):
    assert astuple(GpuBudget.sharing(mib, IN_CUDNN, "the network").place(CHEST))[:3] == (True, True, True)


def test_the_largest_scan_of_the_challenge_still_fits():
    # 689 million voxels in 1,572 slices.
    giant = replace(CHEST, crop=(1572, 662, 662), resampled=(1310, 331, 331), padded=(1310, 331, 331))
    # On a grid of one millimetre the image alone would take 2.7 GB.
    fine = replace(giant, resampled=giant.crop, padded=giant.crop)
    for engine, expected in ((in_onnxruntime(), (False, False, True)), (IN_CUDNN, (True, True, True))):
        budget = GpuBudget.sharing(4096, engine, "the network")
        assert astuple(budget.place(giant))[:3] == expected
        assert astuple(budget.place(fine))[:3] == (False, False, False)


@pytest.mark.parametrize(
    ("engine", "bound_mib", "measured_mib", "ratio"),
    [
        # The engine with a tile and its logits, of 12.5 MiB a channel: three leases of an H200.
        (in_onnxruntime("fp16"), None, 3112, 1.06),
        (in_onnxruntime("fp16"), None, 3186, 1.04),
        (in_onnxruntime("fp32"), None, 2789, 1.08),
        (in_onnxruntime("fp32"), None, 2852, 1.06),
        (IN_CUDNN, None, 1248, 1.09),
        # A whole process that segments a chest, within a bound.
        (in_onnxruntime("fp16"), 4096, 3429, 1.05),
        (in_onnxruntime("fp32"), 4096, 3095, 1.07),
        (IN_CUDNN, 4096, 1619, 1.01),
        (IN_CUDNN, 3000, 1619, 1.01),
        (IN_CUDNN, 2000, 1619, 1.01),
        (IN_CUDNN, 1600, 1509, 1.01),
    ],
)
def test_the_estimate_is_what_was_measured_on_an_h200_and_no_more_than_a_tenth_above(
    engine, bound_mib, measured_mib, ratio
):
    """All that NVML showed of the process; `ratio` is the estimate's to it."""
    if bound_mib is None:
        estimate = engine.total_bytes + 3 * 12.5 * MIB
    else:
        budget = GpuBudget.sharing(bound_mib, engine, "the network")
        estimate = budget.total_bytes(budget.place(CHEST))
    assert 1 <= ratio <= 1.1
    assert estimate / MIB / measured_mib == pytest.approx(ratio, abs=0.006)


def test_a_network_of_118_classes_fits_where_its_logits_do():
    """117 organs within the bound that is the default; their scores on the whole image are 7 GiB, and on the host."""
    patch = (128, 128, 128)
    size = replace(CHEST, outputs=118, scores=117, patch=patch)
    manifest = make_manifest(patch=list(patch), network={**four_stages(), "parameters": 31_000_000, "outputs": 118})
    engine = EngineMemory(CONTEXT_MIB * MIB + arena_and_weights_bytes(manifest, "fp16"))
    placement = GpuBudget.sharing(4096, engine, "the network").place(size)
    assert astuple(placement)[:3] == (False, True, False)
    # The logits are 944 MiB, the image 62.5, and a tile of one channel takes 8.
    assert placement.peak_bytes / MIB == pytest.approx(944 + 62.5 + 5 * 8 + 0.5, abs=1)


def test_the_share_of_the_network_is_taken_off_first():
    engine = EngineMemory(1000 * MIB, 500 * MIB)
    budget = GpuBudget.sharing(2000, engine, "the network")
    assert (budget.arrays_bytes, budget.pool_bytes) == (500 * MIB, 1000 * MIB)
    with pytest.raises(DeviceError, match="--gpu-memory 1500 is too little: the network in fp16 needs about 1500 MiB"):
        GpuBudget.sharing(1500, engine, "the network in fp16")


def test_a_case_counts_every_channel_as_wide_as_the_widest():
    grids = [Grid((10, 20, 30), (2.5, 1.5, 1.5), itemsize) for itemsize in (2, 8, 1)]
    assert CaseSize.of(grids, (1, 1, 1), make_manifest()).scan_bytes == 3 * 8 * 10 * 20 * 30


@pytest.mark.parametrize(
    ("changes", "tensors"),
    [
        # Three of the tile, two of logits, the weights, and one of scores that were computed again.
        ({}, 3 + 2 + 1 + 1),
        ({"batch": 4}, 4 * (3 + 2) + 1 + 1),
        # Each network's logits, and each mean.
        ({"folds": 2}, 3 + 3 * 2 + 1 + 1),
        ({"mirrored": True}, 3 + 2 * 2 + 1 + 1),
        ({"folds": 2, "mirrored": True}, 3 + 4 * 2 + 1 + 1),
        ({"channels": 2}, 2 * 3 + 2 + 1 + 1),
    ],
)
def test_at_least_a_batch_of_tiles_has_to_fit(changes, tensors):
    cube = (10, 10, 10)
    size = replace(CHEST, scan=cube, crop=cube, resampled=cube, padded=cube, patch=cube, **changes)
    # All beside two slices of the sums.
    assert smallest_placement(size).peak_bytes == (1000 * tensors + 200) * 4


def test_onnxruntime_takes_an_arena_and_the_weights_twice():
    manifest = make_manifest(patch=[8, 8, 8])  # 4 features, 1,000 parameters
    assert arena_and_weights_bytes(manifest, "fp16") == 26 * 4 * 512 + 2 * 2000
    assert arena_and_weights_bytes(manifest, "fp32") == 23 * 4 * 512 + 2 * 4000


def test_two_folds_need_twice_as_much():
    with pytest.raises(DeviceError, match="too little"):
        GpuBudget.sharing(4096, in_onnxruntime(folds=2), "the network")
    GpuBudget.sharing(6144, in_onnxruntime(folds=2), "the network")
