"""`flare-infer status`: how far the cases of a folder are, by their records and leases."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flare_runtime import cli
from flare_runtime.cohort.cli import MAX_TRIES
from flare_runtime.cohort.record_files import Head, Unreadable, read_head
from flare_runtime.cohort.status import Expected, HeadReader, status_of
from flare_runtime.cohort.status_text import headline
from flare_runtime.errors import UsageError
from flare_runtime.files.json_file import encode_json
from flare_runtime.files.lease import Leases, lease_path
from flare_runtime.program.duration import duration
from flare_runtime.run.identity import Identity
from flare_runtime.run.report import RunTime, write_report
from flare_runtime.run.resume import DEFAULT_MAX_TRIES
from tests.runtime.cohort_folders import done, failed, put, refused


def asked(capsys, *words, code=0):
    assert cli.main(["status", *map(str, words)]) == code
    return capsys.readouterr().out


def write_cohort(folder):
    for name in ("a", "b"):
        put(folder, done(name))
    put(folder / "sub" / "deep", done("c", 0))
    for name in ("d", "e", "f", "g"):
        put(folder, refused(name))
    put(folder / "sub", failed("h"))
    return folder


def leave_lease(mask, generation=1):
    """Leave the lease of a process of this machine that has ended."""
    code = "import sys, os\nfrom pathlib import Path\nfrom flare_runtime.files.lease import Leases\n"
    code += "for _ in range(int(sys.argv[2])):\n"
    code += "    if os.fork() == 0: assert Leases().take(Path(sys.argv[1])); os._exit(0)\n    os.wait()"
    subprocess.run([sys.executable, "-c", code, str(mask), str(generation)], check=True)


# --- what is counted


def test_every_case_is_counted_in_nested_folders_too(tmp_path, capsys):
    lines = asked(capsys, write_cohort(tmp_path), code=4).splitlines()
    assert lines[0].startswith(f"{tmp_path}: 3 case(s) done, 4 refused, 1 failed, ")
    assert lines[1:3] == [
        "refused    truncated (4): d, e, f and 1 more",
        "failed     internal (1): h",
    ]
    content = json.loads(asked(capsys, tmp_path, "--json", code=4))
    assert (content["done"], content["settled"], content["total"]) == (3, 8, None)
    assert content["reasons"] == [
        {"status": "refused", "reason": "truncated", "cases": 4},
        {"status": "failed", "reason": "internal", "cases": 1},
    ]
    assert [case["case"] for case in content["not_done"]] == ["d", "e", "f", "g", "h"]
    assert content["not_done"][4]["record"] == str(tmp_path / "sub" / "h.json")


def test_a_folder_with_nothing_refused_ends_with_0(tmp_path, capsys):
    put(tmp_path, done("a"))
    assert asked(capsys, tmp_path).startswith(f"{tmp_path}: 1 case(s) done")


def test_a_folder_without_a_record_is_said_in_one_line(tmp_path, capsys):
    for folder, what in ((tmp_path, "holds no record of a case"), (tmp_path / "none", "cannot be read")):
        assert cli.main(["status", str(folder)]) == 2
        output = capsys.readouterr()
        assert (output.out, output.err.count("\n")) == ("", 1)
        assert what in output.err


def test_what_is_no_record_is_none_and_what_is_damaged_is_named(tmp_path, capsys):
    put(tmp_path, done("a"))
    whole = put(tmp_path, done("x", 40)).read_bytes()
    assert len(whole) > 4096
    (tmp_path / "half.json").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "short.json").write_bytes(whole[:300])
    (tmp_path / "empty.json").touch()
    (tmp_path / "wrong.json").write_bytes(b'{"format": "flare-lite record", "case": "w", "status": "gone"}')
    write_report(tmp_path / "run.json", RunTime("2026", 1.0, []), [done("x", 40)] * 3, [])
    foreign = [b"[1]", b"{", b"\xff", b'{"a":' * 9999]
    foreign += [b'{"case": "a", "status": "done"}', b'{"format": "other", "case": "a", "status": "done"}']
    for number, content in enumerate(foreign):
        (tmp_path / f"foreign{number}.json").write_bytes(content)
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "link.json").symlink_to("a.json")
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / ".snapshot").mkdir()
    put(tmp_path / ".snapshot", done("old"))
    content = json.loads(asked(capsys, tmp_path, "--json"))
    assert (content["done"], content["not_done"]) == (2, [])
    assert [line.partition(":")[0] for line in content["unreadable"]] == [
        str(tmp_path / name) for name in ("empty.json", "half.json", "short.json", "wrong.json")
    ]


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    write_cohort(tmp_path)
    scandir = os.scandir

    def refuse(path):
        if path.endswith("deep"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    status = status_of(tmp_path, 5)
    assert (status.done, status.unreadable) == (2, [f"{tmp_path / 'sub' / 'deep'}: cannot be read (Permission denied)"])


def test_odd_names_are_shown_on_one_line(tmp_path, capsys):
    put(tmp_path, failed("two\nlines\x1b[31m"))
    (tmp_path / os.fsdecode(b"M\xfcller.json")).write_bytes(encode_json(done("M")))
    (tmp_path / os.fsdecode(b"N\xfcller.json")).touch()
    out = asked(capsys, tmp_path, code=4)
    assert r"internal (1): two\nlines\x1b[31m" in out
    assert r"N\xfcller.json: is empty" in out
    assert "\x1b" not in out
    json.loads(asked(capsys, tmp_path, "--json", code=4))


def test_records_of_earlier_versions_are_counted(tmp_path):
    (tmp_path / "a.json").write_bytes(b'{"case": "a", "status": "done", "model": {"bundle_sha256": "0"}}')
    (tmp_path / "b.json").write_bytes(b'{"case": "b", "status": "refused", "reason": "truncated", "message": "cut"}')
    status = status_of(tmp_path, 5)
    assert (status.done, [case.case for case in status.not_done]) == (1, ["b"])


def test_the_head_of_a_long_record_says_what_the_whole_says(tmp_path):
    path = put(tmp_path, done("a" * 200, 100, other_masks={"x" * 200: "y"}))
    head = read_head(str(path))
    assert head == Head(
        str(path), path.stat().st_mtime_ns, "a" * 200, "done", None, None, duration_s=2.0, channels=1, tries=1
    )
    path.write_bytes(path.read_bytes().replace(b'"total": 2.0', b'"total": "2"'))
    assert isinstance(read_head(str(path)), Unreadable)


def test_cases_with_which_enough_runs_have_begun_are_given_up(tmp_path, capsys):
    for tries in (1, 2, 5, 6):
        identity = Identity(bundle_sha256="b", options_sha256="o", inputs=[], tries=tries)
        record = failed(f"case{tries}")
        record.identity = identity
        put(tmp_path, record)
    assert MAX_TRIES == DEFAULT_MAX_TRIES
    assert asked(capsys, tmp_path, code=4).splitlines()[2] == "given up   2: case5, case6"
    content = json.loads(asked(capsys, tmp_path, "--json", "--max-tries", 2, code=4))
    assert [case["tries"] for case in content["not_done"] if case["given_up"]] == [2, 5, 6]
    assert content["given_up"] == 3


# --- who works


def test_who_works_at_what_is_told_from_who_has_died(tmp_path, capsys):
    leases = Leases()
    mask = tmp_path / "sub" / "b.nii.gz"
    put(tmp_path, done("a"))
    mask.parent.mkdir()
    leave_lease(mask, generation=2)
    leave_lease(tmp_path / "c.nii.gz")
    assert leases.take(mask).generation == 3
    content = json.loads(asked(capsys, tmp_path, "--json"))
    (running,), (lost,) = content["running"], content["lost"]
    assert (running["mask"], running["host"]) == (str(mask), os.uname().nodename)
    assert lost["mask"] == str(tmp_path / "c.nii.gz")
    lines = asked(capsys, tmp_path).splitlines()
    assert "1 in work" in lines[0]
    assert lines[1].startswith(f"in work    {mask}: {os.uname().nodename}, process {os.getpid()}, since 2")
    assert lines[2].startswith(f"left over  {tmp_path / 'c.nii.gz'}: ")
    leases.close()


def test_a_folder_whose_first_case_is_in_work_has_a_status(tmp_path, capsys):
    leases = Leases()
    leases.take(tmp_path / "a.nii.gz")
    assert asked(capsys, tmp_path).startswith(f"{tmp_path}: 0 case(s) done, 1 in work")
    leases.close()


# --- rate and time left


def test_the_rate_is_that_of_the_last_minutes(tmp_path):
    now = time.time()
    for number in range(30):  # one after the other, a minute each
        put(tmp_path, done(f"case{number}", timings_s={"total": 60.0}), now=now, seconds_ago=60 * number + 30)
    rate = status_of(tmp_path, 5).rate
    assert rate.over_s == 600
    assert rate.cases_per_hour == pytest.approx(60)


def test_the_rate_of_a_run_that_has_just_begun_counts_from_its_begin(tmp_path, monkeypatch):
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    for number in range(12):  # six workers, each of whom had two cases of 30 s
        put(tmp_path, done(f"case{number}", timings_s={"total": 30.0}), now=now, seconds_ago=1 + 30 * (number % 2))
    rate = status_of(tmp_path, 5).rate
    assert rate.over_s == pytest.approx(61, abs=1)
    assert rate.cases_per_hour == pytest.approx(12 / 61 * 3600, rel=0.02)


def test_few_cases_are_counted_over_longer_times(tmp_path):
    now = time.time()
    for number in range(3):  # one in two hours, each of which took as long
        record = done(f"case{number}", timings_s={"total": 7200.0})
        put(tmp_path, record, now=now, seconds_ago=7200 * number)
    assert status_of(tmp_path, 5).rate.cases_per_hour == pytest.approx(0.5, rel=0.01)
    for path in tmp_path.glob("*.json"):
        os.utime(path, (now - 90_000,) * 2)
    assert status_of(tmp_path, 5).rate is None


def test_a_server_whose_clock_is_ahead_changes_no_rate(tmp_path):
    now = time.time() + 5000
    for number in range(10):
        put(tmp_path, done(f"case{number}"), now=now, seconds_ago=10 * number)
    assert status_of(tmp_path, 5).rate.cases_per_hour == pytest.approx(10 / 92 * 3600, rel=0.01)


def test_of_a_known_input_it_says_what_is_left(tmp_path):
    now = time.time()
    for number in range(10):
        put(tmp_path, done(f"case{number}"), now=now, seconds_ago=60 * number)
    put(tmp_path, done("of another input"))
    leases = Leases()
    leases.take(tmp_path / "case10.nii.gz")
    expected = [Expected(f"case{n}", str(tmp_path / f"case{n}.json")) for n in range(13)]
    status = status_of(tmp_path, 5, expected)
    leases.close()
    assert (status.total, status.open, status.not_begun) == (13, 3, ["case11", "case12"])
    assert status.left_s == pytest.approx(3 / status.rate.cases_per_hour * 3600)
    assert "11 of 13 case(s) done, 1 in work, 2 not begun" in headline(status)
    assert not status.is_complete
    assert status_of(tmp_path, 5, expected[:10]).is_complete


def test_times_are_told_as_people_do():
    assert [duration(s) for s in (5, 119, 150, 3600, 5400, 90_000)] == [
        "5 s",
        "2 min",
        "2 min",
        "1 h 0 min",
        "1 h 30 min",
        "1 d 1 h",
    ]


# --- watching


def test_only_records_that_have_changed_are_read_again(tmp_path, monkeypatch):
    from flare_runtime.cohort import status as module

    first, _ = put(tmp_path, done("a")), put(tmp_path, done("b"))
    reader, read = HeadReader(), []
    monkeypatch.setattr(module, "read_head", lambda path: read.append(path) or read_head(path))
    assert status_of(tmp_path, 5, None, reader.read).done == 2
    put(tmp_path, failed("a"))
    os.utime(first, (1, 1))
    second = status_of(tmp_path, 5, None, reader.read)
    assert (second.done, [case.case for case in second.not_done]) == (1, ["a"])
    assert read == [str(tmp_path / name) for name in ("a.json", "b.json", "a.json")]


def watch(folder, *words, **streams):
    command = [sys.executable, "-m", "flare_runtime.cli", "status", str(folder), "--watch", "0.1", *words]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, **streams)


def test_watching_prints_a_line_each_time_until_nobody_works(tmp_path):
    put(tmp_path, done("a"))
    leases = Leases()
    leases.take(tmp_path / "b.nii.gz")
    process = watch(tmp_path, stdout=subprocess.PIPE, text=True)
    assert "1 case(s) done, 1 in work" in process.stdout.readline()
    put(tmp_path, done("b"))
    leases.close()
    lines = process.stdout.read().splitlines()
    assert process.wait(120) == 0
    assert lines[-1].startswith(f"{tmp_path}: 2 case(s) done")


def test_watching_ends_with_130_on_an_interruption(tmp_path):
    put(tmp_path, done("a"))
    process = watch(tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (130, "flare-infer status: interrupted\n")


def test_watching_redraws_a_terminal(tmp_path):
    put(tmp_path, done("a"))
    ours, theirs = pty.openpty()
    process = watch(tmp_path, stdout=theirs, stderr=theirs)
    shown = b""
    while shown.count(b"\x1b[H") < 2:
        shown += os.read(ours, 4096)
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130
    assert b"\x1b[H" + f"{tmp_path}: 1 case(s) done".encode()[:60] in shown


def test_words_that_are_no_interval_are_refused(tmp_path, capsys):
    for words in (["--watch", str(tmp_path)], [str(tmp_path), "--watch", "0"]):
        with pytest.raises(SystemExit) as ending:
            cli.main(["status", *words])
        assert ending.value.code == 2
        assert "no number" in capsys.readouterr().err


def test_nothing_heavy_is_imported(tmp_path):
    put(tmp_path, done("a"))
    code = (
        "import sys; from flare_runtime.cli import main; main(['status', sys.argv[1]]); print('numpy' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "False"


def test_a_usage_error_names_what_could_not_be_read(tmp_path):
    (tmp_path / "a.json").touch()
    with pytest.raises(UsageError, match="holds no record of a case, but 1 file"):
        status_of(tmp_path, 5)
    assert lease_path(tmp_path / "a.nii.gz", 1).name == ".a.nii.gz.1.flare-lease"


# --- the cases of an input


def test_the_cases_of_an_input_that_have_no_record_are_not_begun(tmp_path, capsys, monkeypatch):
    scans = tmp_path / "in"
    for name in ("a", "b", "sub/c", "sub/d", "sub/e"):
        (scans / name).parent.mkdir(parents=True, exist_ok=True)
        for channel in (0, 1):
            (scans / f"{name}_{channel:04d}.nii.gz").touch()
    monkeypatch.chdir(tmp_path)
    for out in (tmp_path / "out", Path("out2")):
        put(out, done("a", inputs=["a_0000.nii.gz", "a_0001.nii.gz"]))
        put(out / "sub", refused("c"))
        leases = Leases()
        leases.take(out / "sub" / "d.nii.gz")
        content = json.loads(asked(capsys, out, "--of", scans, "--recursive", "--json", code=4))
        assert (content["total"], content["open"], content["not_begun"]) == (5, 3, ["b", "sub/e"])
        lines = asked(capsys, out, "--of", scans, "--recursive", code=4).splitlines()
        assert ": 1 of 5 case(s) done, 1 refused, 1 in work, 2 not begun, " in lines[0]
        assert lines[-1] == "not begun  2: b, sub/e"
        leases.close()
    assert json.loads(asked(capsys, "out2", "--of", scans, "--json", code=4))["not_begun"] == ["b"]
    assert not list(tmp_path.glob("**/*.flare-lease"))


def test_a_list_of_cases_is_counted_without_its_images(tmp_path, capsys):
    (tmp_path / "list.csv").write_text("case,images\na,a.nii\nb,b.nii\n", encoding="utf-8")
    put(tmp_path / "out", done("a"))
    assert json.loads(asked(capsys, tmp_path / "out", "--of", tmp_path / "list.csv", "--json"))["not_begun"] == ["b"]


def test_watching_ends_when_all_cases_of_the_input_have_a_record(tmp_path, capsys):
    (tmp_path / "list.csv").write_text("case,images\na,a.nii\n", encoding="utf-8")
    put(tmp_path / "out", done("a"))
    line = asked(capsys, tmp_path / "out", "--of", tmp_path / "list.csv", "--watch")
    assert line == f"{tmp_path / 'out'}: 1 of 1 case(s) done\n"


def test_an_input_that_is_not_there_is_a_usage_error(tmp_path, capsys):
    put(tmp_path, done("a"))
    for words, why in ((["--of", "nowhere"], "there is no such file"), (["--recursive"], "goes with --of alone")):
        assert cli.main(["status", str(tmp_path), *words]) == 2
        assert why in capsys.readouterr().err
