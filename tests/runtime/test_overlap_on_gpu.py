"""Several cases at once on a GPU, which stands beside the host here: within its memory, with the same masks."""

import time

import pytest

from flare_runtime.backends.gpu import GpuNetwork
from flare_runtime.cases.finding import find_cases
from flare_runtime.pipeline.gpu_memory import MIB, CaseSize, EngineMemory, GpuBudget, placements
from flare_runtime.run import overlap
from flare_runtime.run.overlap import IN_FLIGHT, segment_overlapping
from flare_runtime.run.serial import segment_cases
from tests.runtime.manifests import ArithmeticNetwork
from tests.runtime.nifti_files import write_nifti
from tests.runtime.strict_device import StrictDevice, StrictNetwork
from tests.runtime.test_cascade import both_stages, scan
from tests.runtime.test_overlap import cases, segmenter_grid, wait_until, watched

__all__ = ["cases"]  # a fixture


def on_device(limit=None, before=lambda _stage, _number: None):
    """Return a segmenter on a device of that much memory, all of which is for the arrays of cases."""
    device = StrictDevice()
    device.memory.limit = limit
    budget = GpuBudget(EngineMemory(0), limit or 1 << 40)
    network = GpuNetwork([StrictNetwork(ArithmeticNetwork(), device)], device, budget, None)
    return watched(before, network, device=device, place=budget.place), device


def planned_alone(cases):
    """Return what the largest of the cases takes of the device by itself."""
    segmenter, device = on_device()
    records = list(segment_cases(segmenter, cases))
    (grid,) = {segmenter_grid(case) for case in cases}
    size = CaseSize.of([grid], grid.shape, segmenter.bundle.manifest)
    return records, next(placements(size)).peak_bytes, device.memory.peak


@pytest.mark.parametrize(("share", "most"), [(1.0, 1), (1.5, 1), (2.5, 2), (9.0, IN_FLIGHT)])
def test_on_a_gpu_so_many_cases_are_there_as_fit_and_the_masks_are_the_same(tmp_path, cases, share, most):
    expected, alone, _ = planned_alone(cases("abcdef", out="alone"))
    todo = find_cases(tmp_path / "in", tmp_path / "out", 1)
    inside = []

    def before(stage, number):
        if (stage, number) == ("infer", 0):
            wait_until(lambda: len(stages.gpu.needs) == most)
        inside.append(len(stages.gpu.needs))

    segmenter, device = on_device(round(share * alone), before)
    stages = None
    original = overlap._Stages.__init__

    def remember(self, *args):
        nonlocal stages
        stages = self
        original(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlap._Stages, "__init__", remember)
        records = list(segment_overlapping(segmenter, todo))
    assert [record.mask_sha256 for record in records] == [record.mask_sha256 for record in expected]
    assert max(inside) == most
    assert device.memory.peak <= share * alone
    assert device.memory.used == 0
    for record in records:
        assert record.gpu_memory_mib["planned"] >= -(-alone // MIB)


def test_the_wait_for_memory_on_a_gpu_is_no_time_of_preparing(cases):
    """The second case may be prepared only when the first has left the network, where it is for a second."""
    _, alone, _ = planned_alone(todo := cases("ab"))

    def before(stage, number):
        if (stage, number) == ("infer", 0):
            time.sleep(1)

    segmenter, _ = on_device(alone, before)
    records = list(segment_overlapping(segmenter, todo))
    waits_s = [2 * record.timings_s["total"] - sum(record.timings_s.values()) for record in records]
    assert max(waits_s) > 0.4  # of no stage


def test_memory_that_runs_out_on_a_gpu_is_tried_again_by_itself(cases):
    """The device has less than the plan thinks: with others a case finds none, by itself it does."""
    expected, _, peak = planned_alone(todo := cases("abcd"))
    segmenter, device = on_device()
    device.memory.limit = peak
    assert [one.mask_sha256 for one in segment_overlapping(segmenter, todo)] == [one.mask_sha256 for one in expected]


def test_the_plan_of_a_record_counts_the_cases_that_are_there_together(cases):
    """While the network waits at the first case the second is prepared: the plan of both is the sum."""

    def before(stage, number):
        if (stage, number) == ("infer", 0):
            wait_until(lambda: ("prepare", 1) in segmenter.seen and ("prepare", 2) in segmenter.seen)

    todo = cases("abc")
    (grid,) = {segmenter_grid(case) for case in todo}
    segmenter, _ = on_device(before=before)
    alone = next(placements(CaseSize.of([grid], grid.shape, segmenter.bundle.manifest))).peak_bytes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flare_runtime.backends.gpu.MIB", 1)  # in bytes, as all of it is less than a MiB
        patch.setattr("flare_runtime.run.overlap.MIB", 1)
        planned = [record.gpu_memory_mib["planned"] for record in segment_overlapping(segmenter, todo)]
    assert max(planned) in (2 * alone, 3 * alone)
    assert min(planned) >= alone


@pytest.mark.parametrize("on_gpu", [False, True])
def test_both_stages_of_a_cascade_are_planned_and_done(tmp_path, on_gpu):
    (tmp_path / "in").mkdir()
    for index in range(4):
        volume = scan()
        write_nifti(tmp_path / "in" / f"{index}.nii.gz", volume.voxels[index:], spacing_mm=volume.spacing_mm)
    expected = list(segment_cases(both_stages(), find_cases(tmp_path / "in", tmp_path / "one", 1)))
    device, seen = StrictDevice(), []

    def place(size):
        return next(placements(size))

    segmenter = both_stages(device, place) if on_gpu else both_stages()
    original = overlap._Stages.admit_on_gpu

    def admit(stages, flight, placement):
        seen.append(placement)
        original(stages, flight, placement)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlap._Stages, "admit_on_gpu", admit)
        records = list(segment_overlapping(segmenter, find_cases(tmp_path / "in", tmp_path / "many", 1)))
    assert [record.status for record in records] == ["done"] * 4
    assert [record.mask_sha256 for record in records] == [record.mask_sha256 for record in expected]
    assert records[0].timings_s.keys() == expected[0].timings_s.keys()
    assert records[0].timings_s["network"] > 0
    assert len(seen) == (2 * 4 if on_gpu else 0)
    assert device.memory.used == 0
