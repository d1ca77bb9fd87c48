"""DICOM in an object store: the series, masks, remarks and refusals of the same files in a folder."""

import json
import shutil
from dataclasses import replace
from io import BytesIO

import pytest

fsspec = pytest.importorskip("fsspec")
pytest.importorskip("pydicom")

from flare_runtime import ResumeRules, UsageError  # noqa: E402
from flare_runtime.cases.input_rules import InputRules  # noqa: E402
from flare_runtime.run.stored_results import StoredResults  # noqa: E402
from flare_runtime.stores.mirror import Mirror  # noqa: E402
from tests.runtime.dicom_files import Series  # noqa: E402
from tests.runtime.memory_store import OPTIONS, facts, memory_bucket, runner  # noqa: E402


@pytest.fixture
def bucket():
    with memory_bucket() as bucket:
        yield bucket


@pytest.fixture
def run(tiny_bundle):
    return runner(tiny_bundle)


def study(folder):
    """Write a study with all that may be odd: two series, one tilted, a copy, a scout, a long header, and no DICOM."""
    Series(count=6).write(folder / "a")
    shutil.copy(folder / "a" / "IM0003", folder / "a" / "again")
    Series(count=1, change=lambda d, i: setattr(d, "ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"])).write(
        folder / "a", names="scout{}"
    )
    Series(count=5, change=lambda d, i: d.add_new(0x00291010, "OB", bytes(70_000))).write(folder / "deeper" / "b")
    Series(count=4, way=(0, 0.3, 0.95)).write(folder / "c")
    (folder / "c" / "notes.txt").write_text("none of it" * 20)
    (folder / "a" / "damaged").write_bytes((folder / "a" / "IM0001").read_bytes()[:200])
    return folder


@pytest.mark.parametrize("rules", [InputRules(), InputRules(recursive=True)])
def test_a_study_gives_what_its_folder_gives(rules, bucket, run, tmp_path):
    bucket.upload(study(tmp_path / "study"), "study")
    here, _ = run(tmp_path / "study", tmp_path / "masks", input_rules=rules)
    there, _ = run(f"{bucket.url}/study/", f"{bucket.url}/masks/", input_rules=rules)
    assert facts(there) == facts(here)
    masks = [path for path in (tmp_path / "masks").rglob("*") if path.is_file()]
    assert bucket.names("masks") == sorted(str(path.relative_to(tmp_path / "masks")) for path in masks)
    assert len(masks) == 5
    assert {r.reason for r in there.values()} == {None, "gantry_tilt"}
    inputs = {one for r in there.values() for one in r.inputs}
    assert inputs == {f"{bucket.url}/study"}


def test_resume_tells_by_the_list_and_the_headers_alone(bucket, run, tmp_path, monkeypatch):
    bucket.upload(study(tmp_path / "study"), "study")
    urls = f"{bucket.url}/study", f"{bucket.url}/masks/"
    records, _ = run(*urls)
    with monkeypatch.context() as patch:
        patch.delattr("flare_runtime.stores.store.Store.sha256_of")
        fetch, fetched = Mirror.fetch, set()
        patch.setattr(Mirror, "fetch", lambda mirror, path: (fetched.add(path.name), fetch(mirror, path)))
        assert run(*urls, resume=ResumeRules()) == ({}, sorted(records))
    assert fetched == {"IM0003", "again"}  # whether one is a copy of the other, all of their bytes say
    bucket.put("study/deeper/b/IM0002", bucket.get("study/deeper/b/IM0002"))  # which changes its time
    assert run(*urls, resume=ResumeRules()) == ({}, sorted(records))
    bucket.put("study/deeper/b/IM0002", bucket.get("study/deeper/b/IM0002")[:-1] + b"\1")
    assert list(run(*urls, resume=ResumeRules())[0]) == ["study_deeper_b"]


def test_an_archive_and_a_single_file_are_read(bucket, run, tmp_path):
    shutil.make_archive(str(tmp_path / "packed"), "zip", study(tmp_path / "study"))
    bucket.put("packed.zip", (tmp_path / "packed.zip").read_bytes())
    here, _ = run(tmp_path / "packed.zip", tmp_path / "masks")
    for target in (f"{bucket.url}/masks/", tmp_path / "down"):
        there, _ = run(f"{bucket.url}/packed.zip", target, resume=ResumeRules())
        assert facts(there) == facts(here)
        assert run(f"{bucket.url}/packed.zip", target, resume=ResumeRules()) == ({}, sorted(here))
    bucket.put("one", (tmp_path / "study" / "a" / "IM0002").read_bytes())
    here, _ = run(tmp_path / "study" / "a" / "IM0002", tmp_path / "one.nii.gz")
    assert run(f"{bucket.url}/one", f"{bucket.url}/one.nii.gz")[0]["one"].mask_sha256 == here["IM0002"].mask_sha256


def test_results_in_dicom_become_objects(bucket, run, tmp_path):
    pytest.importorskip("highdicom")
    from pydicom import dcmread

    bucket.upload(Series().write(tmp_path / "scan"), "scan")
    options = replace(OPTIONS, output_types=("nifti", "dicom-seg", "rtstruct", "dicom-sr"))
    for _ in range(2):  # beside the images, among which they are none the second time
        run(f"{bucket.url}/scan/", f"{bucket.url}/scan/", options)
    results = ["scan.json", "scan.nii.gz", "scan.rtstruct.dcm", "scan.seg.dcm", "scan.sr.dcm"]
    assert bucket.names("scan")[-5:] == results
    record = json.loads(bucket.get("scan/scan.json"))
    assert record["other_masks"].keys() == {f"{bucket.url}/scan/scan.{kind}.dcm" for kind in ("rtstruct", "seg")}
    assert record["identity"]["outputs"].keys() == set(results) - {"scan.json"}
    assert dcmread(BytesIO(bucket.get("scan/scan.seg.dcm"))).PatientName == "Secret^Patient"
    assert run(f"{bucket.url}/scan/", f"{bucket.url}/scan/", options, resume=ResumeRules()) == ({}, ["scan"])


def test_slices_are_on_the_disk_while_their_series_is_in_work_or_comes_ahead(bucket, run, tmp_path, monkeypatch):
    for name in "abcdefgh":
        Series(count=5).write(tmp_path / "study" / name)
    bucket.upload(tmp_path / "study", "study")
    counts, store, close = [], StoredResults.store, Mirror.close

    def count(mirror):
        counts.append(sum(path.stat().st_blocks > 0 for path in mirror._folder.rglob("IM*")))

    monkeypatch.setattr(StoredResults, "store", lambda self, case: (count(self._mirror), store(self, case))[1])
    monkeypatch.setattr(Mirror, "close", lambda mirror: (count(mirror), close(mirror)))
    assert len(run(f"{bucket.url}/study", tmp_path / "masks")[0]) == 8
    assert counts[-1] == 0
    assert max(counts) <= 5 * 5


def test_a_prefix_without_any_image_is_refused(bucket, run):
    bucket.put("notes/a.txt", b"notes" * 100)
    with pytest.raises(UsageError, match=rf"^{bucket.url}/notes: holds no .nii.gz, .nii, .nrrd, .mha file$"):
        run(f"{bucket.url}/notes/", f"{bucket.url}/masks/")


def test_of_objects_without_pixels_only_the_first_bytes_are_read(bucket, run, tmp_path, monkeypatch, caplog):
    bucket.upload(Series(count=4).write(tmp_path / "scan"), "scan")
    header = bucket.get("scan/IM0000").rpartition(b"\xe0\x7f\x10\x00")[0]  # without the pixels
    bucket.put("scan/raw", header + b"\xe1\x7f\x10\x00OB\0\0\0\0\4\0" + bytes(1 << 18))
    monkeypatch.setattr("flare_runtime.cases.stored_images._LAST_BYTES", 1 << 18)
    records, _ = run(f"{bucket.url}/scan/", tmp_path / "masks")
    assert [record.status for record in records.values()] == ["done"]
    assert caplog.messages == [f"{bucket.url}/scan/raw: left out, as its first 262,144 bytes hold no pixels"]
