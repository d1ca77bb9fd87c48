"""Images and results in an object store: what a run on folders does, and nothing half when the store goes away."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from flare_runtime import CaseKept, OutputError, ResumeRules, RunOptions, Session
from flare_runtime.cases.input_rules import InputRules
from flare_runtime.cli import main
from flare_runtime.files.this_process import process_id
from flare_runtime.stores import patience
from flare_runtime.stores.lease import StoreLeases
from flare_runtime.stores.mirror import Mirror
from tests.runtime.command_runs import SPACING, names, one_line, spawn, write_cohort
from tests.runtime.nifti_files import blobs, write_nifti
from tests.runtime.object_stores import S3_ENVIRONMENT, Line, s3_server

fsspec = pytest.importorskip("fsspec")
pytest.importorskip("s3fs")
pytest.importorskip("moto.server")

OPTIONS = RunOptions(device="cpu", precision="fp32", threads=1)
RESULTS = ["a.json", "a.nii.gz", "b.json", "c.json", "c.nii.gz"]


@pytest.fixture(scope="module")
def line():
    """The line to a server of S3."""
    with s3_server() as port, pytest.MonkeyPatch.context() as patch:
        line = Line(port)
        for name, value in {**S3_ENVIRONMENT, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{line.port}"}.items():
            patch.setenv(name, value)
        yield line


@pytest.fixture
def bucket(line, tmp_path, monkeypatch):
    """A new bucket, with the scans of `cohort` in it; temporary files go to `staging`."""
    (tmp_path / "staging").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "staging"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "staging"))
    bucket = Bucket(f"bucket-{os.urandom(8).hex()}")
    for path in write_cohort(tmp_path / "scans").iterdir():
        bucket.put(f"scans/{path.name}", path.read_bytes())
    yield bucket
    assert names(tmp_path / "staging") == []


class Bucket:
    """A bucket as the tests see it, and its URL."""

    def __init__(self, name):
        self._fs = fsspec.filesystem("s3", use_listings_cache=False)
        self._fs.mkdir(name)
        self.name, self.url = name, f"s3://{name}"

    def put(self, key, data):
        self._fs.pipe_file(f"{self.name}/{key}", data)

    def get(self, key):
        return self._fs.cat_file(f"{self.name}/{key}")

    def remove(self, key):
        self._fs.rm_file(f"{self.name}/{key}")

    def names(self, prefix):
        return sorted(key.removeprefix(f"{self.name}/{prefix}/") for key in self._fs.find(f"{self.name}/{prefix}"))


@pytest.fixture
def run(tiny_bundle):
    """A function that runs and returns the names of cases that were done and that were kept."""

    def run(source, target, options=OPTIONS, **further):
        kept = []

        def listen(event):
            if isinstance(event, CaseKept):
                kept.append(event.case)

        records = list(Session(tiny_bundle, options, listener=listen).run(source, target, **further))
        return "".join(sorted(record.case for record in records)), "".join(sorted(kept))

    return run


@pytest.fixture
def masks(tmp_path, run, bucket):
    """The folder of results of the same scans as files."""
    run(tmp_path / "scans", tmp_path / "masks")
    return tmp_path / "masks"


def test_a_run_on_urls_makes_what_one_on_folders_makes(bucket, masks, run, tmp_path):
    urls = f"{bucket.url}/scans/", f"{bucket.url}/masks/"
    assert run(*urls, report=tmp_path / "run.json") == ("abc", "")
    assert bucket.names("masks") == names(masks) == RESULTS
    for name in ("a.nii.gz", "c.nii.gz"):
        assert bucket.get(f"masks/{name}") == (masks / name).read_bytes()
    record = json.loads(bucket.get("masks/a.json"))
    assert (record["inputs"], record["mask"]) == ([f"{urls[0]}a_0000.nii.gz"], f"{urls[1]}a.nii.gz")
    assert record["mask_sha256"] == json.loads((masks / "a.json").read_bytes())["mask_sha256"]
    report = (tmp_path / "run.json").read_text()
    assert "staging" not in report
    assert record in json.loads(report)["cases"]


def test_a_record_holds_the_stamps_that_the_store_gave_its_results(bucket, run):
    bucket.put("scans/c\u202e_0000.nii.gz", bucket.get("scans/c_0000.nii.gz"))
    run(f"{bucket.url}/scans/", f"{bucket.url}/masks/", replace(OPTIONS, preview=True))
    mirror = Mirror()
    for name, shown in (("a", "a"), ("c\u202e", "c\\u202e")):
        outputs = json.loads(bucket.get(f"masks/{name}.json"))["identity"]["outputs"]
        assert outputs.keys() == {f"{shown}.nii.gz", f"{shown}.preview.png"}
        for end in ("nii.gz", "preview.png"):
            status = mirror.status_of(mirror.place_of(f"{bucket.url}/masks/{name}.{end}"))
            assert outputs[f"{shown}.{end}"] == status.stamp
            assert status.size == len(bucket.get(f"masks/{name}.{end}"))
    mirror.close()


def test_either_side_may_be_a_folder(bucket, masks, run, tmp_path):
    assert run(f"{bucket.url}/scans", tmp_path / "down", resume=ResumeRules()) == ("abc", "")
    assert run(f"file://{tmp_path}/scans", f"{bucket.url}/up", resume=ResumeRules()) == ("abc", "")
    assert names(tmp_path / "down") == bucket.names("up") == RESULTS
    assert (
        (tmp_path / "down" / "c.nii.gz").read_bytes() == bucket.get("up/c.nii.gz") == (masks / "c.nii.gz").read_bytes()
    )
    record = json.loads((tmp_path / "down" / "a.json").read_bytes())
    assert record["inputs"] == [f"{bucket.url}/scans/a_0000.nii.gz"]
    assert run(f"{bucket.url}/scans", tmp_path / "down", resume=ResumeRules()) == ("", "abc")
    assert run(tmp_path / "scans", f"{bucket.url}/up", resume=ResumeRules()) == ("", "abc")


def test_one_image_goes_to_the_object_that_is_named(bucket, masks, run):
    assert run(f"{bucket.url}/scans/a_0000.nii.gz", f"{bucket.url}/one/x.nii.gz") == ("a", "")
    assert bucket.get("one/x.nii.gz") == (masks / "a.nii.gz").read_bytes()
    assert run(f"{bucket.url}/scans/a_0000.nii.gz", f"{bucket.url}/one") == ("a", "")
    assert bucket.names("one") == ["a.json", "a.nii.gz", "x.json", "x.nii.gz"]


def test_resume_reads_records_and_lists_alone(bucket, run, monkeypatch):
    urls = f"{bucket.url}/scans/", f"{bucket.url}/masks/"
    assert run(*urls) == ("abc", "")
    with monkeypatch.context() as patch:
        patch.delattr("s3fs.S3FileSystem._get_file")
        patch.delattr("s3fs.S3FileSystem._open")
        patch.delattr("flare_runtime.stores.store.Store.sha256_of")
        assert run(*urls, resume=ResumeRules()) == ("", "abc")
    bucket.put("scans/c_0000.nii.gz", bucket.get("scans/c_0000.nii.gz"))  # which changes its time
    bucket.remove("masks/a.nii.gz")
    assert run(*urls, resume=ResumeRules()) == ("a", "bc")
    bucket.put("scans/a_0000.nii.gz", bucket.get("scans/c_0000.nii.gz"))
    bucket.put("masks/c.nii.gz", bucket.get("masks/c.nii.gz")[:-1] + b"x")
    assert run(*urls, resume=ResumeRules()) == ("ac", "b")
    bucket.put("masks/a.json", b"")
    assert run(*urls, resume=ResumeRules(failed_too=True, verify_hashes=True)) == ("ab", "c")


def test_a_mask_that_does_not_hold_any_more_is_set_aside(bucket, run):
    options = replace(OPTIONS, preview=True)
    source = f"{bucket.url}/scans/c_0000.nii.gz"
    run(source, f"{bucket.url}/masks/", options)
    mask = bucket.get("masks/c.nii.gz")
    assert bucket.names("masks") == ["c.json", "c.nii.gz", "c.preview.png"]
    bucket.put("scans/c_0000.nii.gz", b"")
    run(source, f"{bucket.url}/masks/")
    assert bucket.names("masks") == ["c.json", "c.stale.nii.gz", "c.stale.preview.png"]
    assert bucket.get("masks/c.stale.nii.gz") == mask
    assert json.loads(bucket.get("masks/c.json"))["status"] == "refused"


def test_nothing_of_others_is_replaced(bucket, run):
    bucket.put("masks/a.nii.gz", b"a text")
    with pytest.raises(OutputError, match=rf"^{bucket.url}/masks/a.nii.gz: was not written by this command"):
        run(f"{bucket.url}/scans", f"{bucket.url}/masks")
    write = bucket.get("scans/a_0000.nii.gz")
    bucket.put("same/a.nii.gz", write)
    with pytest.raises(OutputError, match=rf"^{bucket.url}/same/a.nii.gz: is the input itself"):
        run(f"{bucket.url}/same", f"{bucket.url}/same")
    assert bucket.get("same/a.nii.gz") == write


def test_results_in_the_input_are_no_images(bucket, run):
    assert run(f"{bucket.url}/scans/", f"{bucket.url}/scans/") == ("abc", "")
    assert run(f"{bucket.url}/scans/", f"{bucket.url}/masks/") == ("abc", "")
    assert bucket.names("masks") == RESULTS


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("sftp://machine/scans", "no store that can be used"),
        ("file://scans", "from the root on"),
        ("s3://bucket//scans", "names no bucket and key"),
        ("s3://bucket/../../scans", "names no bucket and key"),
        ("s3://no-bucket-of-this-name/scans", "there is no such object or prefix"),
    ],
)
def test_urls_that_cannot_be_used_are_refused(source, message, line, tmp_path, tiny_bundle, capsys):
    assert main(["-i", source, "-o", str(tmp_path), "-m", str(tiny_bundle), "--device", "cpu"]) == 2
    assert message in one_line(capsys.readouterr().err)


def test_prefixes_are_folders_and_shares_are_taken_of_all(bucket, run, caplog):
    for key in ("x/a.nii.gz", "y/z/a.nii.gz"):
        bucket.put(f"tree/{key}", bucket.get("scans/a_0000.nii.gz"))
    bucket.put("tree/y/", b"")  # as some programs mark a folder
    bucket.put("tree//odd.nii.gz", b"")
    urls = f"{bucket.url}/tree", f"{bucket.url}/masks"
    rules = InputRules(recursive=True)
    shares = [run(*urls, input_rules=replace(rules, shard=(index, 2)))[0] for index in (1, 2)]
    assert "".join(sorted(shares, key=len)) == "x/ay/z/a"
    assert f"{bucket.url}/tree: left out 1 object(s) whose names can be no paths" in caplog.messages
    assert bucket.names("masks") == ["x/a.json", "x/a.nii.gz", "y/z/a.json", "y/z/a.nii.gz"]
    assert len(run(*urls, input_rules=rules, resume=ResumeRules())[1]) == len("x/ay/z/a")


def test_a_series_of_objects_is_read_as_its_folder(bucket, run, tmp_path):
    pytest.importorskip("pydicom")
    from tests.runtime.dicom_files import Series

    for path in Series(count=30).write(tmp_path / "series").iterdir():
        bucket.put(f"study/series/{path.name}", path.read_bytes())
    run(tmp_path / "series", tmp_path / "here.nii.gz")
    assert run(f"{bucket.url}/study/", f"{bucket.url}/there.nii.gz") == ("study_series", "")
    assert bucket.get("there.nii.gz") == (tmp_path / "here.nii.gz").read_bytes()


def test_a_store_that_goes_away_for_a_while_costs_nothing(bucket, line, masks, run, monkeypatch, caplog):
    monkeypatch.setattr(patience, "_FIRST_WAIT_S", 0.05)
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)
    threads = []

    def outage(_event):
        if not threads:
            line.go_down()
            threads.append(threading.Timer(0.7, come_back))
            threads[0].start()

    def come_back():
        line.cut_next([700, 1500, 2500, 3500])
        line.come_up()

    before = line.cuts
    monkeypatch.setattr("flare_runtime.run.stored_cases._MOST_AHEAD", 1)
    monkeypatch.setattr("flare_runtime.run.work.NetworkReady", lambda *_args: outage(None))
    assert run(f"{bucket.url}/scans/", f"{bucket.url}/masks/") == ("abc", "")
    assert threads
    assert line.cuts > before
    assert bucket.names("masks") == RESULTS
    for name in ("a.nii.gz", "c.nii.gz"):
        assert bucket.get(f"masks/{name}") == (masks / name).read_bytes()
    assert any("it is tried again for up to 10 minutes" in text for text in caplog.messages)


def test_a_store_that_stays_away_ends_the_run_with_nothing_half(bucket, line, run, monkeypatch):
    monkeypatch.setattr("flare_runtime.stores.mirror.LIMIT_S", 0.1)
    monkeypatch.setattr(patience, "_FIRST_WAIT_S", 0.01)
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)
    monkeypatch.setattr("flare_runtime.run.work.NetworkReady", lambda *_args: line.go_down())
    with pytest.raises(OutputError, match="the object store fails"):
        run(f"{bucket.url}/scans/", f"{bucket.url}/masks/")
    line.come_up()
    monkeypatch.undo()
    assert [name for name in bucket.names("masks") if name.endswith(".json")] == []
    assert run(f"{bucket.url}/scans/", f"{bucket.url}/masks/", resume=ResumeRules()) == ("abc", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_was_downloaded_goes_with_a_run_that_is_ended(number, bucket, tmp_path, tiny_bundle):
    write_nifti(tmp_path / "scans" / "a_0000.nii.gz", blobs((64, 64, 64)), spacing_mm=SPACING)
    bucket.put("scans/a_0000.nii.gz", (tmp_path / "scans" / "a_0000.nii.gz").read_bytes())
    urls = f"{bucket.url}/scans/", f"{bucket.url}/masks/"
    # With 85,000 tiles the first case takes minutes.
    process = spawn("-i", urls[0], "-o", urls[1], "-m", tiny_bundle, "--device", "cpu", "--threads", 1, "--step", 0.07)
    assert "tiny on cpu" in process.stderr.readline()
    staged = [path for path in (tmp_path / "staging").rglob("*_0000.nii.gz") if path.stat().st_blocks]
    assert len(staged) == 3
    process.send_signal(number)
    process.communicate(timeout=300)
    until = time.monotonic() + 120
    while names(tmp_path / "staging"):
        assert time.monotonic() < until
        time.sleep(0.05)


def holder(*, is_alive):
    """Return what the lease of a worker says."""
    process = process_id()
    if not is_alive:
        code = "from flare_runtime.files.this_process import process_id; print(process_id())"
        process = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
    return json.dumps({"token": "theirs", "process": process, "host": "there", "since": ""}).encode()


def test_workers_share_the_cases(bucket, run):
    bucket.put("scans/d_0000.nii.gz", bucket.get("scans/a_0000.nii.gz"))
    urls, done = (f"{bucket.url}/scans/", f"{bucket.url}/masks/"), []
    workers = [threading.Thread(target=lambda: done.append(run(*urls, resume=ResumeRules())[0])) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert "".join(sorted("".join(done))) == "abcd"
    assert bucket.names("masks") == sorted([*RESULTS, "d.json", "d.nii.gz"])


def test_a_case_of_a_worker_that_is_gone_is_taken_over(bucket, run):
    bucket.put("masks/.a.nii.gz.1.flare-lease", holder(is_alive=False))
    urls = f"{bucket.url}/scans/", f"{bucket.url}/masks/"
    assert run(*urls, resume=ResumeRules(max_tries=2)) == ("abc", "")
    assert json.loads(bucket.get("masks/a.json"))["identity"]["tries"] == 2
    for generation in (1, 2):
        bucket.put(f"masks/.c.nii.gz.{generation}.flare-lease", holder(is_alive=False))
    assert run(*urls, resume=ResumeRules(max_tries=2)) == ("", "abc")
    assert bucket.names("masks") == RESULTS  # of the leases too nothing is left
    bucket.remove("masks/c.json")
    for generation in (1, 2):
        bucket.put(f"masks/.c.nii.gz.{generation}.flare-lease", holder(is_alive=False))
    assert run(*urls, resume=ResumeRules(max_tries=2)) == ("c", "ab")
    assert json.loads(bucket.get("masks/c.json"))["reason"] == "worker_lost"
    assert bucket.names("masks") == ["a.json", "a.nii.gz", "b.json", "c.json", "c.stale.nii.gz"]


def test_a_case_that_was_taken_over_is_not_stored(bucket, run, monkeypatch):
    stored = []
    monkeypatch.setattr(
        "flare_runtime.stores.lease.StoreLeases.holds", lambda *_args: stored.append(bucket.names("masks"))
    )
    records = list(run(f"{bucket.url}/scans/a_0000.nii.gz", f"{bucket.url}/masks/", resume=ResumeRules()))
    assert records == ["a", ""]
    assert len(stored) == 2  # it was looked at again
    assert [name for of_then in (*stored, bucket.names("masks")) for name in of_then if "lease" not in name] == []


@pytest.mark.slow
def test_a_lease_without_a_sign_of_life_is_taken_over(bucket):
    mirror = Mirror()
    target = mirror.place_of(f"{bucket.url}/masks/a.nii.gz")
    silent, other = StoreLeases(mirror, beat_s=60), StoreLeases(mirror, beat_s=0.1, dead_after_s=1.5)
    first = silent.take(target)
    assert (first.generation, silent.holds(first), other.take(target)) == (1, True, None)
    time.sleep(3)
    assert other.take(target) is None  # the store may have been away
    time.sleep(0.3)
    second = other.take(target)
    assert (second.generation, silent.holds(first), other.holds(second)) == (2, False, True)
    time.sleep(3)  # the other gives signs of life
    third = StoreLeases(mirror, beat_s=0.0, dead_after_s=1.5)
    assert [third.take(target) for _ in range(2)] == [None, None]
    other.release(second)
    assert (silent.holds(first), bucket.names("masks")) == (False, [])
    assert silent.take(target).generation == 1
    silent.close()
    other.close()
    assert bucket.names("masks") == []
    mirror.close()


@pytest.mark.slow
def test_an_object_on_which_a_store_hangs_costs_no_other_lease(bucket, line, monkeypatch):
    mirror = Mirror()
    hanging, sound = (mirror.place_of(f"{bucket.url}/masks/{name}.nii.gz") for name in "ab")
    ours, other = (StoreLeases(mirror, beat_s=0.2, dead_after_s=2) for _ in range(2))
    leases = [ours.take(target) for target in (hanging, sound)]
    monkeypatch.setattr(line, "hangs_on", leases[0].token.encode())  # which its signs of life hold
    time.sleep(4)
    assert [other.take(target) for target in (hanging, sound)] == [None, None]  # silent for two beats before it is dead
    time.sleep(0.5)
    taken = [other.take(target) for target in (hanging, sound)]
    assert [lease and lease.generation for lease in taken] == [2, None]
    answers = []
    asking = threading.Thread(target=lambda: answers.append(ours.holds(leases[0])))
    asking.start()  # it asks right before it would store, and hangs as well
    assert ours.holds(leases[1])
    line.hangs_on = None
    asking.join()
    assert answers == [False]
    other.release(taken[0])
    ours.release(leases[0])
    ours.release(leases[1])
    ours.close()
    other.close()
    time.sleep(0.5)
    assert bucket.names("masks") == []
    mirror.close()
