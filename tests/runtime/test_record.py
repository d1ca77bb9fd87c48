"""What is written down: one line, one JSON object."""

import json
import subprocess
import sys

import msgspec

from flare_runtime.cases.fingerprints import sha256_of
from flare_runtime.cases.record_format import is_record, is_report
from flare_runtime.errors import CaseError, OutputError
from flare_runtime.files.json_file import write_json
from flare_runtime.imaging.volume import Remark
from flare_runtime.pipeline.lesions import LabelTotal, Lesion
from flare_runtime.run.record import CaseRecord, failed_record
from flare_runtime.run.report import RunTime, environment, write_report

RUN = RunTime("2026-01-31T12:00:00+00:00", 1.5, ["flare-infer", "-i", "a.nii"])
DONE = CaseRecord(
    case="a",
    status="done",
    timings_s={"network": 1.234, "total": 2.345},
    lesions=[
        Lesion(1, 10, 1.5, (1.0, 2.0, 3.0), (3.0, 3.0, 3.0)),
        Lesion(1, 5, 0.25, (4.0, 5.0, 6.0), (2.0, 2.0, 2.0)),
    ],
    totals=[LabelTotal(1, "lesion", 2, 1.75)],
    remarks=[Remark("misnamed", "the file is not compressed")],
)


def test_a_finished_case_in_one_line():
    assert DONE.line == "a: 2 lesion(s), 1.75 ml, 2.35 s (network 1.23 s); note: the file is not compressed"


def test_a_refused_case_in_one_line():
    record = failed_record("b", CaseError("truncated", "b.nii: cut short"))
    assert (record.status, record.reason) == ("refused", "truncated")
    assert record.line == "b: refused (truncated): b.nii: cut short"


def test_failures_name_their_kind_on_one_line():
    for error, reason, begin in (
        (OutputError("disk full"), "output", "disk full"),
        (MemoryError("1 GiB"), "memory", "MemoryError: 1 GiB"),
        (ValueError("first\nsecond"), "internal", "ValueError: first"),
        (ValueError(), "internal", "ValueError"),
    ):
        record = failed_record("c", error)
        assert (record.status, record.reason) == ("failed", reason)
        assert "\n" not in record.line
        assert record.message.startswith(begin)


def test_a_record_survives_json(tmp_path):
    write_json(tmp_path / "a.json", DONE)
    assert msgspec.json.decode((tmp_path / "a.json").read_bytes(), type=CaseRecord) == DONE


def test_a_finished_case_says_that_it_has_no_lesions(tmp_path):
    write_json(tmp_path / "a.json", CaseRecord(case="a", status="done", lesions=[]))
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["lesions"] == []


def test_a_record_says_which_schema_it_follows(tmp_path):
    write_json(tmp_path / "a.json", DONE)
    assert json.loads((tmp_path / "a.json").read_bytes())["schema_version"] == 2


def test_a_report_holds_every_case_and_the_environment(tmp_path):
    records = [DONE, failed_record("b", CaseError("truncated", "cut"))]
    write_report(tmp_path / "run.json", RUN, records, [])
    report = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    assert (report["complete"], report["not_begun"]) == (True, [])
    assert [(case["case"], case["status"]) for case in report["cases"]] == [("a", "done"), ("b", "refused")]
    assert report["environment"] == environment()
    assert (report["format"], report["schema_version"]) == ("flare-lite report", 2)
    assert report["started"] == "2026-01-31T12:00:00+00:00"
    assert (report["duration_s"], report["command"]) == (1.5, ["flare-infer", "-i", "a.nii"])
    assert {"python", "system", "numpy", "openvino", "flare-lite"} <= report["environment"].keys()


def test_the_report_of_an_interrupted_run_says_what_was_not_begun(tmp_path):
    write_report(tmp_path / "run.json", RUN, [DONE], ["b", "c"])
    report = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    assert (report["complete"], report["not_begun"]) == (False, ["b", "c"])


def test_records_and_reports_are_told_from_other_files(tmp_path):
    write_json(tmp_path / "a.json", DONE)
    write_report(tmp_path / "run.json", RUN, [DONE], [])
    record, report = ((tmp_path / name).read_bytes() for name in ("a.json", "run.json"))
    # Written before there was a `format`.
    old_record = b'{"case": "a", "status": "done", "model": {"bundle_sha256": "0"}}'
    old_refusal = b'{"case": "a", "status": "refused", "reason": "truncated", "message": "cut short"}'
    old_report = b'{"cases": [], "environment": {"flare-lite": "0.1.0"}}'
    # Written before there was a `schema_version`.
    old_record_2 = b'{"format": "flare-lite record", "case": "a", "model": {"tta": "false", "step": "0.5"}}'
    old_report_2 = b'{"format": "flare-lite report", "cases": []}'
    others = [b"", b"{", b"[1]", b"\xff", b"null", b'{"format": "other"}', b'{"case": "a"}', b'{"environment": 1}']
    others += [b'{"a":' * 10_000, b'{"case": "a", "status": "done", "model": "x"}', b'{"schema_version": 1}']
    records, reports = (record, old_record, old_refusal, old_record_2), (report, old_report, old_report_2)
    for content in (*records, *reports, *others):
        assert is_record(content) == (content in records), content
        assert is_report(content) == (content in reports), content


def test_a_files_hash(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_the_peak_of_memory_is_none_of_the_program_that_started_this_one():
    code = """
import subprocess, sys
filled = bytearray(b"x") * (300 << 20)
code = "from flare_runtime.run.record import peak_memory_mib; print(peak_memory_mib())"
print(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 10 < float(run.stdout) < 200
