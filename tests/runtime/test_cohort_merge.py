"""`flare-infer merge`: the records of a folder as one table of cases and one of lesions."""

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from flare_runtime import cli
from flare_runtime.cohort.record_files import Head, Unreadable, read_content, read_head
from flare_runtime.files.json_file import encode_json
from flare_runtime.pipeline.lesions import LabelTotal
from flare_runtime.run.lesion_table import HEAD
from tests.runtime.cohort_folders import done, failed, lesion, put, refused


def merged(folder, target, *words, code=0):
    assert cli.main(["merge", str(folder), "-o", str(target), *map(str, words)]) == code


def read(path):
    if path.suffix == ".parquet":
        return parquet.read_table(path).to_pylist()
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def folder(tmp_path):
    """Five cases, of which two failed and one has lesions of two labels: 0.1 ml of 1 and 0.2 + 0.4 ml of 2."""
    out = tmp_path / "out"
    of_two = {
        "lesions": [lesion(1, 0.4, "cyst"), lesion(2, 0.2, "cyst"), lesion(3, 0.1)],
        "totals": [LabelTotal(2, "cyst", 2, 0.6), LabelTotal(1, "tumour", 1, 0.1)],
    }
    put(out, done("b", **of_two))
    put(out, done("a"))
    put(out / "sub", done("c", 0, structured_report="c.sr.dcm", gpu_memory_mib={"planned": 1000, "measured": 900}))
    put(out, refused("d"))
    put(out / "sub", failed("e"))
    return out


def test_a_row_for_each_case_in_the_order_of_the_paths(folder, tmp_path):
    merged(folder, tmp_path / "cases.csv")
    rows = read(tmp_path / "cases.csv")
    assert [(row["case"], row["status"], row["reason"], row["record"]) for row in rows] == [
        ("a", "done", "", "a.json"),
        ("b", "done", "", "b.json"),
        ("d", "refused", "truncated", "d.json"),
        ("c", "done", "", "sub/c.json"),
        ("e", "failed", "internal", "sub/e.json"),
    ]
    assert [(row["lesions"], row["volume_ml"]) for row in rows] == [
        ("1", "1.5"),
        ("3", "0.7"),
        ("", ""),
        ("0", "0"),
        ("", ""),
    ]
    assert [(row["lesions_1_tumour"], row["volume_ml_2_cyst"]) for row in rows] == [
        ("1", "0.0"),
        ("1", "0.6"),
        ("", ""),
        ("0", "0.0"),
        ("", ""),
    ]
    first = rows[0]
    assert (first["inputs"], first["mask"], first["remarks"]) == ("/scans/a_0000.nii.gz", "/out/a.nii.gz", "thin")
    assert (first["network_s"], first["total_s"], first["tries"]) == ("1.25", "2.0", "")
    assert (first["shape_x"], first["spacing_z_mm"]) == ("40", "2.5")
    assert (first["model_name"], first["model_step"], first["model_tta"]) == ("tiny", "0.5", "False")
    assert (rows[2]["message"], rows[2]["inputs"]) == ("d: cut short", "d.nii")
    assert (rows[2]["structured_report"], rows[3]["structured_report"]) == ("", "c.sr.dcm")
    assert (rows[3]["gpu_planned_mib"], rows[3]["gpu_measured_mib"]) == ("1000", "900")


def test_both_formats_say_the_same(folder, tmp_path):
    for suffix in ("csv", "parquet"):
        merged(folder, tmp_path / f"cases.{suffix}", "--lesions", tmp_path / f"lesions.{suffix}")
    for name in ("cases", "lesions"):
        text, typed = (read(tmp_path / f"{name}.{suffix}") for suffix in ("csv", "parquet"))
        assert len(text) == len(typed)
        for row, like in zip(text, typed, strict=True):
            assert row.keys() == like.keys()
            for key, cell in like.items():
                assert row[key] == ("" if cell is None else str(cell)) or float(row[key]) == cell, key


def test_a_table_of_lesions_is_that_of_a_run(folder, tmp_path):
    table = tmp_path / "lesions.csv"
    merged(folder, tmp_path / "cases.csv", "--lesions", table)
    rows = read(table)
    assert list(rows[0]) == HEAD
    assert [(row["case"], row["status"], row["id"], row["name"], row["volume_ml"]) for row in rows] == [
        ("a", "done", "1", "tumour", "1.5"),
        ("b", "done", "1", "cyst", "0.4"),
        ("b", "done", "2", "cyst", "0.2"),
        ("b", "done", "3", "tumour", "0.1"),
        ("d", "refused", "", "", ""),
        ("c", "done", "", "", ""),
        ("e", "failed", "", "", ""),
    ]
    schema = parquet.read_schema
    merged(folder, tmp_path / "cases.parquet", "--lesions", tmp_path / "lesions.parquet")
    types = {field.name: str(field.type) for field in schema(tmp_path / "lesions.parquet")}
    assert (types["id"], types["volume_ml"], types["touches_border"]) == ("int64", "double", "bool")


def test_no_text_is_a_formula(tmp_path):
    put(tmp_path / "out", done("=HYPERLINK(1)", mask="@SUM(A1)"))
    merged(tmp_path / "out", tmp_path / "cases.csv", "--lesions", tmp_path / "lesions.csv")
    (row,) = read(tmp_path / "cases.csv")
    assert (row["case"], row["mask"]) == ("'=HYPERLINK(1)", "'@SUM(A1)")
    assert read(tmp_path / "lesions.csv")[0]["case"] == "'=HYPERLINK(1)"


def test_a_record_that_cannot_be_read_is_left_out_and_named(folder, tmp_path, capsys):
    whole = (folder / "a.json").read_bytes()
    for number in range(5):
        (folder / f"half{number}.json").write_bytes(whole[: len(whole) // 2])
    (folder / "foreign.json").write_bytes(b'{"name": "data set"}')
    merged(folder, tmp_path / "cases.csv")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"flare-infer merge: left out {folder / 'half0.json'}: is damaged")
    assert lines[-1] == "flare-infer merge: left out 2 more"
    assert len(read(tmp_path / "cases.csv")) == 5


def test_a_table_replaces_its_like_alone(folder, tmp_path, capsys):
    for suffix in ("csv", "parquet"):
        cases, lesions = tmp_path / f"cases.{suffix}", tmp_path / f"lesions.{suffix}"
        for _ in range(2):
            merged(folder, cases, "--lesions", lesions)
        before = cases.read_bytes()
        merged(folder, lesions, code=6)
        merged(folder, tmp_path / "new.csv", "--lesions", cases, code=6)
        assert cases.read_bytes() == before
        cases.write_bytes(b"case;status\n")
        merged(folder, cases, code=6)
        assert cases.read_bytes() == b"case;status\n"
        assert capsys.readouterr().err.count("was not written by this command") == 3
        cases.write_bytes(b"")
        merged(folder, cases)
    assert not (tmp_path / "new.csv").exists()


def test_a_bigger_cohort_replaces_the_table_of_one_that_had_failed(tmp_path):
    put(tmp_path / "out", refused("a"))
    merged(tmp_path / "out", tmp_path / "cases.csv")
    put(tmp_path / "out", done("a"))
    merged(tmp_path / "out", tmp_path / "cases.csv")
    assert read(tmp_path / "cases.csv")[0]["lesions_1_tumour"] == "1"


def test_what_cannot_be_a_table_is_a_usage_error(folder, tmp_path, capsys):
    merged(folder, tmp_path / "cases.xlsx", code=2)
    assert "cases.xlsx: a table is a .csv or .parquet file" in capsys.readouterr().err
    merged(folder, tmp_path / "cases.csv", "--lesions", folder / ".." / "cases.csv", code=2)
    assert "is the table of cases as well" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    merged(tmp_path / "empty", tmp_path / "cases.csv", code=2)
    merged(tmp_path / "none", tmp_path / "cases.csv", code=2)
    assert not (tmp_path / "cases.csv").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"out", "empty"}


def test_parquet_that_is_not_installed_is_a_usage_error(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    merged(folder, tmp_path / "cases.parquet", code=2)
    (line,) = capsys.readouterr().err.splitlines()
    assert "Parquet needs pyarrow" in line
    assert "pip install '.[parquet]'" in line


def test_odd_names_are_on_one_line(tmp_path):
    put(tmp_path / "out", failed("two\nlines"))
    (tmp_path / "out" / os.fsdecode(b"M\xfcller.json")).write_bytes(encode_json(done("x")))
    for suffix in ("csv", "parquet"):
        merged(tmp_path / "out", tmp_path / f"cases.{suffix}")
        assert {row["record"] for row in read(tmp_path / f"cases.{suffix}")} == {r"M\xfcller.json", r"two\nlines.json"}


def test_a_number_that_parquet_cannot_hold_is_said_in_one_line(tmp_path, capsys):
    put(tmp_path / "out", done("a", totals=[LabelTotal(1 << 70, "tumour", 1 << 70, 1.5)]))
    merged(tmp_path / "out", tmp_path / "cases.parquet", code=6)
    assert "of more than 64 bits" in capsys.readouterr().err
    merged(tmp_path / "out", tmp_path / "cases.csv")
    assert {path.name for path in tmp_path.iterdir()} == {"out", "cases.csv"}


@settings(max_examples=150)
@given(st.data())
def test_whatever_is_in_a_record_it_is_read_or_named(data):
    whole = encode_json(data.draw(st.sampled_from((done("a", 2), done("a", 40), failed("b")))))
    begin = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(begin, min(len(whole), begin + 40)))
    odd = st.sampled_from((b"1e400", b"null", b"[[]]", b"\xff", b'"', b"", b"-7")) | st.binary(max_size=8)
    with TemporaryDirectory() as folder:
        path = Path(folder, "a.json")
        path.write_bytes(whole[:begin] + data.draw(odd) + whole[end:])
        head, content = read_head(str(path)), read_content(str(path))
        assert type(head) in (Head, Unreadable, type(None))
        assert (head is None) == (content is None)
        if cli.main(["merge", folder, "-o", f"{folder}/cases.csv", "--lesions", f"{folder}/lesions.csv"]) == 0:
            assert isinstance(head, Head)
            assert read(Path(folder, "cases.csv"))[0]["status"] == head.status


def test_memory_does_not_grow_with_the_cases(tmp_path):
    code = "import sys; from flare_runtime.cli import main; main(sys.argv[1:]); from pathlib import Path\n"
    code += "from flare_runtime.run.record import peak_memory_mib; print(peak_memory_mib())"

    def peak_mib(count):
        out = tmp_path / f"{count}"
        record = put(out, done("case"))
        for number in range(count):
            (out / f"{number}.json").hardlink_to(record)
        words = ["merge", out, "-o", tmp_path / f"{count}.csv", "--lesions", tmp_path / f"l{count}.csv"]
        run = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
        return float(run.stdout.splitlines()[-1])

    assert peak_mib(4000) - peak_mib(400) < 5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing_of_a_table(folder, tmp_path, number):
    stuck = "lambda *_: print('stuck', flush=True) or __import__('time').sleep(600)"
    code = (
        f"from flare_runtime import cli; from flare_runtime.cohort import merge; merge._records = {stuck}; cli.main()"
    )
    place = tmp_path / "tables"
    words = ["merge", str(folder), "-o", str(place / "cases.csv"), "--lesions", str(place / "lesions.csv")]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "stuck\n"
    process.send_signal(number)
    assert process.communicate(timeout=300)[1].startswith("flare-infer merge: ")
    assert (process.returncode, list(place.iterdir())) == (128 + number, [])
