"""Names that are not UTF-8, act on a terminal or look like formulas: shown in one way in every table and file."""

import csv
import json
import os
import shlex
import sys

import pytest

from flare_eval.cli import main
from tests.eval.nifti_masks import cube, write

SHAPE = (6, 10, 10)
MASK = cube(SHAPE, (1, 1, 1), (5, 9, 9))
# What the system calls a case, and how it is shown.
NAMES = {
    b"M\xfcller": r"M\xfcller",
    b"\x1b[2Jgone\x07": r"\x1b[2Jgone\x07",
    b"two\nlines": r"two\nlines",
    b"-1+2": "-1+2",
    b"=cmd|' C calc'!A0": "=cmd|' C calc'!A0",
    b"+1": "+1",
    b"@SUM(A1)": "@SUM(A1)",
}
CSV_NAMES = {f"'{name}.nii.gz" if name[0] in "=+-@" else f"{name}.nii.gz" for name in NAMES.values()}
COPY = "import shutil, sys; shutil.copy(sys.argv[1], sys.argv[2])"


@pytest.fixture
def folders(tmp_path):
    for name in map(os.fsdecode, NAMES):
        write(tmp_path / "images" / f"{name}_0000.nii.gz", MASK)
        write(tmp_path / "truth" / f"{name}.nii.gz", MASK)
        write(tmp_path / os.fsdecode(b"m\xe9thod") / f"{name}.nii.gz", MASK)
    (tmp_path / os.fsdecode(b"m\xe9thod") / "two\nlines.nii.gz").write_bytes(b"no image")
    return tmp_path


def check_shown(text):
    assert all(character == "\n" or character.isprintable() for character in text)
    text.encode()


def names_in(csv_file):
    with csv_file.open(encoding="utf-8", newline="") as file:
        names, *numbers = zip(*list(csv.reader(file))[1:], strict=True)
    for column in numbers:
        assert all(float(cell) >= 0 for cell in column if cell)
    return set(names)


def test_accuracy_and_its_report(folders, capsys):
    arguments = ["accuracy", "--reference", folders / "truth", "--prediction", folders / os.fsdecode(b"m\xe9thod")]
    assert main([*map(str, arguments), "--workers", "1", "-o", str(folders / "out")]) == 4
    output = capsys.readouterr()
    assert r"two\nlines: bad_prediction: " in output.err
    assert r"| m\xe9thod | 7 | 85.71" in output.out
    check_shown(output.out + output.err)
    made = folders / "out" / r"m\xe9thod"
    assert names_in(made / "accuracy.csv") == CSV_NAMES
    cases = json.loads((made / "accuracy.json").read_text(encoding="utf-8"))["cases"]
    assert {case["case"] for case in cases} == set(NAMES.values())
    assert {case["reference"] for case in cases} == {f"{folders}/truth/{name}.nii.gz" for name in NAMES.values()}

    assert main(["report", str(made), "-o", str(folders / "report"), "--images", str(folders / "images")]) == 0
    check_shown(capsys.readouterr().out)
    for name in ("report.md", "report.html"):
        text = (folders / "report" / name).read_text(encoding="utf-8")
        check_shown(text)
        assert "gone" in text


def test_efficiency_finds_the_masks_by_the_names_of_the_images(folders, capsys):
    command = f"a={shlex.quote(sys.executable)} -c {shlex.quote(COPY)} {{input_file}} {{output_file}}"
    arguments = ["efficiency", "-i", folders / "images", "-o", folders / "out", "--reference", folders / "truth"]
    assert main([*map(str, arguments), "--run", command]) == 0
    output = capsys.readouterr()
    check_shown(output.out + output.err)
    masks = set(os.listdir(os.fsencode(folders / "out" / "a" / "masks")))  # noqa: PTH208
    assert masks == {name + b".nii.gz" for name in NAMES}
    for name in ("efficiency.csv", "accuracy.csv"):
        assert names_in(folders / "out" / "a" / name) == CSV_NAMES


def test_a_folder_that_cannot_be_read_is_one_line(folders, capsys, monkeypatch):
    def refuse(_folder):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.iterdir", refuse)
    arguments = ["accuracy", "--reference", folders / "truth", "--prediction", folders / "truth", "-o", folders / "out"]
    assert main([*map(str, arguments)]) == 2
    assert capsys.readouterr().err == f"flare-eval: {folders}/truth: cannot be read (Permission denied)\n"
