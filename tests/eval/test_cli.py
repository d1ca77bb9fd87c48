"""`flare-eval` as a person runs it."""

import csv
import json
import subprocess
import sys

import pytest

from flare_eval.cli import main
from flare_eval.results import Accuracy, load
from tests.eval.nifti_masks import cube, write

SHAPE = (6, 10, 10)
REFERENCE = cube(SHAPE, (1, 1, 1), (5, 9, 9))
SMALLER = cube(SHAPE, (1, 1, 1), (5, 9, 5))


@pytest.fixture
def folders(tmp_path):
    for case in ("STS_005", "STS_010"):
        write(tmp_path / "truth" / f"{case}.nii.gz", REFERENCE)
        write(tmp_path / "good" / f"{case}.nii.gz", REFERENCE)
    write(tmp_path / "half" / "STS_005.nii.gz", SMALLER)
    return tmp_path


def run(folders, *arguments):
    return main(["accuracy", "--reference", str(folders / "truth"), "--workers", "1", *map(str, arguments)])


def test_one_method_gives_json_csv_and_a_table(folders, capsys):
    assert run(folders, "--prediction", folders / "good", "-o", folders / "out") == 0
    rows = list(csv.reader((folders / "out" / "good" / "accuracy.csv").open()))
    assert rows == [
        ["Name", "Lesion_DSC", "Lesion_NSD"],
        ["STS_005.nii.gz", "1.0", "1.0"],
        ["STS_010.nii.gz", "1.0", "1.0"],
    ]
    assert "| good | 2 | 100.00 ± 0.00 | 100.00 ± 0.00 |" in capsys.readouterr().out
    result = load(Accuracy, folders / "out" / "good")
    assert [case.case for case in result.cases] == ["STS_005", "STS_010"]
    assert json.loads((folders / "out" / "good" / "accuracy.json").read_text(encoding="utf-8"))["tolerances_mm"] == [
        2.0
    ]


@pytest.mark.parametrize("redirection", [">/dev/full 2>&-", "2>&1 | true"])
def test_a_table_that_nobody_sees_costs_no_result(folders, redirection):
    paths = ["--reference", folders / "truth", "--prediction", folders / "half", "-o", folders / "out"]
    command = [sys.executable, "-m", "flare_eval.cli", "accuracy", *map(str, paths), "--workers", "2"]
    shell = ["bash", "-c", f'"$@" {redirection}; exit ${{PIPESTATUS[0]}}', "bash", *command]
    assert subprocess.run(shell, stdout=subprocess.DEVNULL, check=False, timeout=300).returncode == 4
    assert {path.name for path in (folders / "out" / "half").iterdir()} == {"accuracy.csv", "accuracy.json"}


def test_two_methods_side_by_side_and_a_missing_case(folders, capsys):
    code = run(
        folders, "--prediction", folders / "good", "--prediction", f"B={folders / 'half'}", "-o", folders / "out"
    )
    assert code == 4
    output = capsys.readouterr()
    # Half the voxels: Dice 2 / 3 on one case, 0 for the missing one.
    assert "| B | 2 | 33.34 ± 47.14 |" in output.out
    assert "STS_010: missing: " in output.err
    assert "B: 1 of 2 predictions are missing; they count as 0, 0 (--allow-missing" in output.err


def test_the_official_reading(folders, capsys):
    code = run(folders, "--prediction", folders / "half", "-o", folders / "out", "--official")
    output = capsys.readouterr()
    assert code == 4
    assert "| half | 1 | 66.67 ± 0.00 |" in output.out
    assert "half: 1 of 2 predictions are missing; they are left out" in output.err


@pytest.mark.parametrize("reading", [[], ["--official"]])
def test_missing_predictions_pass_where_that_is_wanted(folders, capsys, reading):
    arguments = ["--prediction", folders / "half", "-o", folders / "out", "--allow-missing", *reading]
    assert run(folders, *arguments) == 0
    assert "half: 1 of 2 predictions are missing; they " in capsys.readouterr().err


def test_another_grid_is_scored_and_named_or_refused_with_strict(folders, capsys):
    write(folders / "moved" / "STS_005.nii.gz", REFERENCE, origin=(5.0, 0.0, 0.0))
    write(folders / "moved" / "STS_010.nii.gz", REFERENCE)
    arguments = ["--prediction", folders / "moved", "-o", folders / "out"]
    assert run(folders, *arguments) == 0
    output = capsys.readouterr()
    assert "| moved | 2 | 100.00" in output.out
    assert "STS_005: scored: against the reference, the prediction lies up to 5 mm off" in output.err
    assert run(folders, *arguments, "--strict") == 4
    assert "| moved | 2 | 50.00" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run(folders, *arguments, "--strict", "--official")


def test_a_bad_file_is_named_the_others_are_scored_and_the_code_says_so(folders, capsys):
    (folders / "good" / "STS_010.nii.gz").write_bytes(b"no image")
    assert run(folders, "--prediction", folders / "good", "-o", folders / "out") == 4
    output = capsys.readouterr()
    assert "STS_010: bad_prediction: " in output.err
    assert "| good | 2 | 50.00" in output.out


@pytest.mark.parametrize(
    "arguments",
    [
        ["--prediction", "x=none"],
        ["--prediction", "a/b=good"],
        ["--prediction", "=good"],
        ["--prediction", ""],
        ["--prediction", "a="],
    ],
)
def test_what_makes_no_sense_is_one_line_and_code_2(folders, capsys, arguments):
    assert run(folders, *arguments, "-o", folders / "out") == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["accuracy", "--reference", "", "--prediction", "a", "-o", "out"],
        ["accuracy", "--reference", "a", "--prediction", "a", "-o", ""],
        ["efficiency", "-i", "", "-o", "out"],
        ["report", "", "-o", "out"],
        ["report", "a", "-o", "out", "--images", ""],
    ],
)
def test_an_empty_name_is_not_the_current_folder(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "an empty name" in capsys.readouterr().err


@pytest.mark.parametrize("tolerance", ["0", "-1", "many"])
def test_a_tolerance_has_to_be_a_distance(folders, tolerance):
    with pytest.raises(SystemExit) as caught:
        run(folders, "--prediction", folders / "good", "-o", folders / "out", "--tolerance", tolerance)
    assert caught.value.code == 2


def test_an_output_that_is_a_file_is_code_6(folders):
    (folders / "out").write_text("in the way")
    assert run(folders, "--prediction", folders / "good", "-o", folders / "out") == 6


@pytest.mark.parametrize("name", ["accuracy.json", "accuracy.csv"])
def test_a_strangers_file_in_the_place_of_a_result_stays(folders, capsys, name):
    target = folders / "out" / "good" / name
    target.parent.mkdir(parents=True)
    if name.endswith(".csv"):
        target.symlink_to(folders / "truth" / "STS_005.nii.gz")
    else:
        target.write_text('{"name": "a web project"}')
    before = target.read_bytes()
    assert run(folders, "--prediction", folders / "half", "--prediction", folders / "good", "-o", folders / "out") == 6
    assert name in capsys.readouterr().err
    assert target.read_bytes() == before
    assert [path.name for path in (folders / "out").rglob("*") if not path.is_dir()] == [name]


def test_results_are_replaced_by_results(folders):
    arguments = ["--prediction", folders / "good", "-o", folders / "out"]
    assert (run(folders, *arguments), run(folders, *arguments)) == (0, 0)


def test_a_report_is_written_through_no_link(folders, capsys):
    run(folders, "--prediction", folders / "good", "-o", folders / "out")
    (folders / "report").mkdir()
    (folders / "report" / "report.html").symlink_to(folders / "precious.html")
    assert main(["report", str(folders / "out"), "-o", str(folders / "report")]) == 6
    assert "report.html: is a symbolic link" in capsys.readouterr().err
    assert [path.name for path in (folders / "report").iterdir()] == ["report.html"]
    assert not (folders / "precious.html").exists()


def test_measuring_replaces_none_of_the_images(folders, capsys):
    (folders / "out" / "m").mkdir(parents=True)
    (folders / "out" / "m" / "masks").symlink_to(folders / "good")
    method = "m=false {input} {output}"
    assert main(["efficiency", "-i", str(folders / "good"), "-o", str(folders / "out"), "--run", method]) == 6
    assert "is the input itself" in capsys.readouterr().err
    assert len(list((folders / "good").iterdir())) == 2


def test_masks_that_were_set_aside_are_scored_nowhere(folders, capsys):
    for folder in ("truth", "good"):
        write(folders / folder / "STS_005.stale.nii.gz", REFERENCE)
    assert run(folders, "--prediction", folders / "good", "-o", folders / "out") == 0
    assert "| good | 2 |" in capsys.readouterr().out


def test_a_missing_package_is_named_with_what_installs_it(folders, capsys, monkeypatch):
    run(folders, "--prediction", folders / "good", "-o", folders / "out")
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert main(["report", str(folders / "out"), "-o", str(folders / "report")]) == 2
    assert "jinja2 is not installed; pip install '.[eval]'" in capsys.readouterr().err
