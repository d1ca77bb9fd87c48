"""Costs of real commands, and the challenge's figures by hand."""

import csv
import shlex
import subprocess
import sys
import time

import nibabel
import numpy as np
import pytest

from flare_eval.cli import main
from flare_eval.efficiency.costs import Method, cause, integral, measure_methods, official_area, peak
from flare_eval.report.cost_tables import ratio_table
from flare_eval.report.official_csv import _official_row
from flare_eval.report.tables import markdown
from flare_eval.results import Efficiency, RunCost, Sample, load
from flare_runtime.errors import UsageError
from tests.eval.nifti_masks import cube, write

SHAPE = (6, 10, 8)
MASK = cube(SHAPE, (1, 1, 1), (5, 9, 7))

# Writes each image of a folder thresholded as a mask, and a line into a log.
SEGMENT = """
import pathlib, sys
import nibabel, numpy as np
source, target, log, name = sys.argv[1:]
for path in sorted(pathlib.Path(source).iterdir()):
    image = nibabel.load(path)
    mask = (np.asarray(image.dataobj) > 0).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(mask, image.affine), pathlib.Path(target, path.name.replace("_0000", "")))
    print(name, path.name, file=open(log, "a"))
"""


def sample(seconds, host, device=None):
    return Sample(seconds, host, 1.0, device, device)


RUN = RunCost(
    case="a", exit_code=0, wall_s=0.4, samples=[sample(0.0, 100, 10), sample(0.1, 300, 30), sample(0.3, 200, 20)]
)


def test_the_challenges_area_is_a_tenth_of_the_sum():
    assert official_area(RUN, "host_mib") == 60.0
    assert official_area(RUN, "device_mib") == 6.0


def test_the_integral_is_by_trapezoids_to_the_end_of_the_run():
    # 0.1 s from 100 to 300, 0.2 s from 300 to 200, 0.1 s at 200.
    assert integral(RUN, "host_mib") == pytest.approx(20 + 50 + 20)


def test_the_peak_is_the_largest_sample():
    assert (peak(RUN, "host_mib"), peak(RUN, "device_mib")) == (300, 30)


@pytest.mark.parametrize("figure", [official_area, integral, peak])
def test_what_was_not_measured_has_no_figure(figure):
    assert figure(RunCost(case="a", exit_code=0, wall_s=1, samples=[sample(0, 5)]), "device_mib") is None
    assert figure(RunCost(case="a", exit_code=0, wall_s=0), "host_mib") is None


def test_a_command_line_is_read_as_a_shell_reads_it():
    method = Method.parse("mine=sh -c 'cp {input_file} {output_file}'")
    assert (method.name, method.command) == ("mine", ("sh", "-c", "cp {input_file} {output_file}"))


@pytest.mark.parametrize(
    "text",
    [
        "sh {input} {output}",
        "=sh {input} {output}",
        "a/b=sh {input} {output}",
        "a=sh {input}",
        "a=no-such {input} {output}",
    ],
)
def test_what_cannot_be_run_is_a_usage_error(text):
    with pytest.raises(UsageError):
        Method.parse(text)


def test_the_challenges_docker_command(tmp_path):
    (tmp_path / "inputs").mkdir()
    (tmp_path / "inputs" / "a_0000.nii.gz").touch()
    method = Method.docker("lab/team:latest", 1)
    line = shlex.join(method.arguments(tmp_path / "inputs", tmp_path / "outputs"))
    assert line.startswith("docker container run --gpus device=1 -m 28G --shm-size=28gb --name team --rm -v ")
    assert f"-v {tmp_path}/inputs/:/workspace/inputs/ -v {tmp_path}/outputs/:/workspace/outputs/" in line
    assert line.endswith("lab/team:latest /bin/bash -c 'sh predict.sh'")
    assert method.whole_machine


@pytest.fixture
def images(tmp_path):
    for index, case in enumerate(("STS_005", "STS_010")):
        image = np.where(MASK, 50, -900).astype(np.int16)
        write(tmp_path / "images" / f"{case}_0000.nii.gz", image)
        write(tmp_path / "truth" / f"{case}.nii.gz", MASK if index else np.zeros_like(MASK))
    write(tmp_path / "truth" / "STS_015.nii.gz", MASK)  # not among the images, and not to be counted
    (tmp_path / "segment.py").write_text(SEGMENT)
    return tmp_path


def command(images, name):
    return f"{name}={sys.executable} {images / 'segment.py'} {{input}} {{output}} {images / 'log'} {name}"


def test_methods_take_turns_and_their_masks_are_kept(images):
    methods = [Method.parse(command(images, name)) for name in ("A", "B")]
    results = measure_methods(methods, images / "images", images / "out", warm=True)
    order = ["A STS_005", "B STS_005", "A STS_010", "B STS_010", "A STS_005", "A STS_010", "B STS_005", "B STS_010"]
    assert (images / "log").read_text(encoding="utf-8").split("\n")[:-1] == [f"{line}_0000.nii.gz" for line in order]
    for result in results:
        assert [run.case for run in result.runs] == ["STS_005", "STS_010"]
        assert [run.image_size for run in result.runs] == [(8, 10, 6)] * 2
        assert result.warm.case == "all"
        assert result.warm.exit_code == 0
        assert all(run.wall_s > 0 and run.samples for run in result.runs)
        mask = nibabel.load(images / "out" / result.method / "masks" / "STS_010.nii.gz")
        np.testing.assert_array_equal(np.asarray(mask.dataobj).T, MASK)


def test_a_command_that_fails_or_leaves_nothing_is_told(images):
    methods = [
        Method.parse(f"{n}=sh -c '{line} # {{input}} {{output}}'")
        for n, line in (("fails", "echo why >&2; exit 3"), ("lazy", "true"))
    ]
    failing, lazy = measure_methods(methods, images / "images", images / "out")
    assert [run.message for run in failing.runs] == ["exit code 3: why"] * 2
    assert [run.message for run in lazy.runs] == ["left no STS_005.nii.gz", "left no STS_010.nii.gz"]


def test_the_cause_is_told_although_the_last_line_is_a_summary():
    errors = "caution: research only\nsegmenting 1 case\na: refused (not_nifti): a.nii: no NIfTI\n\n1 of 1 not done\n"
    assert cause(errors) == "segmenting 1 case; a: refused (not_nifti): a.nii: no NIfTI; 1 of 1 not done"


def test_the_frames_of_a_traceback_are_no_cause():
    errors = 'Traceback (most recent call last):\n  File "a.py", line 1, in <module>\n    import b\nKeyError: 1\x1b\n'
    assert cause(errors) == "KeyError: 1\\x1b"
    assert cause(" \n") == "no message"


def test_the_command_line_writes_masks_scores_and_tables(images, capsys):
    code = main(
        ["efficiency", "-i", str(images / "images"), "-o", str(images / "out"), "--reference", str(images / "truth")]
        + [part for name in ("A", "B") for part in ("--run", command(images, name))]
    )
    assert code == 0
    output = capsys.readouterr().out
    # One case is found to the voxel, the other has nothing to find.
    assert "| A | 2 | 50.00 ± 70.71 |" in output
    assert "| STS_005 | (8, 10, 6) |" in output
    rows = list(csv.reader((images / "out" / "A" / "efficiency.csv").open()))
    assert rows[0][:4] == ["Name", "Time", "MaxGPU_Mem", "AUC_GPU_Time"]
    assert [row[0] for row in rows[1:]] == ["STS_005.nii.gz", "STS_010.nii.gz"]
    assert load(Efficiency, images / "out" / "B").machine["cores"]


def test_what_scoring_needs_is_missed_before_anything_is_measured(images, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "surface_distance", None)
    options = ["-i", str(images / "images"), "-o", str(images / "out"), "--reference", str(images / "truth")]
    assert main(["efficiency", *options, "--run", command(images, "A")]) == 2
    assert "surface_distance is not installed" in capsys.readouterr().err
    assert not (images / "log").exists()


def test_a_failing_command_is_code_4(images, capsys):
    assert (
        main(
            ["efficiency", "-i", str(images / "images"), "-o", str(images / "out"), "--run", "x=false {input} {output}"]
        )
        == 4
    )
    assert "STS_005: x: exit code 1" in capsys.readouterr().err


def test_the_copies_of_scans_that_a_killed_measurement_leaves_are_swept_by_the_next(images, monkeypatch):
    copies = images / "copies"
    copies.mkdir()
    monkeypatch.setenv("TMPDIR", str(copies))

    def start(line):
        command = [sys.executable, "-m", "flare_eval.cli", "efficiency", "-i", images / "images", "-o", images / "out"]
        return subprocess.Popen([*command, "--run", f"a={line} {{input}} {{output}}"], stdout=subprocess.DEVNULL)

    with start("sh -c 'sleep 10'") as killed:
        while killed.poll() is None and not list(copies.rglob("*.nii*")):
            time.sleep(0.01)
        killed.kill()
    assert list(copies.rglob("*.nii*"))
    with start("true") as done:
        done.wait()
    assert list(copies.iterdir()) == []


@pytest.mark.parametrize("options", [[], ["--run", "a=true {input} {output}", "--run", "a=true {input} {output}"]])
def test_methods_need_names_of_their_own(images, options):
    assert main(["efficiency", "-i", str(images / "images"), "-o", str(images / "out"), *options]) == 2


def test_ratios_are_to_the_last_method():
    machine = {}
    fast = Efficiency(
        method="fast",
        command=[],
        machine=machine,
        runs=[RunCost(case="a", exit_code=0, wall_s=2.0, samples=[sample(0, 100)])],
    )
    slow = Efficiency(
        method="slow",
        command=[],
        machine=machine,
        runs=[RunCost(case="a", exit_code=0, wall_s=20.0, samples=[sample(0, 400)])],
    )
    table = markdown(*ratio_table([slow, fast]))
    assert "| slow | 1 | 20.00 (10.0x) | 400 (4.0x) | 40 (4.0x) | - | - |" in table
    assert "| fast | 1 | 2.00 | 100 | 10 | - | - |" in table


def test_the_official_row_by_hand():
    result = Efficiency(method="m", command=[], machine={}, runs=[RUN])
    assert _official_row(result.runs[0]) == ["a.nii.gz", 0.4, 30, 6, 100, 30, 300, 60]
