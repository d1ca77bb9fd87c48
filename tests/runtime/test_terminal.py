"""Talking costs nothing: streams that are closed, full or broken, in real processes."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from tests.runtime.nifti_files import blobs, write_nifti

SPACING = (2.5, 1.5, 1.5)  # the tiny network's own
SAYS = """
import logging, os, sys, warnings
from flare_runtime.program.command_line import log_to_stderr
from flare_runtime.program.terminal import open_streams, progress_bar, say
open_streams()
log_to_stderr("flare_runtime", logging.INFO)
for item in progress_bar(range(3), "bar", "item"):
    say(f"item {item}")
    print("a table")
logging.getLogger("flare_runtime.x").warning("a warning")
warnings.warn("another")
sys.stderr.write("no end of line")
with open(sys.argv[1], "x") as file:
    file.write(f"{file.fileno()}")
sys.exit(4)
"""
BROKEN = ["2>&-", "2>/dev/full", "2>&1 | true", ">&- 2>&-", "<&- >&- 2>&-", ">/dev/full", ">&-", "| true"]


def shell(command, redirection):
    """Run a command in a shell and return its exit code."""
    line = f'"$@" {redirection}; exit ${{PIPESTATUS[0]}}'
    return subprocess.run(["bash", "-c", line, "bash", *map(str, command)], check=False, timeout=300).returncode


@pytest.mark.parametrize("redirection", BROKEN)
def test_whatever_is_said_is_said_to_nobody_and_the_exit_code_stays(tmp_path, redirection):
    assert shell([sys.executable, "-c", SAYS, tmp_path / "done"], redirection) == 4
    # Not one of the numbers on which libraries print.
    assert int((tmp_path / "done").read_text()) > 2


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "2>&1 | head -1"])
def test_a_run_that_nobody_hears_does_all_its_work(tmp_path, tiny_bundle, redirection):
    (tmp_path / "in").mkdir()
    for name in "ab":
        write_nifti(tmp_path / "in" / f"{name}.nii.gz", blobs((16, 16, 16)), spacing_mm=SPACING)
    (tmp_path / "in" / "c.nii.gz").write_bytes(b"no image")
    options = ["-m", tiny_bundle, "-i", tmp_path / "in", "-o", tmp_path / "out", "--verbose", "--threads", 1]
    assert shell([sys.executable, "-m", "flare_runtime.cli", *options], redirection) == 4
    assert {"a.json", "a.nii.gz", "b.json", "b.nii.gz"} <= {path.name for path in (tmp_path / "out").iterdir()}


@pytest.mark.parametrize("program", ["flare_runtime", "flare_eval", "flare_train", "flare_export"])
def test_every_program_minds_its_streams(program):
    if program in {"flare_train", "flare_export"}:
        pytest.importorskip("torch")
    command = [sys.executable, "-m", f"{program}.cli"]
    assert shell([*command, "--help"], ">/dev/full") == 0
    assert shell([*command, "--surprise"], "2>/dev/full") == 2
    assert shell([*command, "--surprise"], ">&- 2>&-") == 2


def test_nothing_is_said_on_a_stream_that_was_taken_for_another(tmp_path):
    # Without standard error, print would use standard output in its place.
    run = subprocess.run(
        ["bash", "-c", '"$0" -c "$1" "$2" 2>&-', sys.executable, SAYS, tmp_path / "done"],
        capture_output=True,
        check=False,
    )
    assert run.stdout == b"a table\n" * 3


PATIENT = """
import sys, time
from flare_runtime.program import terminal
takes_long = sys.argv[1] == "long"
terminal._DELAY_S = 0.1 if takes_long else 3600
with terminal.WaitingLine("looking at \\x1b[31m ..."):
    while takes_long and not terminal._SHOWN:
        time.sleep(0.01)
terminal.say("done")
"""


def on_a_terminal(*command):
    """Return what a command prints on a terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    with subprocess.Popen([sys.executable, "-c", *command], stdout=theirs, stderr=theirs):
        os.close(theirs)
        output = b""
        try:
            while piece := os.read(ours, 1000):
                output += piece
        except OSError:  # the terminal's way to say that nobody is there any more
            pass
    os.close(ours)
    return output.decode()


def test_a_terminal_shows_that_something_takes_long():
    assert on_a_terminal(PATIENT, "long") == "looking at \\x1b[31m ...\r\x1b[Kdone\r\n"
    assert on_a_terminal(PATIENT, "short") == "done\r\n"


def test_a_terminal_shows_how_many_files_were_looked_at():
    code = """
import time
from flare_runtime.files.looking import looking_at
from flare_runtime.program import terminal
terminal._DELAY_S = terminal._ANEW_S = 0.05
def wait_for(end):
    while not line._shown.endswith(end):
        time.sleep(0.01)
with terminal.WaitingLine("looking ...") as line:
    for number, _ in enumerate(looking_at("ab", 2000), 1):
        wait_for(f" {number} of 2,000 files")
    wait_for("...")
terminal.say("done")
"""
    shown = [*(f"looking ...{count}" for count in (" 1 of 2,000 files", " 2 of 2,000 files", "")), "done\r\n"]
    assert on_a_terminal(code).split("\r\x1b[K") == shown


def test_what_is_logged_takes_the_passing_line_away():
    code = """
import logging, time
from flare_runtime.program import terminal
from flare_runtime.program.command_line import log_to_stderr
log_to_stderr("flare_runtime", logging.INFO)
with terminal.WaitingLine("looking ..."):
    while not terminal._SHOWN:
        time.sleep(0.01)
    logging.getLogger("flare_runtime.x").info("two\\n%s", "\\x1b[31m lines")
"""
    assert on_a_terminal(code) == "looking ...\r\x1b[Ktwo\r\n\\x1b[31m lines\r\n"


def test_the_command_shows_that_it_begins_and_outlives_its_terminal(tmp_path, tiny_bundle):
    scan = write_nifti(tmp_path / "a.nii", blobs((40, 40, 40)), spacing_mm=SPACING)
    ours, theirs = pty.openpty()
    paths = ["-i", scan, "-o", tmp_path / "mask.nii", "-m", tiny_bundle]
    at_once = (
        "from flare_runtime import cli; from flare_runtime.program import terminal; "
        "terminal._DELAY_S = 0; raise SystemExit(cli.main())"
    )
    command = [sys.executable, "-c", at_once, *map(str, paths), "--threads", "1", "--step", "0.2"]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        assert os.read(ours, 1000).startswith(b"flare-infer: looking at the model and at ")
        os.close(ours)
        assert process.wait(timeout=300) == 0
    assert (tmp_path / "mask.json").exists()


def test_the_command_shows_how_far_a_case_is(tmp_path, tiny_bundle):
    scan = write_nifti(tmp_path / "a.nii", blobs((16, 17, 18)), spacing_mm=SPACING)
    options = ["-i", scan, "-o", tmp_path / "mask.nii", "-m", tiny_bundle, "--threads", "1", "--device", "cpu"]
    command = f"import sys; from flare_runtime import cli; sys.exit(cli.main({list(map(str, options))} + sys.argv[1:]))"
    shown = on_a_terminal(command).split("\r")
    assert any("| 0/4 [" in part for part in shown)
    # The bar has gone before the line of the case comes.
    assert "".join(shown[-3:-1]).strip().startswith("a: ")
    assert "/4 [" not in on_a_terminal(command, "--quiet")


def test_the_command_shows_how_far_a_folder_of_cases_is(tmp_path, tiny_bundle):
    (tmp_path / "in").mkdir()
    for name in "acd":
        write_nifti(tmp_path / "in" / f"{name}.nii", blobs((16, 17, 18)), spacing_mm=SPACING)
    (tmp_path / "in" / "b.nii").write_bytes(b"no image")
    options = ["-i", tmp_path / "in", "-o", tmp_path / "out", "-m", tiny_bundle, "--threads", "1", "--device", "cpu"]
    command = f"from flare_runtime import cli; cli.main({list(map(str, options))})"
    bars = [part.split(":")[0] for part in on_a_terminal(command).split("\r") if "| 0/4 [" in part]
    assert bars[0] == "0 of 4 cases; a"
    assert [re.sub(r"[\d,]+ (an hour|s left)", r"N \1", bar) for bar in bars[1:]] == [
        "2 of 4 cases, 1 not done, N an hour, N s left; c",
        "3 of 4 cases, 1 not done, N an hour, N s left; d",
    ]


def test_a_pipe_gets_no_passing_lines():
    run = subprocess.run([sys.executable, "-c", PATIENT, "0.5"], capture_output=True, text=True, check=True)
    assert run.stderr == "done\n"
