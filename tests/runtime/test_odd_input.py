"""Names, paths and errors that are odd cost a line, never the run; the real command, real files."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from flare_runtime import cli
from flare_runtime.cases.finding import find_cases
from flare_runtime.errors import UsageError
from flare_runtime.imaging.read import read_volume
from flare_runtime.run import session
from tests.processes import fork
from tests.runtime.nifti_files import blobs, write_nifti

SPACING = (2.5, 1.5, 1.5)  # the tiny network's own
# What the system calls a case, and how it is shown.
NAMES = {
    b"M\xfcller": r"M\xfcller",
    b"\x1b[2Jgone\x07": r"\x1b[2Jgone\x07",
    b"two\nlines": r"two\nlines",
    b"-rf": "-rf",
    b"=cmd|' C calc'!A0": "=cmd|' C calc'!A0",
    "Ä 肝".encode(): "Ä 肝",
    b"%s {0} $(id) `id`": "%s {0} $(id) `id`",
}


def command(*arguments):
    """Run the command in a process of its own; return its exit code and what it said, as bytes."""
    line = [sys.executable, "-m", "flare_runtime.cli", "--threads", "1", *map(os.fsencode, arguments)]
    run = subprocess.run(line, capture_output=True, check=False, timeout=300)
    assert run.stdout == b""
    return run.returncode, run.stderr


@pytest.mark.parametrize("suffix", [".nii", "_0000.nii.gz"])
def test_odd_names_are_segmented_and_shown_on_one_line(tmp_path, tiny_bundle, suffix):
    (tmp_path / "in").mkdir()
    for name in NAMES:
        write_nifti(tmp_path / "in" / (os.fsdecode(name) + suffix), blobs((16, 16, 16)), spacing_mm=SPACING)
    (tmp_path / "in" / os.fsdecode(b"bad\xff.nii")).write_bytes(b"no image")
    report = tmp_path / os.fsdecode(b"r\xe9port.json")
    code, err = command(
        "-i", tmp_path / "in", "-o", tmp_path / "out", "-m", tiny_bundle, "--report", report, "--verbose"
    )
    assert code == 4
    assert all(byte >= 32 or byte == 10 for byte in err)
    lines = [line for line in err.decode().splitlines() if not line.startswith(("  ", "memory: "))]
    shown = sorted([*NAMES.values(), r"bad\xff"])
    assert sorted(line.partition(": ")[0] for line in lines[1:-1]) == shown
    # The mask takes the image's name byte for byte, so that the two are found together.
    names = set(os.listdir(os.fsencode(tmp_path / "out")))  # noqa: PTH208
    assert names == {name + end for name in NAMES for end in (b".nii.gz", b".json")} | {b"bad\xff.json"}
    cases = json.loads(report.read_text(encoding="utf-8"))["cases"]
    assert sorted(case["case"] for case in cases) == shown
    for name, case in NAMES.items():
        record = json.loads((tmp_path / "out" / os.fsdecode(name + b".json")).read_text(encoding="utf-8"))
        assert record in cases
        assert record["case"] == case
        assert record["inputs"] == [f"{tmp_path}/in/{case}{suffix}"]
        assert record["mask"] == f"{tmp_path}/out/{case}.nii.gz"


def test_one_odd_file_keeps_the_name_that_was_given(tmp_path, tiny_bundle):
    scan = write_nifti(tmp_path / os.fsdecode(b"\xff.nii"), blobs((16, 16, 16)), spacing_mm=SPACING)
    mask = tmp_path / os.fsdecode(b"\xfe.nii")
    code, err = command("-i", scan, "-o", mask, "-m", tiny_bundle)
    assert (code, err.decode().splitlines()[-1].partition(": ")[0]) == (0, r"\xff")
    assert read_volume(mask).shape == (16, 16, 16)
    assert json.loads(mask.with_suffix(".json").read_text(encoding="utf-8"))["mask"] == rf"{tmp_path}/\xfe.nii"


def test_what_a_bundle_says_is_shown_once_a_run_on_one_line(tmp_path, tiny_bundle):
    manifest = json.loads((tiny_bundle / "manifest.json").read_text(encoding="utf-8"))
    model = shutil.copytree(tiny_bundle, tmp_path / "model")
    manifest |= {"name": "ti\u202eny", "caution": "for mice \u2066alone"}
    (model / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    (tmp_path / "in").mkdir()
    for name in "ab":
        write_nifti(tmp_path / "in" / f"{name}.nii", blobs((16, 16, 16)), spacing_mm=SPACING)
    arguments = ["-i", tmp_path / "in", "-o", tmp_path / "out", "-m", model, "--precision", "fp32"]
    code, err = command(*arguments)
    assert code == 0
    heading, caution, *others = err.decode().splitlines()
    assert (heading, caution) == (r"ti\u202eny on cpu (openvino, fp32), 2 case(s)", r"caution: for mice \u2066alone")
    assert "caution" not in "".join(others)
    for name in "ab":
        record = json.loads((tmp_path / "out" / f"{name}.json").read_text(encoding="utf-8"))["model"]
        assert (record["name"], record["caution"]) == (r"ti\u202eny", r"for mice \u2066alone")
    assert command(*arguments, "--quiet") == (0, b"")


def test_the_shipped_model_cautions():
    from flare_runtime.model.bundle import Bundle, default_bundle

    assert Bundle.open(default_bundle()).manifest.caution.startswith("research only; ")


@pytest.mark.parametrize("option", ["-i", "-o", "-m", "--report"])
def test_an_empty_name_is_not_the_current_folder(tmp_path, monkeypatch, capsys, option):
    monkeypatch.chdir(tmp_path)
    write_nifti(tmp_path / "a.nii", blobs((16, 16, 16)), spacing_mm=SPACING)
    with pytest.raises(SystemExit) as caught:
        cli.main(["-i", "a.nii", "-o", "b.nii", option, ""])
    assert caught.value.code == 2
    assert "an empty name" in capsys.readouterr().err


@pytest.mark.parametrize(("option", "code"), [("-i", 2), ("-o", 6), ("--report", 6)])
def test_a_name_that_is_too_long_is_one_line(tmp_path, tiny_bundle, capsys, option, code):
    scan = write_nifti(tmp_path / "a.nii", blobs((16, 16, 16)), spacing_mm=SPACING)
    paths = {"-i": str(scan), "-o": str(tmp_path / "b.nii"), option: str(tmp_path / ("x" * 300 + ".nii"))}
    assert cli.main([*(word for pair in paths.items() for word in pair), "-m", str(tiny_bundle)]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("(File name too long)")
    assert not (tmp_path / "b.nii").exists()


def test_a_folder_whose_name_is_too_long_is_one_line(tmp_path, tiny_bundle, capsys):
    write_nifti(tmp_path / "a.nii", blobs((16, 16, 16)), spacing_mm=SPACING)
    assert cli.main(["-i", str(tmp_path), "-o", str(tmp_path / ("x" * 300)), "-m", str(tiny_bundle)]) == 6
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("(File name too long)")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_a_folder_that_may_not_be_read_is_one_line(tmp_path):
    (tmp_path / "in").mkdir(mode=0)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)

    def work():
        os.setuid(65534)
        with pytest.raises(UsageError, match=r"in: cannot be read \(Permission denied\)"):
            find_cases(tmp_path / "in", tmp_path / "out", 1)
        with pytest.raises(UsageError, match=r"cannot be read \(Permission denied\)"):
            find_cases(tmp_path / "in" / "a.nii", tmp_path / "out.nii", 1)

    # In a process of one thread: the C library aborts one in which some thread cannot become somebody else.
    assert os.waitpid(fork(work), 0)[1] == 0


def test_what_nobody_foresaw_is_shown_whole(tiny_bundle, monkeypatch, capsys):
    def fail(*_arguments, **_options):
        raise ZeroDivisionError("by\x1b[31m\nzero")

    monkeypatch.setattr(session, "find_cases", fail)
    assert cli.main(["-i", "a.nii", "-o", "b.nii", "-m", str(tiny_bundle), "--quiet"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == "flare-infer: internal error: ZeroDivisionError; please report it with the lines above"
    assert not any("\x1b" in line for line in lines)


def test_a_case_that_fails_for_an_unforeseen_reason_shows_why_when_asked(tmp_path, tiny_bundle, monkeypatch, capsys):
    def fail(*_arguments, **_options):
        raise ZeroDivisionError

    monkeypatch.setattr("flare_runtime.run.serial.read_volume", fail)
    scan = write_nifti(tmp_path / "a.nii", np.zeros((9, 9, 9), np.int16), spacing_mm=SPACING)
    arguments = ["-i", str(scan), "-o", str(tmp_path / "b.nii"), "-m", str(tiny_bundle)]
    for option in ("--quiet", "--verbose"):
        assert cli.main([*arguments, option]) == 4
        assert ("Traceback" in capsys.readouterr().err) == (option == "--verbose")
        record = json.loads((tmp_path / "b.json").read_text(encoding="utf-8"))
        assert record["reason"] == "internal"
        assert "raise ZeroDivisionError" in record["traceback"]
