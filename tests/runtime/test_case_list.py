"""A list of cases as an input: what of each line, and what is refused by its number."""

import json
import os
import resource
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flare_runtime import ResumeRules, RunOptions, Session, cli
from flare_runtime.cases.case_list import ListedCase, read_case_list
from flare_runtime.cases.finding import find_cases
from flare_runtime.cases.input_rules import InputRules
from flare_runtime.errors import OutputError, UsageError
from tests.runtime.nifti_files import blobs, write_nifti


def write_list(folder, text, name="cohort.csv"):
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else os.fsencode(text))
    return path


def listed(path, target):
    """Return the cases of a list: their names, their images below the list's folder, their masks below the output."""
    cases = find_cases(path, target, 1)
    return [
        (case.name, [os.path.relpath(one, path.parent) for one in case.places], str(case.mask.relative_to(target)))
        for case in cases
    ]


def test_what_each_column_says(tmp_path):
    text = """case,images,output
liver 1,a/ct_0000.nii.gz,
,b/ct_0000.nii.gz;b/ct_0001.nii.gz,site/b.nii
"x, y", c/ct.nrrd ,./deep//c.nii.gz
,d/ct_0000.nii.gz,
,../series/IM,
,study.zip,
e/f,/abs/g.nii,
"""
    expected = [
        ("liver 1", ["a/ct_0000.nii.gz"], "liver 1.nii.gz"),
        ("site/b", ["b/ct_0000.nii.gz", "b/ct_0001.nii.gz"], "site/b.nii"),
        ("x, y", ["c/ct.nrrd"], "deep/c.nii.gz"),
        ("ct", ["d/ct_0000.nii.gz"], "ct.nii.gz"),
        ("IM", ["../series/IM"], "IM.nii.gz"),
        ("study", ["study.zip"], "study.nii.gz"),
        ("e/f", [os.path.relpath("/abs/g.nii", tmp_path / "lists")], "e/f.nii.gz"),
    ]
    assert listed(write_list(tmp_path / "lists", text), tmp_path / "out") == expected
    rows = ["", {"images": ["b/ct_0000.nii.gz", "b/ct_0001.nii.gz"], "output": "site/b.nii", "case": None}]
    rows += [{"images": "d/ct_0000.nii.gz"}, {"images": "g;h.nii", "case": " g "}]
    lines = "".join(f"{json.dumps(row) if row else ''}\r\n" for row in rows)
    assert listed(write_list(tmp_path / "lists", lines, "cohort.JSONL"), tmp_path / "out") == [
        expected[1],
        expected[3],
        (" g ", ["g;h.nii"], " g .nii.gz"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbfimages,case\na.nii,x\n",
        b"images,case\r\na.nii,x\r\n\r\n",
        b"images,case\ra.nii,x",
        b'"images","case"\n"a.nii","x"\n,\n , \n',
        b" images , case \n a.nii , x \n",
    ],
    ids=["BOM", "CRLF", "CR, no end", "quotes, empty rows", "blanks"],
)
def test_tables_as_programs_write_them(tmp_path, text):
    assert listed(write_list(tmp_path, text), tmp_path / "out") == [("x", ["a.nii"], "x.nii.gz")]


def test_names_that_are_no_utf8_keep_their_bytes(tmp_path):
    name = os.fsdecode(b"M\xfcller.nii")
    table = write_list(tmp_path, b"images\nM\xfcller.nii\n")
    lines = write_list(tmp_path, json.dumps({"images": name}), "cohort.jsonl")
    for path in (table, lines):
        (case,) = find_cases(path, tmp_path / "out", 1)
        assert (case.name, case.files) == (r"M\xfcller", [tmp_path / name])
        assert case.mask == tmp_path / "out" / os.fsdecode(b"M\xfcller.nii.gz")


def test_columns_that_mean_nothing_are_named_once(tmp_path, caplog):
    find_cases(write_list(tmp_path, "images,age,outptu\na.nii,3,x\nb.nii,4,y\n"), tmp_path / "out", 1)
    assert caplog.messages == [f"{tmp_path}/cohort.csv: not used are the columns age, outptu"]


WRONG = {
    "": "lists no case",
    "case,image\nx,a.nii\n": "line 1: has no column images but: case, image;",
    "case;images\nx;a.nii\n": "line 1: has no commas between the columns: case;images; save the table with commas",
    "images,images\na,b\n": "line 1: names a column twice: images, images",
    "images\n": "lists no case",
    "images,case\na.nii,x\nb.nii\n": "line 3: has 1 cells, the header 2; quote a cell that holds a comma",
    "images,case\na.nii,x,y\n": "line 2: has 3 cells, the header 2",
    "images,case\n,x\n": "line 2: images has an empty path",
    "images\na.nii;\n": "line 2: images has an empty path",
    "images,output\na.nii,x.nii\n\nb.nii,./x.nii.gz\n": "line 4: the output x.nii.gz is that of line 2; give",
    "images\np1/ct.nii\np2/ct.nii\n": "line 3: the output ct.nii.gz is that of line 2",
    "images,case,output\na,x,1.nii\nb,x,2.nii\n": "line 3: the case x is that of line 2; give each its own name",
    "images,output\na,../x.nii\n": "line 2: the output ../x.nii is not below the output folder",
    "images,case\na,x/../../y\n": r"line 2: the output x/../../y.nii.gz is not below the output folder",
    "images,output\na,/x.nii\n": "line 2: the output /x.nii is not below the output folder",
    "images,output\na,x.png\n": "line 2: the output x.png is no name of a mask, which ends in .nii.gz or .nii",
    "images,output\na,x.seg.dcm\n": "line 2: the output x.seg.dcm is no name of a mask",
    "images,output\na,x.stale.nii\n": "line 2: the output x.stale.nii is no name of a mask",
    "images\np/x.stale.nii\n": "line 2: p/x.stale.nii: a name that ends in .stale is a mask set aside",
    "images,output\na,.nii.gz\n": "line 2: there is no name for its mask; give a case or an output",
    "images,output\na,s3://bucket/b.nii\n": "line 2: the output s3://bucket/b.nii is a URL",
    "images,case\na,x/\n": "line 2: there is no name for its mask",
    "images\ns3://me:word@bucket/b.nii\n": "line 2: s3://... must hold no user, password or signature",
    "images\na.nii;s3://bucket/b.nii\n": "line 2: s3://bucket/b.nii: is a URL; here a list names files and folders",
    "images\n..\n": "line 2: there is no name for its mask",
    'images\n"a.nii\n': "line 2: unexpected end of data",
    'images\n"a"b.nii\n': "line 2: ',' expected after '\"'",
    "images\nab\0c\n": "line 2: holds a NUL byte; save the list as text in UTF-8",
    "images\n" + "x" * 200_000: "line 2: field larger than field limit",
    "images\n" + "x" * 1_100_000: "line 2: has more than 1,048,576 letters; a list has one case a line",
}
WRONG_JSON = {
    "[]": "line 1: is no object with the key",
    '{"images": "a.nii"}\n{"case": "x"}': 'line 2: is no object with the key "images"',
    '{"images": "a.nii"': "line 1: is no JSON",
    "[" * 100_000: "line 1: is no JSON",
    '{"images": 3}': "line 1: images is no path and no list of paths",
    '{"images": ["a", null]}': "line 1: images is no path and no list of paths",
    '{"images": []}': "line 1: images has an empty path",
    '{"images": "a", "case": 3}': "line 1: case and output are texts",
    '{"images": "a\\u0000b"}': "line 1: holds what no name of a file can, such as a NUL",
    '{"images": "a\\ud800"}': "line 1: holds what no name of a file can, such as a NUL",
}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        *(("cohort.csv", text, message) for text, message in WRONG.items()),
        *(("cohort.jsonl", text, message) for text, message in WRONG_JSON.items()),
    ],
)
def test_the_first_wrong_line_is_named(tmp_path, name, text, message):
    path = write_list(tmp_path, text, name)
    with pytest.raises(UsageError) as caught:
        find_cases(path, tmp_path / "out", 1)
    assert str(caught.value).startswith(f"{path}, {message}" if message.startswith("line") else f"{path}: {message}")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "text",
    [
        "images\n{}.stale.nii.gz",
        "output,images\n{},x.nii.gz",
        "images;{}",
        "x,s3://bucket/x,{}",
        "images,{}\nx.nii.gz,y",
    ],
)
def test_no_message_repeats_a_secret(text, tmp_path, caplog):
    path = write_list(tmp_path, text.format("s3://me:hidden@bucket/x"))
    with pytest.raises(UsageError, match=r"s3://\.\.\. must hold no user") as caught:
        read_case_list(path)
    assert "hidden" not in f"{caught.value}{caplog.text}"


def test_a_mask_that_is_also_to_be_a_folder_is_refused(tmp_path):
    path = write_list(tmp_path, "images,output\na,x.nii\nb,x.nii/y.nii\n")
    with pytest.raises(UsageError, match=r"out/x\.nii: would be a mask, and the folder of another"):
        find_cases(path, tmp_path / "out", 1)


def test_an_output_in_too_many_folders_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of the whole has to be one that the system takes
    path = write_list(tmp_path, f"images,output\na,{'d/' * 1900}x.nii\n")
    with pytest.raises(OutputError, match=r"cannot be written to \(too many folders in folders\)"):
        find_cases(path, "out", 1)


def test_a_list_goes_into_a_folder_and_is_a_file(tmp_path):
    path = write_list(tmp_path, "images\na.nii\n")
    (tmp_path / "file").touch()
    for target in ("out.nii.gz", "file"):
        with pytest.raises(UsageError, match=f"{target}: the output for a list of cases is a folder"):
            find_cases(path, tmp_path / target, 1)
    with pytest.raises(UsageError, match=r"cohort\.csv: is no folder, which --recursive takes"):
        find_cases(path, tmp_path / "out", 1, rules=InputRules(recursive=True))
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(UsageError, match=r"pipe\.csv: cannot be read"):
        find_cases(tmp_path / "pipe.csv", tmp_path / "out", 1)


@pytest.mark.parametrize("name", ["cohort.csv", "cohort.jsonl"])
def test_large_and_binary_files_are_refused_in_little_memory(tmp_path, name):
    path = tmp_path / name
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with path.open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(UsageError, match=r"has 1,073,741,824 bytes; a list of cases has at most 268,435,456; split it"):
        read_case_list(path)
    with path.open("wb") as file:
        file.truncate(1 << 28)
    with pytest.raises(UsageError, match="line 1: holds a NUL byte"):
        read_case_list(path)
    path.write_bytes(np.random.default_rng(0).integers(1, 255, 1 << 20, np.uint8).tobytes())
    with pytest.raises(UsageError, match="line "):
        read_case_list(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 << 10  # KiB


def test_an_input_of_one_case_is_no_output_of_another(tmp_path):
    path = write_list(tmp_path, "images,output\nx.nii.gz,out/y.nii\nz.nii,x.nii.gz\n")
    with pytest.raises(OutputError, match=r"x\.nii\.gz: is an input, that of out/y; choose another output"):
        find_cases(path, tmp_path, 1)


def test_many_lines_take_little_memory_and_are_cases_by_and_by(tmp_path):
    count = 3000
    rows = (f"patient_{i},scans/patient_{i}_0000.nii.gz,{i % 7}/patient_{i}.nii.gz\n" for i in range(count))
    cases = find_cases(write_list(tmp_path, "case,images,output\n" + "".join(rows)), tmp_path / "out", 1)
    assert len(cases) == count
    assert cases[-1].mask == tmp_path / "out" / str((count - 1) % 7) / f"patient_{count - 1}.nii.gz"
    assert [case.name for case in cases[2:4]] == ["patient_2", "patient_3"]


@given(
    st.builds(
        ListedCase,
        st.text(st.characters(exclude_characters="\0")),
        st.text(st.characters(exclude_characters="\0")),
        st.lists(st.text(st.characters(exclude_characters="\0")), min_size=1).map(tuple),
    )
)
def test_what_is_packed_is_unpacked(case):
    assert ListedCase.unpacked(case.packed()) == case


# --- what becomes of the cases


def test_a_bad_row_costs_the_others_nothing(tiny_bundle, tmp_path, capsys):
    for name in ("a/ct.nii.gz", "b/ct.nii.gz"):
        (tmp_path / name).parent.mkdir()
        write_nifti(tmp_path / name, blobs((12, 16, 18)), spacing_mm=(3.0, 2.0, 1.5))
    (tmp_path / "folder").mkdir()
    text = "case,images,output\ngone,c/ct.nii.gz,\ntwo,a/ct.nii.gz;b/ct.nii.gz,\nfolder,folder,\nlist,cohort.csv,\n"
    text += f"long,{'x' * 300},\nlonger,{'x' * 300}.nii.gz,\n"  # no file has such a name
    text += ",a/ct.nii.gz,p/a.nii.gz\n,b/ct.nii.gz,q/b.nii\n"
    path, out = write_list(tmp_path, text), tmp_path / "out"
    arguments = ["-m", str(tiny_bundle), "-i", str(path), "-o", str(out), "--device", "cpu", "--threads", "1"]
    assert cli.main(arguments) == 4
    assert {str(one.relative_to(out)) for one in out.rglob("*.nii*")} == {"p/a.nii.gz", "q/b.nii"}
    assert sorted(str(one.relative_to(out)) for one in out.rglob("*.json")) == [
        *("folder.json", "gone.json", "list.json", "long.json", "longer.json", "p/a.json", "q/b.json", "two.json")
    ]
    cases = ("gone", "folder", "two", "long", "longer")
    reasons = [json.loads((out / f"{case}.json").read_text())["reason"] for case in cases]
    assert reasons == ["unreadable", "not_a_file", "wrong_channels", "unreadable", "unreadable"]
    assert "6 of 8 case(s) not done" in capsys.readouterr().err


def test_a_list_is_resumed_into_nested_folders(tiny_bundle, tmp_path, capsys):
    write_nifti(tmp_path / "x.nii.gz", blobs((12, 16, 18)), spacing_mm=(3.0, 2.0, 1.5))
    path = write_list(tmp_path, "images,output\nx.nii.gz,a/x.nii.gz\nx.nii.gz,b/c/x.nii.gz\ngone,d/x.nii.gz\n")
    arguments = ["-m", str(tiny_bundle), "-i", str(path), "-o", str(tmp_path / "out"), "--device", "cpu", "--resume"]
    assert cli.main([*arguments, "--shard", "1/2"]) in (0, 4)
    assert cli.main(arguments) == 4
    capsys.readouterr()
    assert cli.main(arguments) == 4
    said = capsys.readouterr().err
    assert "2 case(s) were done by other runs" in said
    assert "1 of 1 case(s) not done" in said  # an image that is not there may come
    files = {str(one.relative_to(tmp_path / "out")) for one in (tmp_path / "out").rglob("*") if one.is_file()}
    assert files == {"a/x.json", "a/x.nii.gz", "b/c/x.json", "b/c/x.nii.gz", "d/x.json"}


def test_no_header_of_a_finished_series_is_read_to_resume_a_list(tiny_bundle, tmp_path, monkeypatch):
    dicom_files = pytest.importorskip("tests.runtime.dicom_files")
    from flare_runtime.imaging.dicom import headers, series

    for name in ("p1", "p2/ct"):
        dicom_files.Series().write(tmp_path / name)
    path = write_list(tmp_path, "case,images\np1,p1\np2,p2\n")
    session = Session(tiny_bundle, RunOptions(device="cpu", threads=1, precision="fp32"))

    def resumed(**rules):
        return [record.case for record in session.run(path, tmp_path / "out", resume=ResumeRules(**rules))]

    def read():
        return len(read_slices.call_args_list)

    assert resumed() == ["p1", "p2"]
    read_slices = Mock(wraps=headers.read_slices)
    monkeypatch.setattr(series, "read_slices", read_slices)
    assert (resumed(), read()) == ([], 0)
    (tmp_path / "p1" / ".hidden").touch()
    assert (resumed(), read()) == ([], 0)
    (tmp_path / "p1" / "notes.txt").touch()  # which the stamp of the series does not hold
    assert (resumed(), read()) == ([], 12)
    os.utime(tmp_path / "p2" / "ct" / "IM0003", ns=(1, 1))
    assert (resumed(), read()) == ([], 36)  # its hash is the same
    (tmp_path / "p2" / "ct" / "IM0011").unlink()
    assert resumed() == ["p2"]
    assert resumed(verify_hashes=True) == []


def test_series_in_a_list(tiny_bundle, tmp_path):
    dicom_files = pytest.importorskip("tests.runtime.dicom_files")
    dicom_files.Series().write(tmp_path / "in" / "p1" / "ct")
    dicom_files.Series().write(tmp_path / "in" / "p2", names="a{}")
    dicom_files.Series().write(tmp_path / "in" / "p2", names="b{}")
    write_nifti(tmp_path / "in" / "p3.nii.gz", blobs((12, 16, 18)), spacing_mm=(3.0, 2.0, 1.5))
    path = write_list(tmp_path / "in", "case,images\np1,p1/ct\np2,p2\np3,p3.nii.gz\n")
    out, whole = tmp_path / "out", tmp_path / "whole"
    arguments = ["-m", str(tiny_bundle), "--device", "cpu", "--threads", "1", "--output-type", "nifti,dicom-seg"]
    assert cli.main([*arguments, "-i", str(path), "-o", str(out)]) == 4
    records = {case: json.loads((out / f"{case}.json").read_text()) for case in ("p1", "p2", "p3")}
    assert {case: record.get("reason") for case, record in records.items()} == {
        "p1": None,
        "p2": "several_series",
        "p3": "unreferable",
    }
    assert cli.main([*arguments, "-i", str(tmp_path / "in" / "p1"), "-o", f"{whole}/"]) == 0
    assert (out / "p1.nii.gz").read_bytes() == (whole / "p1_ct.nii.gz").read_bytes()
    assert (out / "p1.seg.dcm").is_file()
    assert records["p1"]["inputs"] == [str(Path(tmp_path / "in" / "p1" / "ct"))]
    assert records["p1"]["inputs_sha256"] == json.loads((whole / "p1_ct.json").read_text())["inputs_sha256"]
