"""The lesions of a run as CSV."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from flare_runtime import Session, UsageError
from flare_runtime.errors import OutputError
from flare_runtime.options import RunOptions
from flare_runtime.pipeline.lesions import Lesion
from flare_runtime.run.lesion_table import is_table, rows_of, write_table
from flare_runtime.run.record import CaseRecord
from tests.runtime.nifti_files import blobs, write_nifti

OPTIONS = RunOptions(device="cpu", threads=1)
LESION = Lesion(
    label=2,
    voxels=9,
    volume_ml=1.25,
    centre=(1.0, 2.0, 3.0),
    extent_mm=(3.0, 3.0, 3.0),
    name='cyst, "left"',
    centre_mm=(-10.0, 20.0, 30.5),
    id=1,
    centre_lps_mm=(10.0, -20.0, 30.5),
    largest_slice=4,
    diameter_mm=12.5,
    perpendicular_mm=7.0,
    diameter_slice=5,
    mean_intensity=41.2,
    sd_intensity=9.0,
    touches_border=True,
)

DOT = Lesion(1, 1, 0.1, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), id=2)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_row_for_each_lesion_and_one_for_a_case_without(tmp_path):
    records = [
        CaseRecord(case="a", status="done", lesions=[LESION, DOT]),
        CaseRecord(case="b", status="done", lesions=[]),
        CaseRecord(case="c", status="refused", reason="truncated"),
    ]
    target = tmp_path / "lesions.csv"
    write_table(target, [rows_of(record) for record in records])
    rows = read(target)
    assert [(row["case"], row["status"], row["id"]) for row in rows] == [
        ("a", "done", "1"),
        ("a", "done", "2"),
        ("b", "done", ""),
        ("c", "refused", ""),
    ]
    first = rows[0]
    assert (first["name"], first["volume_ml"], first["diameter_mm"]) == ('cyst, "left"', "1.25", "12.5")
    assert [first[f"centre_lps_mm_{axis}"] for axis in "xyz"] == ["10.0", "-20.0", "30.5"]
    assert (first["touches_border"], rows[1]["centre_mm_x"]) == ("True", "")
    assert is_table(target.read_bytes())


def test_a_run_writes_its_table_over_another_and_over_nothing_else(tiny_bundle, tmp_path):
    write_nifti(tmp_path / "a.nii.gz", blobs((20, 30, 30), 1), spacing_mm=(3, 2, 1.5))
    table = tmp_path / "lesions.csv"
    session = Session(tiny_bundle, OPTIONS)
    for _ in range(2):
        (record,) = session.run(tmp_path / "a.nii.gz", tmp_path / "out.nii", lesions=table)
        assert len(read(table)) == max(1, len(record.lesions))
    table.write_text("case;status\n", encoding="utf-8")
    with pytest.raises(OutputError, match="was not written by this command"):
        session.run(tmp_path / "a.nii.gz", tmp_path / "out.nii", lesions=table)
    with pytest.raises(UsageError, match="as well"):
        session.run(tmp_path / "a.nii.gz", tmp_path / "out.nii", lesions=tmp_path / "x.csv", report=tmp_path / "x.csv")
    with pytest.raises(UsageError, match=r"x\.xlsx: the table of lesions is a \.csv file"):
        session.run(tmp_path / "a.nii.gz", tmp_path / "out.nii", lesions=tmp_path / "x.xlsx")


def test_no_name_is_a_formula(tmp_path):
    record = CaseRecord(case="=HYPERLINK(1)", status="done", lesions=[replace(LESION, name="@SUM(A1)")])
    write_table(tmp_path / "lesions.csv", [rows_of(record)])
    (row,) = read(tmp_path / "lesions.csv")
    assert (row["case"], row["name"]) == ("'=HYPERLINK(1)", "'@SUM(A1)")
    assert row["centre_mm_x"] == "-10.0"
