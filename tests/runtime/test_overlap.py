"""Several cases at once: the same results in the same order, within the same memory, and each fails by itself."""

import json
import threading
import time
import weakref
from contextlib import suppress

import numpy as np
import pytest

from flare_runtime import Segmenter
from flare_runtime.cases.finding import find_cases
from flare_runtime.errors import BundleError, CaseError, DeviceError, GpuMemoryError, LostDeviceError
from flare_runtime.imaging.read import read_volume
from flare_runtime.model.bundle import Bundle
from flare_runtime.options import RunOptions
from flare_runtime.pipeline.gpu_memory import MIB
from flare_runtime.pipeline.host_memory import HostMemory
from flare_runtime.run import overlap, serial
from flare_runtime.run.overlap import IN_FLIGHT, segment_overlapping
from flare_runtime.run.serial import segment_cases
from tests.runtime.manifests import ArithmeticNetwork, memory_bundle
from tests.runtime.nifti_files import blobs, write_nifti

ONE_MM = (1.0, 1.0, 1.0)
RAW = {"name": "raw", "normalisation": {"scheme": "none"}}
# Longer than anything here takes where it is not stuck.
LONG_S = 120


def segmenter_of(network=None, **changes):
    bundle = memory_bundle(channels=[RAW], spacing_mm=ONE_MM, patch=[16, 16, 16])
    return Segmenter(bundle, network or ArithmeticNetwork(), **changes)


@pytest.fixture
def cases(tmp_path):
    """A function that writes scans of these names, each its own, and returns their cases."""

    def write(names, out="out"):
        (tmp_path / "in").mkdir(exist_ok=True)
        for index, name in enumerate(names):
            voxels = np.full((9, 10, 11), -100, np.int16)
            voxels[2:5, 3:7, : index % 9 + 1] = 50
            write_nifti(tmp_path / "in" / f"{name}.nii.gz", voxels, spacing_mm=ONE_MM)
        return find_cases(tmp_path / "in", tmp_path / out, 1)

    return write


def outcome(records):
    return [(record.case, record.status, record.reason) for record in records]


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def wait_until(what):
    deadline = time.monotonic() + LONG_S
    while not what():
        assert time.monotonic() < deadline, "it never comes"
        time.sleep(0.001)


def test_results_are_those_of_one_case_after_the_other(tmp_path, tiny_bundle):
    (tmp_path / "in").mkdir()
    for index in range(7):
        image = blobs((16 + index, 17, 18)) if index != 3 else np.zeros((5, 6, 7))
        write_nifti(tmp_path / "in" / f"{index}.nii.gz", image, spacing_mm=(2.5, 1.5, 1.5))
    (tmp_path / "in" / "2.nii.gz").write_bytes((tmp_path / "in" / "1.nii.gz").read_bytes()[:-20])
    segmenter = Segmenter.load(Bundle.open(tiny_bundle), RunOptions(device="cpu", precision="fp32", threads=1))
    records = {}
    for name, segment in (("one", segment_cases), ("many", segment_overlapping)):
        records[name] = list(segment(segmenter, find_cases(tmp_path / "in", tmp_path / name, 1)))
    assert [record.case for record in records["many"]] == list("0123456")
    assert names_in(tmp_path / "one") == names_in(tmp_path / "many")
    for path in (tmp_path / "one").glob("*.nii.gz"):
        assert path.read_bytes() == (tmp_path / "many" / path.name).read_bytes()
    for one, many in zip(records["one"], records["many"], strict=True):
        assert many.timings_s.keys() == one.timings_s.keys()
        assert (one.identity.recipe, one.identity.inputs) == (many.identity.recipe, many.identity.inputs)
        same = {"timings_s": {}, "peak_memory_mib": None, "mask": None, "identity": None}
        changed = [json.dumps(_fields(record) | same, default=str) for record in (one, many)]
        assert changed[0] == changed[1]


def _fields(record):
    return {name: getattr(record, name) for name in record.__struct_fields__}


class Watched(Segmenter):
    """A segmenter whose stages wait for what a test says: a function of the stage and the number of its case."""

    def __init__(self, *args, before=lambda _stage, _number: None, **options):
        super().__init__(*args, **options)
        self.seen, self._before = [], before

    def _enter(self, stage):
        number = sum(seen == stage for seen, _ in self.seen)
        self.seen.append((stage, number))
        self._before(stage, number)

    def prepare(self, *args, **options):
        self._enter("prepare")
        return super().prepare(*args, **options)

    def infer(self, *args, **options):
        self._enter("infer")
        return super().infer(*args, **options)

    def restore(self, *args, **options):
        self._enter("restore")
        return super().restore(*args, **options)


def watched(before, network=None, **changes):
    bundle = memory_bundle(channels=[RAW], spacing_mm=ONE_MM, patch=[16, 16, 16])
    return Watched(bundle, network or ArithmeticNetwork(), before=before, **changes)


def test_while_the_network_is_at_one_case_another_is_prepared_and_another_restored(cases):
    """The network waits at the second case until the third is being prepared and the first being restored."""

    def before(stage, number):
        if (stage, number) == ("infer", 1):
            wait_until(lambda: {("prepare", 2), ("restore", 0)} <= set(segmenter.seen))
        if (stage, number) in (("prepare", 2), ("restore", 0)):
            wait_until(lambda: ("infer", 1) in segmenter.seen)

    segmenter = watched(before)
    assert outcome(segment_overlapping(segmenter, cases("abc"))) == [(name, "done", None) for name in "abc"]


def test_no_more_cases_are_begun_than_may_be_in_work(cases, monkeypatch):
    read, scans = [], []
    reading = threading.Lock()

    def reader(path, *rules):
        volume = read_volume(path, *rules)
        with reading:
            read.append(path.name)
            scans.append(weakref.ref(volume.voxels))
        return volume

    def before(stage, number):
        if (stage, number) == ("infer", 0):
            wait_until(lambda: len(read) == IN_FLIGHT)
            time.sleep(0.05)
            assert len(read) == IN_FLIGHT

    monkeypatch.setattr(serial, "read_volume", reader)
    segmenter = watched(before)
    assert [record.status for record in segment_overlapping(segmenter, cases("abcdefgh"))] == ["done"] * 8
    assert sum(scan() is not None for scan in scans) == 0


def test_a_case_that_cannot_be_restored_fails_alone(tmp_path, cases):
    def before(stage, number):
        if (stage, number) == ("restore", 1):
            raise ZeroDivisionError

    records = list(segment_overlapping(watched(before), cases("abcd")))
    assert sorted(record.status for record in records) == ["done", "done", "done", "failed"]
    assert [record.case for record in records] == list("abcd")
    (failed,) = (record for record in records if record.status == "failed")
    assert failed.reason == "internal"
    assert "raise ZeroDivisionError" in failed.traceback
    assert not (tmp_path / "out" / f"{failed.case}.nii.gz").exists()


def test_a_mask_that_cannot_be_written_fails_alone(tmp_path, cases):
    todo = cases("abc")
    (tmp_path / "out" / "b.nii.gz").mkdir()
    records = outcome(segment_overlapping(segmenter_of(), todo))
    assert records == [("a", "done", None), ("b", "failed", "output"), ("c", "done", None)]
    assert names_in(tmp_path / "out") == ["a.json", "a.nii.gz", "b.json", "b.nii.gz", "c.json", "c.nii.gz"]


@pytest.mark.parametrize("error", [DeviceError("gone"), LostDeviceError("lost"), BundleError("changed")])
@pytest.mark.parametrize("stage", ["prepare", "infer", "restore"])
def test_what_would_fail_every_case_ends_the_run_and_leaves_nothing_half_done(tmp_path, cases, error, stage):
    def before(at, _number):
        if at == stage:
            raise error

    with pytest.raises(type(error), match=str(error)):
        list(segment_overlapping(watched(before), cases("abcdef")))
    assert names_in(tmp_path / "out") == []


def test_a_lost_device_in_which_another_stage_hangs_is_said_all_the_same(cases):
    hung, lost = threading.Event(), threading.Event()

    def before(stage, number):
        if (stage, number) == ("infer", 0):
            hung.wait(LONG_S)
            raise LostDeviceError("lost")
        if (stage, number) == ("prepare", 1):
            hung.set()
            lost.wait(LONG_S)

    with pytest.raises(LostDeviceError):
        list(segment_overlapping(watched(before), cases("abc")))
    assert not lost.is_set()
    lost.set()


def test_a_case_that_hangs_in_a_device_that_another_has_lost_is_not_waited_for(cases):
    hung, lost = threading.Event(), threading.Event()

    def before(stage, number):
        if (stage, number) == ("infer", 0):
            hung.set()
            lost.wait(LONG_S)
        if (stage, number) == ("prepare", 1):
            hung.wait(LONG_S)
            raise LostDeviceError("lost")

    began = time.monotonic()
    with pytest.raises(LostDeviceError):
        list(segment_overlapping(watched(before), cases("abc")))
    assert time.monotonic() - began < LONG_S / 2
    lost.set()


def test_what_the_cases_raise_is_raised_after_those_before_it(cases):
    def coming():
        yield from todo[:2]
        raise ZeroDivisionError

    todo = cases("abc")
    records = segment_overlapping(segmenter_of(), coming())
    assert [next(records).case, next(records).case] == ["a", "b"]
    with pytest.raises(ZeroDivisionError):
        next(records)


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_case_that_comes_after_the_run_was_left_is_not_begun(tmp_path, cases):
    asked, left = threading.Event(), threading.Event()

    def coming():
        yield todo[0]
        asked.set()
        left.wait(LONG_S)
        yield todo[1]

    todo = cases("ab")
    records = segment_overlapping(segmenter_of(), coming())
    assert next(records).case == "a"
    asked.wait(LONG_S)
    records.close()
    left.set()
    wait_until(lambda: not [one for one in threading.enumerate() if one.name == "begin"])
    assert names_in(tmp_path / "out") == ["a.json", "a.nii.gz"]


def test_total_is_from_the_begin_of_reading_and_stages_are_their_own(cases, monkeypatch):
    """Every stage takes 0.1 s; with waits for others in between the whole takes longer than its parts."""

    def slow(stage, _number):
        time.sleep(0.1)

    def reader(path, *rules):
        time.sleep(0.1)
        return read_volume(path, *rules)

    monkeypatch.setattr(serial, "read_volume", reader)
    began = time.perf_counter()
    records = list(segment_overlapping(watched(slow), cases("abcdef")))
    wall = time.perf_counter() - began
    for record in records:
        timings = dict(record.timings_s)
        total = timings.pop("total")
        assert 0.1 <= timings["read"] < total
        assert 0.4 <= total <= wall
        assert sum(timings.values()) <= total


@pytest.fixture
def available(monkeypatch):
    def say(mib):
        for module in ("flare_runtime.pipeline.host_memory", "flare_runtime.run.serial"):
            monkeypatch.setattr(f"{module}.available_bytes", lambda: round(mib * MIB))

    return say


@pytest.mark.parametrize(("spare", "most"), [(10.0, IN_FLIGHT), (1.1, 2), (0.9, 1)])
def test_so_many_cases_are_in_memory_as_fit(cases, available, spare, most):
    """Spare is what there is beside the first case, in units of what a case takes beside the network."""
    inside = []

    def before(stage, number):
        if (stage, number) == ("infer", 0):
            with suppress(AssertionError):
                wait_until(lambda: len(admissions[0].needs) >= most)
                for _ in range(50):
                    time.sleep(0.002)
                    inside.append(len(admissions[0].needs))

    segmenter = watched(before)
    segmenter.memory = HostMemory(segmenter.bundle.manifest, network_bytes=MIB)
    todo = cases("abcdefg")
    need = segmenter.memory.need_of([segmenter_grid(todo[0])])
    available((need.network + need.beside_network * (1 + spare)) / MIB)
    admissions = []
    original = overlap.Admission.__init__

    def remember(self, fit):
        admissions.append(self)
        original(self, fit)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlap.Admission, "__init__", remember)
        records = list(segment_overlapping(segmenter, todo))
    assert [record.status for record in records] == ["done"] * 7
    assert max(inside) == most


def segmenter_grid(case):
    return read_volume(case.images[0], 10**9).grid


@pytest.mark.parametrize(
    "error", [MemoryError("full"), CaseError("too_little_memory", "needs more"), GpuMemoryError("1 byte")]
)
@pytest.mark.parametrize("stage", ["prepare", "infer", "restore"])
def test_a_case_without_memory_beside_others_is_done_by_itself(cases, stage, error):
    alone = []

    def before(at, number):
        if (at, number) == (stage, 1):
            raise error
        alone.append(threading.current_thread() is threading.main_thread())

    records = list(segment_overlapping(watched(before), cases("abcd")))
    assert [(record.case, record.status) for record in records] == [(name, "done") for name in "abcd"]
    assert any(alone)


def test_a_case_that_does_not_fit_at_all_is_refused_and_the_others_are_done(tmp_path, cases, available):
    todo = cases("abc")
    write_nifti(tmp_path / "in" / "b.nii.gz", np.full((60, 200, 200), 50, np.int16), spacing_mm=ONE_MM)
    segmenter = segmenter_of()
    segmenter.memory = HostMemory(segmenter.bundle.manifest, network_bytes=0)
    available(4)
    records = outcome(segment_overlapping(segmenter, todo))
    assert records == [("a", "done", None), ("b", "refused", "too_little_memory"), ("c", "done", None)]


def test_a_run_that_is_left_ends_its_threads_and_removes_what_was_not_committed(tmp_path, cases):
    staged = threading.Event()

    def before(stage, number):
        if (stage, number) == ("restore", 3):
            staged.set()

    records = segment_overlapping(watched(before), cases("abcdefgh"))
    assert next(records).case == "a"
    staged.wait(LONG_S)
    records.close()
    assert names_in(tmp_path / "out") == ["a.json", "a.nii.gz"]
    wait_until(lambda: not [one for one in threading.enumerate() if one.name.startswith(("begin", "hash"))])
    assert not [one for one in threading.enumerate() if one.name.startswith(("read", "prepare", "network", "restore"))]
