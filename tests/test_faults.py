"""The fault table: its images go through one run of the real command, and its document and tests are what it says."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fault_files import HU
from tests.fault_rows import ROWS
from tests.fault_table import Row, document, summary
from tests.runtime.nifti_files import blobs, write_nifti

ROOT = Path(__file__).parents[1]
FILES = [file for row in ROWS for file in row.files]


def infer(bundle: Path, images: Path, masks: Path) -> "subprocess.Popen[str]":
    options = ["-m", str(bundle), "--device", "cpu", "--precision", "fp32", "--threads", "1"]
    command = [sys.executable, "-m", "flare_runtime.cli", "-i", str(images), "-o", str(masks), *options]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="session")
def masks(tiny_bundle, tmp_path_factory) -> Path:
    """What one run over all images of the table leaves."""
    folder = tmp_path_factory.mktemp("faults")
    (folder / "images").mkdir()
    for file in FILES:
        file.make(folder / "images" / f"{file.case}{file.suffix}")
    process = infer(tiny_bundle, folder / "images", folder / "masks")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 4, errors
    assert "Traceback" not in errors
    return folder / "masks"


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(file, id=file.case, marks=pytest.mark.xfail(reason=file.fails, strict=True) if file.fails else ())
        for file in FILES
    ],
)
def test_a_file_is_treated_as_the_table_says(masks, file):
    record = json.loads((masks / f"{file.case}.json").read_bytes())
    assert (record["status"], record.get("reason")) == ("refused" if file.reason else "done", file.reason), record
    assert {remark["code"] for remark in record.get("remarks", [])} == set(file.remarks)
    assert (masks / f"{file.case}.nii.gz").exists() == (file.reason is None)


def test_two_runs_into_one_folder_leave_whole_results(tiny_bundle, tmp_path):
    (tmp_path / "images").mkdir()
    for seed in range(5):
        write_nifti(tmp_path / "images" / f"case{seed}.nii.gz", blobs(HU.shape, seed), spacing_mm=(3, 2, 1.5))
    runs = [infer(tiny_bundle, tmp_path / "images", tmp_path / "masks") for _ in range(2)]
    for run in runs:
        _, errors = run.communicate(timeout=300)
        assert run.returncode == 0, errors
    for mask in (tmp_path / "masks").glob("*.nii.gz"):
        record = json.loads(mask.with_name(mask.name.replace(".nii.gz", ".json")).read_bytes())
        assert record["mask_sha256"] == hashlib.sha256(mask.read_bytes()).hexdigest()
    names = {path.name for path in (tmp_path / "masks").iterdir()}
    assert names == {f"case{seed}.{suffix}" for seed in range(5) for suffix in ("nii.gz", "json")}


# --- the table itself


def test_the_document_is_the_table():
    assert (ROOT / "docs" / "reference" / "faults.md").read_text(encoding="utf-8") == document(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.fault)
def test_a_row_is_covered_or_says_why_not(row):
    assert bool(row.open) != bool(row.files or row.tests)
    assert {file.reason for file in row.files} - {None} <= set(re.findall(r"`(\w+)`", row.outcome))
    for test in row.tests:
        file, _, name = test.partition("::")
        assert not name or f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), test
        assert (ROOT / file).is_file(), test


def test_cases_have_names_of_their_own():
    assert len({file.case for file in FILES}) == len(FILES)


def test_a_row_passes_where_a_test_passed_and_none_failed():
    row = Row("a fault", "works", tests=("a.py::test_one", "a.py::test_two"))
    assert row.verdict({"a.py::test_one[x]": ["passed"], "a.py::test_two": ["skipped"]}) == "passed"
    assert row.verdict({"a.py::test_one[x]": ["passed"], "a.py::test_one[y]": ["failed"]}) == "failed"
    assert row.verdict({"a.py::test_one": ["skipped"]}) == "not run"
    assert row.verdict({"a.py::test_one_more": ["failed"]}) == "not run"
    assert Row("a fault", "works", open="later").verdict({}) == "open"


def test_the_summary_names_every_row_and_counts_them():
    rows = [Row("one", "works", tests=("a.py",)), Row("two", "works", open="later")]
    assert summary(rows, {"a.py::test": ["passed"]}) == ["passed   one", "open     two: later", "1 passed, 1 open"]
