"""Masks of an earlier run in an object store, in formats that are not written any more."""

import pytest

pytest.importorskip("fsspec")

from dataclasses import replace

from flare_runtime.stores.mirror import Mirror
from tests.runtime.command_runs import write_cohort
from tests.runtime.memory_store import OPTIONS, memory_bucket, runner


@pytest.fixture
def bucket(tmp_path):
    with memory_bucket() as bucket:
        bucket.upload(write_cohort(tmp_path / "scans"), "scans")
        yield bucket


@pytest.fixture
def run(tiny_bundle):
    return runner(tiny_bundle)


def test_they_go_with_their_result(bucket, run):
    source = f"{bucket.url}/scans/c_0000.nii.gz"
    for name, other in (("c.nii", "c.nii.gz"), ("c.nii.gz", "c.nii")):
        run(source, f"{bucket.url}/masks/{name}")
        assert bucket.names("masks") == ["c.json", name]
        run(source, f"{bucket.url}/masks/{other}")
        assert bucket.names("masks") == ["c.json", other]


def test_they_go_behind_the_old_record_and_before_the_new_mask(bucket, run, monkeypatch):
    steps = []

    def noted(step):
        def do(mirror, path):
            steps.append((step.__name__, path.name))
            return step(mirror, path)

        return do

    source = f"{bucket.url}/scans/c_0000.nii.gz"
    run(source, f"{bucket.url}/masks/c.nii")
    monkeypatch.setattr(Mirror, "put", noted(Mirror.put))
    monkeypatch.setattr(Mirror, "remove", noted(Mirror.remove))
    run(source, f"{bucket.url}/masks/c.nii.gz")
    assert steps[-4:] == [("remove", "c.json"), ("remove", "c.nii"), ("put", "c.nii.gz"), ("put", "c.json")]


def test_one_that_was_changed_stays_and_is_said(bucket, run):
    source = f"{bucket.url}/scans/c_0000.nii.gz"
    run(source, f"{bucket.url}/masks/c.nii")
    edited = bucket.get("masks/c.nii")[:-1] + b"x"
    bucket.put("masks/c.nii", edited)
    records, _ = run(source, f"{bucket.url}/masks/c.nii.gz")
    assert [remark.text for remark in records["c"].remarks] == [
        "c.nii is of an earlier run and stays, as it was changed since"
    ]
    assert bucket.get("masks/c.nii") == edited


def test_of_a_refusal_they_are_set_aside(bucket, run):
    source = f"{bucket.url}/scans/c_0000.nii.gz"
    run(source, f"{bucket.url}/masks/c.nii")
    mask = bucket.get("masks/c.nii")
    bucket.put("scans/c_0000.nii.gz", b"")
    run(source, f"{bucket.url}/masks/c.nii.gz")
    assert bucket.names("masks") == ["c.json", "c.stale.nii"]
    assert bucket.get("masks/c.stale.nii") == mask


def test_those_of_dicom_go_as_well(bucket, run, tmp_path):
    pytest.importorskip("highdicom")
    from tests.runtime.dicom_files import Series

    bucket.upload(Series(count=5).write(tmp_path / "series"), "series")
    urls = f"{bucket.url}/series/", f"{bucket.url}/masks/"
    run(*urls, replace(OPTIONS, output_types=("nifti", "dicom-seg", "rtstruct")))
    assert bucket.names("masks") == ["series.json", "series.nii.gz", "series.rtstruct.dcm", "series.seg.dcm"]
    run(*urls)
    assert bucket.names("masks") == ["series.json", "series.nii.gz"]
