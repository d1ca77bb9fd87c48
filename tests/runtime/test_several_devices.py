"""Several devices work on the cases of one run: on the CPU here, where a device is a worker of its own."""

import json
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flare_runtime.backends.selection import choose
from flare_runtime.cases.case import Case
from flare_runtime.cases.finding import find_cases
from flare_runtime.compute import device
from flare_runtime.compute.device import device_names
from flare_runtime.errors import BundleError, DeviceError, UsageError
from flare_runtime.model.bundle import Bundle
from flare_runtime.options import RunOptions
from flare_runtime.run import session
from flare_runtime.run.serial import segment_cases
from flare_runtime.run.session import Session
from flare_runtime.run.supervision import supervise
from flare_runtime.run.work import CaseWork
from flare_runtime.run.worker import workers
from flare_runtime.segmenter import Segmenter
from tests.runtime.nifti_files import blobs, write_nifti
from tests.runtime.troubled_work import DeviceWork, Fail, PatternWork, fail_at_once, kill

ON_CPU = RunOptions(device="cpu", precision="fp32", threads=1)


@pytest.fixture
def cases(tmp_path):
    return [Case(str(index), {}, tmp_path / f"{index}.nii.gz") for index in range(8)]


@pytest.fixture
def of(tmp_path):
    """A function that returns the work of a device."""
    return partial(DeviceWork, tmp_path / "begun")


def by_device(records):
    return Counter(record.message for record in records if record.status == "done")


def test_every_device_takes_the_cases_that_wait(tmp_path, cases):
    """Each waits until the other is at work: neither is given all of few cases."""
    for count in (2, 3, 8):
        works = [DeviceWork(tmp_path / str(count), name, devices=2) for name in "ab"]
        records = list(supervise(works, cases[:count]))
        assert sorted(record.case for record in records) == [case.name for case in cases[:count]]
        assert set(by_device(records)) == {"a", "b"}
    assert not workers()


@pytest.mark.parametrize("trouble", [Fail(DeviceError("b cannot be used (too old)")), kill])
def test_a_device_that_fails_leaves_its_cases_to_the_others(cases, of, trouble, caplog):
    records = list(supervise([of("a"), of("b", trouble)], cases))
    assert sorted(record.case for record in records) == [case.name for case in cases]
    assert by_device(records) == {"a": 8}
    if trouble is not kill:
        assert "the run goes on without a device: b cannot be used (too old)" in caplog.messages


def test_where_no_device_is_left_the_last_error_is_raised(cases, of):
    works = [of(name, Fail(DeviceError(f"{name} is gone"))) for name in "ab"]
    with pytest.raises(DeviceError, match="is gone"):
        list(supervise(works, cases))
    assert not workers()


def test_a_bundle_that_cannot_be_read_ends_the_run_on_every_device(cases, of):
    with pytest.raises(BundleError, match="changed"):
        list(supervise([of("a"), of("b", Fail(BundleError("changed")))], cases))
    assert not workers()


def test_a_run_that_is_left_ends_all_workers(cases, of):
    records = supervise([of("a"), of("b")], cases)
    next(records)
    records.close()
    assert not workers()


@given(pattern=st.lists(st.sampled_from(["sound", "costs one", "costs all", "cannot be read"]), min_size=1, max_size=6))
@settings(max_examples=5)
def test_whatever_dies_every_case_has_one_record_and_only_those_that_cost_two_workers_fail(pattern):
    with TemporaryDirectory() as folder:
        cases = [Case(str(index), {}, Path(folder, f"{index}.nii.gz")) for index in range(len(pattern))]
        works = [PatternWork(Path(folder, "attempts"), pattern, fail_at_once) for _ in range(2)]
        records = list(supervise(works, cases))
        assert sorted(record.case for record in records) == [case.name for case in cases]
        failed = {int(record.case) for record in records if record.status == "failed"}
        assert failed == {i for i, behaviour in enumerate(pattern) if behaviour in ("costs all", "cannot be read")}


def test_two_workers_make_the_masks_of_one_process(tiny_bundle, tmp_path):
    (tmp_path / "in").mkdir()
    for index in range(5):
        write_nifti(tmp_path / "in" / f"{index}.nii.gz", blobs((16 + index, 17, 18)), spacing_mm=(2.5, 1.5, 1.5))
    choice = choose(Bundle.open(tiny_bundle), ON_CPU)
    there = supervise([CaseWork(choice, 2)] * 2, find_cases(tmp_path / "in", tmp_path / "there", 1))
    here = segment_cases(Segmenter.open(choice), find_cases(tmp_path / "in", tmp_path / "here", 1))
    assert {record.case: record.mask_sha256 for record in there} == {one.case: one.mask_sha256 for one in here}


def test_a_session_gives_each_gpu_a_worker_and_reports_all_cases(tiny_bundle, tmp_path, monkeypatch):
    """The GPUs are looked for on the CPU."""
    (tmp_path / "in").mkdir()
    for name in "abc":
        write_nifti(tmp_path / "in" / f"{name}.nii.gz", blobs((16, 17, 18)), spacing_mm=(2.5, 1.5, 1.5))
    asked, given = [], []

    def choose_cpu(bundle, options):
        asked.append(options.device)
        return replace(choose(bundle, ON_CPU), device=options.device)

    def on_cpu(choice, count):
        given.append((choice.device, count))
        return CaseWork(replace(choice, device="cpu"), count)

    monkeypatch.setattr(session, "choose", choose_cpu)
    monkeypatch.setattr(session, "CaseWork", on_cpu)
    run = Session(tiny_bundle, RunOptions("cuda:0,cuda:3")).run(
        tmp_path / "in", tmp_path / "out", report=tmp_path / "run.json"
    )
    assert sorted(record.case for record in run) == list("abc")
    assert asked == ["cuda:0", "cuda:3"]
    assert given == [("cuda:0", 2), ("cuda:3", 2)]
    report = json.loads((tmp_path / "run.json").read_bytes())
    assert sorted(case["case"] for case in report["cases"]) == list("abc")
    assert all(case["model"]["device"] == "cpu" for case in report["cases"])


def test_all_gpus_are_those_that_the_driver_counts(monkeypatch):
    monkeypatch.setattr(device, "_gpu_count", lambda: 3)
    assert device_names("cuda:all") == ["cuda:0", "cuda:1", "cuda:2"]
    assert device_names("cuda:1,cuda:0") == ["cuda:1", "cuda:0"]
    for one in ("auto", "cpu", "cuda", "cuda:7"):
        assert device_names(one) == [one]
    monkeypatch.setattr(device, "_gpu_count", lambda: 0)
    with pytest.raises(DeviceError, match="CUDA finds no GPU here; use --device cpu"):
        device_names("cuda:all")


@pytest.mark.parametrize(
    "name",
    [
        "cuda:0,cpu",
        "cuda:0,",
        "cuda:0, cuda:1",
        "cuda:all,cuda:0",
        "cuda,cuda:1",
        "all",
        "cuda:0,cuda:00",
        "cuda:10000",
        "cuda:٣",
    ],
)
def test_what_is_no_list_of_gpus_is_refused_with_what_is(name):
    with pytest.raises(UsageError, match=r"or several GPUs: cuda:0,cuda:1 or cuda:all"):
        RunOptions(name)


def test_a_gpu_is_named_once_and_a_segmenter_has_one(tiny_bundle):
    with pytest.raises(UsageError, match="names a GPU twice"):
        RunOptions("cuda:0,cuda:1,cuda:0")
    for name in ("cuda:0,cuda:1", "cuda:all"):
        with pytest.raises(UsageError, match="is several; give one, or use flare-infer or Session"):
            Segmenter.load(tiny_bundle, RunOptions(name))
