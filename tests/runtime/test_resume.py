"""A run that resumes another leaves what its record and its files show to be done, and nothing else."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flare_runtime import CaseKept, ResumeRules, RunOptions, Session, UsageError, cli
from flare_runtime.cases.finding import find_cases
from flare_runtime.files.lease import Leases
from flare_runtime.run import serial
from flare_runtime.run.digests import InputDigests
from tests.runtime.command_runs import SPACING, names, spawn, write_cohort
from tests.runtime.nifti_files import blobs, write_nifti

OPTIONS = RunOptions(device="cpu", precision="fp32", threads=1)
KILLED_HOLDER = """
import os, pathlib, signal, sys
from flare_runtime.files.lease import Leases
assert Leases().take(pathlib.Path(sys.argv[1]))
os.kill(os.getpid(), signal.SIGKILL)
"""


def lose_worker(case):
    """Have a worker killed that has the lease of a case."""
    case.mask.parent.mkdir(exist_ok=True)
    subprocess.run([sys.executable, "-c", KILLED_HOLDER, str(case.mask)], check=False)


@pytest.fixture(scope="module")
def finished(tiny_bundle, tmp_path_factory):
    """The folder of a finished run: `scans`, `masks`, with `a` and `c` done and `b` refused."""
    folder = tmp_path_factory.mktemp("finished")
    write_cohort(folder / "scans")
    list(Session(tiny_bundle, OPTIONS).run(folder / "scans", folder / "masks"))
    return folder


@pytest.fixture
def cohort(finished, tmp_path):
    """A copy of it with all times of change."""
    return Path(shutil.copytree(finished, tmp_path / "cohort"))


@pytest.fixture
def resume(cohort, tiny_bundle):
    """A function that resumes the run and returns which cases were done again and which were kept."""

    def run(bundle=None, options=OPTIONS, rules=None):
        kept = []

        def listen(event):
            if isinstance(event, CaseKept):
                kept.append(event.case)

        session = Session(bundle or tiny_bundle, options, listener=listen)
        records = list(session.run(cohort / "scans", cohort / "masks", resume=rules or ResumeRules()))
        assert not [name for name in names(cohort / "masks") if "lease" in name]
        return "".join(sorted(record.case for record in records)), "".join(sorted(kept))

    return run


def written(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_a_finished_run_is_left_as_it_is(cohort, resume):
    before = written(cohort / "masks")
    assert resume() == ("", "abc")
    assert written(cohort / "masks") == before


def test_a_run_into_an_empty_folder_does_all(cohort, resume):
    shutil.rmtree(cohort / "masks")
    assert resume() == ("abc", "")
    assert names(cohort / "masks") == ["a.json", "a.nii.gz", "b.json", "c.json", "c.nii.gz"]


def _other_image(cohort):
    write_nifti(cohort / "scans" / "a_0000.nii.gz", blobs((16, 17, 18), 9), spacing_mm=SPACING)


def _newer_image(cohort):
    os.utime(cohort / "scans" / "a_0000.nii.gz", ns=(1, 1))


def _other_name(cohort):
    scan = cohort / "scans" / "a_0000.nii.gz"
    scan.rename(scan.with_name("a.nii.gz"))


def _other_name_of_refused_image(cohort):
    scan = cohort / "scans" / "b_0000.nii.gz"
    scan.rename(scan.with_name("b.nii.gz"))


def _other_refused_image(cohort):
    write_nifti(cohort / "scans" / "b_0000.nii.gz", blobs((16, 17, 18), 9), spacing_mm=SPACING)


def _other_mask(cohort):
    shutil.copy(cohort / "masks" / "c.nii.gz", cohort / "masks" / "a.nii.gz")


def _newer_mask(cohort):
    os.utime(cohort / "masks" / "a.nii.gz", ns=(1, 1))


def _no_mask(cohort):
    (cohort / "masks" / "a.nii.gz").unlink()


def _no_record(cohort):
    (cohort / "masks" / "a.json").unlink()


def _changed_record(cohort, change, case="a"):
    record = cohort / "masks" / f"{case}.json"
    content = json.loads(record.read_bytes())
    change(content)
    record.write_text(json.dumps(content))


def _old_record(cohort):
    _changed_record(cohort, lambda content: content.pop("identity"))


def _record_of_no_mask(cohort):
    _changed_record(cohort, lambda content: content["identity"].update(outputs={}))


def _refused_as_images_came_and_went(cohort):
    _changed_record(cohort, lambda content: content.update(reason="changed"), "b")


def _record_of_another_program(cohort):
    (cohort / "masks" / "a.json").write_bytes(b"")


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (_other_image, "a"),
        (_newer_image, ""),  # its hash is the same
        (_other_refused_image, "b"),
        (_other_name, ""),
        (_other_name_of_refused_image, "b"),  # of which there is no hash
        (_other_mask, "a"),
        (_newer_mask, ""),
        (_no_mask, "a"),
        (_no_record, "a"),
        (_old_record, "a"),
        (_record_of_no_mask, "a"),
        (_refused_as_images_came_and_went, "b"),
        (_record_of_another_program, "a"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_what_was_changed_is_done_again(change, again, cohort, resume):
    before = (cohort / "masks" / "a.nii.gz").read_bytes()
    change(cohort)
    assert resume() == (again, "".join(name for name in "abc" if name not in again))
    assert ((cohort / "masks" / "a.nii.gz").read_bytes() == before) == (change is not _other_image)
    assert resume() == ("", "abc")


@pytest.mark.parametrize("change", [{"step": 0.75}, {"tta": True}, {"crop": "body"}, {"preview": True}])
def test_other_options_are_another_result(change, resume):
    assert resume(options=replace(OPTIONS, **change)) == ("abc", "")


@pytest.mark.parametrize("change", [{"device": "auto"}, {"threads": 2}, {"max_voxels": 10**6}, {"gpu_memory_mib": 900}])
def test_where_it_is_computed_makes_no_difference(change, resume):
    assert resume(options=replace(OPTIONS, **change)) == ("", "abc")


def test_another_model_is_another_result(tiny_bundle, tmp_path, resume):
    other = Path(shutil.copytree(tiny_bundle, tmp_path / "other"))
    manifest = json.loads((other / "manifest.json").read_bytes())
    manifest["caution"] = "another one"
    (other / "manifest.json").write_text(json.dumps(manifest))
    assert resume(bundle=other) == ("abc", "")


def test_the_content_of_a_file_counts_only_if_it_is_asked_for(cohort, resume):
    scan = cohort / "scans" / "a_0000.nii.gz"
    status, size = scan.stat(), scan.stat().st_size
    data = bytearray(scan.read_bytes())
    data[4:8] = b"time"  # of a gzip stream, whose voxels stay the same
    scan.write_bytes(data)
    os.utime(scan, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert scan.stat().st_size == size
    assert resume() == ("", "abc")
    assert resume(rules=ResumeRules(verify_hashes=True)) == ("a", "bc")


def test_failed_cases_are_tried_again_so_often(cohort, resume):
    rules = ResumeRules(failed_too=True, max_tries=3)
    assert [resume(rules=rules) for _ in range(3)] == [("b", "ac"), ("b", "ac"), ("", "abc")]
    assert json.loads((cohort / "masks" / "b.json").read_bytes())["identity"]["tries"] == 3
    _other_refused_image(cohort)
    assert resume(rules=rules) == ("b", "ac")
    assert json.loads((cohort / "masks" / "b.json").read_bytes())["identity"]["tries"] == 1


def test_every_output_has_to_be_there(cohort, resume):
    options = replace(OPTIONS, probabilities="network", preview=True)
    assert resume(options=options) == ("abc", "")
    assert resume(options=options) == ("", "abc")
    (cohort / "masks" / "a.preview.png").unlink()
    probabilities = cohort / "masks" / "c.probabilities.npz"
    probabilities.write_bytes(probabilities.read_bytes()[:-1] + b"x")
    assert resume(options=options) == ("ac", "b")


def test_a_name_that_is_no_text_is_resumed_as_others(cohort, resume):
    for suffix in (".nii.gz", ".json"):
        (cohort / "masks" / f"a{suffix}").unlink()
    odd = os.fsdecode(b"M\xfcller\n.nii.gz")
    (cohort / "scans" / "a_0000.nii.gz").rename(cohort / "scans" / odd)
    shown = r"M\xfcller\n"
    assert resume() == (shown, "bc")
    assert resume() == resume(rules=ResumeRules(verify_hashes=True)) == ("", f"{shown}bc")


def test_the_table_of_lesions_holds_those_of_kept_cases(cohort, tiny_bundle, tmp_path):
    tables = []
    for index, rules in enumerate((None, ResumeRules())):
        table = tmp_path / f"{index}.csv"
        list(Session(tiny_bundle, OPTIONS).run(cohort / "scans", cohort / "masks", lesions=table, resume=rules))
        tables.append(sorted(table.read_text(encoding="utf-8").splitlines()))
    assert tables[0] == tables[1]
    assert len(tables[0]) > 1


def test_nothing_can_be_resumed_without_records(cohort, tiny_bundle):
    session = Session(tiny_bundle, replace(OPTIONS, records=False))
    with pytest.raises(UsageError, match="cannot be resumed"):
        session.run(cohort / "scans", cohort / "masks", resume=ResumeRules())


def test_why_everything_is_done_again_is_said_once(cohort, resume, tiny_bundle, tmp_path, caplog):
    resume(options=replace(OPTIONS, step=0.75))
    other = Path(shutil.copytree(tiny_bundle, tmp_path / "other"))
    manifest = json.loads((other / "manifest.json").read_bytes())
    (other / "manifest.json").write_text(json.dumps({**manifest, "caution": "another one"}))
    resume(bundle=other)
    _changed_record(cohort, lambda content: content["identity"].update(options_sha256="of an earlier program"))
    assert resume(bundle=other) == ("a", "bc")
    assert caplog.messages == [
        "a: its record is of other options (options_sha256); such cases are done again",
        "a: its record is of another model (bundle_sha256); such cases are done again",
        "a: its record is of other options (options_sha256); such cases are done again",
    ]


def test_kept_cases_of_another_version_are_counted(cohort, tiny_bundle, capsys):
    command = ["-i", cohort / "scans", "-o", cohort / "masks", "-m", tiny_bundle, "--device", "cpu", "--threads", "1"]
    command = [*map(str, command), "--precision", "fp32", "--resume"]
    cli.main(command)
    assert "version" not in capsys.readouterr().err
    _changed_record(cohort, lambda content: content["model"].update({"flare-lite": "0.0.7"}))
    cli.main(command)
    lines = capsys.readouterr().err.splitlines()
    assert "1 of them by another version of flare-lite: 0.0.7; they stay" in lines


def test_workers_share_a_folder(tiny_bundle, tmp_path):
    (tmp_path / "scans").mkdir()
    for seed in range(12):
        write_nifti(tmp_path / "scans" / f"{seed:02}.nii.gz", blobs((16, 17, 18), seed), spacing_mm=SPACING)
    command = ["-i", tmp_path / "scans", "-o", tmp_path / "masks", "-m", tiny_bundle, "--device", "cpu", "--threads", 1]
    workers = [spawn(*command, "--resume", "--precision", "fp32") for _ in range(3)]
    said = [worker.communicate()[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    done = [line.split(":")[0] for text in said for line in text.splitlines() if "lesion(s)" in line]
    assert sorted(done) == [f"{seed:02}" for seed in range(12)]
    assert len(names(tmp_path / "masks")) == 24
    for text in said:
        kept = [line for line in text.splitlines() if "were done by other runs" in line]
        assert int(kept[0].split()[0] if kept else 0) == 12 - sum("lesion(s)" in line for line in text.splitlines())


def test_a_worker_waits_for_the_case_of_another_and_takes_it_over(tiny_bundle, tmp_path):
    scan = write_nifti(tmp_path / "a.nii.gz", blobs((16, 17, 18), 1), spacing_mm=SPACING)
    (case,) = find_cases(scan, tmp_path / "masks" / "a.nii.gz", 1)
    leases = Leases()
    lease = leases.take(case.mask)
    command = ["-i", scan, "-o", case.mask, "-m", tiny_bundle, "--device", "cpu", "--precision", "fp32", "--resume"]
    worker = spawn(*command)
    time.sleep(2)
    assert worker.poll() is None
    assert not case.mask.exists()
    leases.release(lease)
    assert worker.wait(120) == 0
    assert case.mask.exists()


def test_a_case_that_costs_its_workers_is_given_up(cohort, resume, tiny_bundle):
    case = next(case for case in find_cases(cohort / "scans", cohort / "masks", 1) if case.name == "a")
    case.record.unlink()
    for _ in range(2):
        lose_worker(case)
    assert resume(rules=ResumeRules(max_tries=2)) == ("a", "bc")
    record = json.loads(case.record.read_bytes())
    assert (record["status"], record["reason"]) == ("failed", "worker_lost")
    assert "2 workers" in record["message"]
    assert np.size(record["identity"]["inputs"]) == 1
    assert resume(rules=ResumeRules(failed_too=True, max_tries=9)) == ("ab", "c")


def test_an_image_that_changes_while_it_is_read_is_not_taken_for_the_new_one(cohort, tiny_bundle, resume, monkeypatch):
    (case, *_) = find_cases(cohort / "scans", cohort / "masks", 1)
    digests = InputDigests()
    digests.begin(case)
    assert len(digests.of(case)) == 1
    _other_image(cohort)
    assert digests.of(case) == []
    digests.close()

    def commit_failure(*given, **options):  # once the rest of the image has come
        _other_refused_image(cohort)
        return commit(*given, **options)

    commit = serial.commit_failure
    monkeypatch.setattr(serial, "commit_failure", commit_failure)
    (cohort / "masks" / "b.json").unlink()
    assert resume() == ("ab", "c")
    assert json.loads((cohort / "masks" / "b.json").read_bytes())["status"] == "refused"
    assert resume() == ("b", "ac")


def test_kept_failures_are_said_even_if_nothing_else_is(cohort, tiny_bundle, capsys):
    command = ["-i", cohort / "scans", "-o", cohort / "masks", "-m", tiny_bundle, "--device", "cpu", "--threads", "1"]
    assert cli.main([*map(str, command), "--precision", "fp32", "--resume", "--quiet"]) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("1 case(s) were refused or failed in other runs")
