"""Job arrays of workers: what is submitted, and what becomes of the cases when tasks are preempted and go on."""

import os
import pickle
import random
import re
import signal
import subprocess
import sys
import time
from argparse import ArgumentParser
from pathlib import Path

import pytest

from flare_runtime import RunOptions, Session
from flare_runtime.cli import main
from flare_runtime.cluster.cli import _add_array
from tests.processes import has_ended
from tests.reference_pages import parser_of
from tests.runtime.command_runs import SPACING, names, spawn
from tests.runtime.nifti_files import blobs, write_nifti

pytest.importorskip("submitit")
from submitit import LocalExecutor

from flare_runtime.cluster import array_task, slurm
from flare_runtime.cluster.array_task import ArrayTask
from flare_runtime.cluster.slurm import exit_codes

WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)
# Of submitit's local executor: more often it does not start a task again.
MOST_RESTARTS = 5


def write_scans(folder, count, shape):
    folder.mkdir()
    for seed in range(count):
        write_nifti(folder / f"{seed:02}.nii.gz", blobs(shape, seed), spacing_mm=SPACING)


def children(process):
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if fields[1] == str(process):
            found.append(int(status.parent.name))
    return found


def warn_at_random(controllers, chance, times):
    """Warn tasks that have a worker, now and then and each at most so often, until none is left to be warned."""
    warned = dict.fromkeys(controllers, 0)
    while any(count < times for count in warned.values()):
        time.sleep(0.05)
        for controller in controllers:
            for task in children(controller):
                if warned[controller] < times and children(task) and random.random() < chance:
                    os.kill(task, random.choice(WARNINGS))
                    warned[controller] += 1
                    time.sleep(1)  # it is being ended
        if not any(children(controller) for controller in controllers):
            break
    return sum(warned.values())


def run_disturbed(folder, model, tasks, chance, times):
    """Run an array over `in` while its tasks are warned; return how often, and what became of `in` in one process."""
    options = RunOptions(device="cpu", precision="fp32", threads=1)
    list(Session(model, options).run(folder / "in", folder / "undisturbed"))
    words = ["-i", "in", "-o", "out", "-m", model, "--device", "cpu", "--precision", "fp32", "--threads", 1]
    array = spawn("slurm", *words, "--tasks", tasks, "--executor", "local", "--wait", cwd=folder)
    said = iter(array.stdout.readline, "")
    controllers = next(list(map(int, line.split()[5:])) for line in said if "kill -INT" in line)
    while not list((folder / "out").glob("*.json")) and array.poll() is None:
        time.sleep(0.02)
    warned = warn_at_random(controllers, chance, times)
    _, err = array.communicate(timeout=900)
    assert array.returncode == 0, err
    return warned


def check_disturbed(folder):
    """Every mask is there as of an undisturbed run, was made once, and nothing else is left."""
    masks = names(folder / "undisturbed")
    assert names(folder / "out") == masks
    for name in masks:
        if name.endswith(".gz"):
            assert (folder / "out" / name).read_bytes() == (folder / "undisturbed" / name).read_bytes()
    logs = "".join(log.read_text(encoding="utf-8") for log in (folder / "flare-slurm").glob("*.err"))
    done = re.findall(r"^(\d+): \d+ lesion", logs, re.MULTILINE)
    assert sorted(done) == sorted(name.partition(".")[0] for name in masks if name.endswith(".json"))
    return "".join(log.read_text(encoding="utf-8") for log in (folder / "flare-slurm").glob("*.out")).count("Requeued")


def test_preempted_tasks_go_on(tiny_bundle, tmp_path):
    write_scans(tmp_path / "in", 10, (40, 40, 40))
    warned = run_disturbed(tmp_path, tiny_bundle, tasks=2, chance=1, times=1)
    assert 0 < check_disturbed(tmp_path) <= warned


@pytest.mark.slow
def test_tasks_can_be_preempted_at_any_moment(tiny_bundle, tmp_path):
    write_scans(tmp_path / "in", 60, (56, 56, 56))
    warned = run_disturbed(tmp_path, tiny_bundle, tasks=3, chance=0.02, times=MOST_RESTARTS)
    # A task that is being ended already is warned in vain.
    assert MOST_RESTARTS < check_disturbed(tmp_path) <= warned


def test_the_tasks_may_be_of_this_process(tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_scans(tmp_path / "in", 2, (16, 17, 18))
    (tmp_path / "in" / "bad.nii").write_bytes(b"bad")
    words = ["-i", "in", "-o", "out", "-m", str(tiny_bundle), "--device", "cpu", "--threads", "1"]
    assert main(["slurm", *words, "--tasks", "1", "--executor", "debug"]) == 4
    assert names(tmp_path / "out") == ["00.json", "00.nii.gz", "01.json", "01.nii.gz", "bad.json"]


def said(capsys):
    """Return the one line that a command was refused with."""
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("flare-infer slurm: ")
    return line


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A folder with a scan, where a script stands for `sbatch`: it keeps what it is given, or fails."""
    for name, text in (("sbatch", 'cp "$1" job.sh; [ -e refuse ] && { cat refuse >&2; exit 1; }'), ("srun", "")):
        script = tmp_path / "bin" / name
        script.parent.mkdir(exist_ok=True)
        script.write_text(f"#!/bin/sh\n{text}\necho Submitted batch job 77\n", encoding="utf-8")
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    write_scans(tmp_path / "in", 1, (16, 17, 18))
    return tmp_path


def test_what_is_submitted(cluster, tiny_bundle, capsys):
    words = ["-i", "in", "--tasks", "3", "-o", "out", "-m", str(tiny_bundle), "--step", "0.6", "--partition", "gpu"]
    task = "--gpus-per-task 1 --cpus-per-task 4 --mem 12 --time 90 --signal-delay 200"
    more = [*task.split(), "--array-parallelism", "2", "--sbatch", "account=lab", "--sbatch", "exclusive"]
    assert main(["slurm", *words, *more]) == 0
    lines = set((cluster / "job.sh").read_text(encoding="utf-8").splitlines())
    wanted = "partition=gpu gpus-per-node=1 cpus-per-task=4 mem=12GB time=90 array=0-2%2 signal=USR2@200 account=lab"
    assert {f"#SBATCH --{one}" for one in (*wanted.split(), "exclusive")} <= lines
    assert any(line.startswith("srun ") and "--cpus-per-task=4" in line for line in lines)
    out = capsys.readouterr().out
    assert "submitted job 77: 3 task(s), which log to flare-slurm" in out
    assert all(command in out for command in ("squeue --job 77", "scancel 77", "flare-infer status out"))
    submitted = pickle.loads((cluster / "flare-slurm" / "77_0_submitted.pkl").read_bytes())
    assert submitted._timeout_countdown == 100
    command, folder, grace_s = submitted.function._arguments
    run = ["--resume", "-i", "in", "-o", "out", "-m", str(tiny_bundle), "--step", "0.6"]
    assert list(command) == [sys.executable, "-m", "flare_runtime", *run]
    assert (folder, grace_s) == (str(cluster), 185)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("-i nowhere -o out", 2, "nowhere: there is no such file or folder"),
        ("-i in -o in/00.nii.gz", 2, "the output for a folder is a folder"),
        ("-i in -o out --step 3", 2, "step"),
        ("-i in -o out --no-records", 2, "cannot be resumed"),
        ("-i in -o out --report run.json", 2, "flare-infer merge"),
        ("-i in -o out --time 2", 2, "--signal-delay 120 is in seconds; it must be less than --time 2"),
        ("-i in -o out --log-folder in/00.nii.gz", 6, "is no folder"),
    ],
)
def test_what_a_worker_would_refuse_is_not_submitted(cluster, tiny_bundle, capsys, words, code, message):
    assert main(["slurm", *words.split(), "-m", str(tiny_bundle), "--tasks", "2"]) == code
    assert message in said(capsys)
    assert not (cluster / "job.sh").exists()


def test_who_waits_gets_the_worst_exit_code_of_which_failed_cases_are_the_mildest(cluster, tiny_bundle, monkeypatch):
    words = ["-i", "in", "-o", "out", "-m", str(tiny_bundle), "--tasks", "2", "--wait"]
    for codes, worst in (([0, 0], 0), ([0, 4], 4), ([4, 1], 1), ([6, 4, 0], 6)):
        monkeypatch.setattr(slurm, "exit_codes", lambda _jobs, codes=codes: codes)
        assert main(["slurm", *words]) == worst


def test_the_device_is_not_looked_for_where_the_array_is_submitted(cluster, tiny_bundle):
    words = ["-i", "in", "-o", "out", "-m", str(tiny_bundle), "--device", "cuda:7", "--precision", "fp16"]
    assert main(["slurm", *words, "--tasks", "2"]) == 0


def test_what_sbatch_says_is_passed_on(cluster, tiny_bundle, capsys):
    (cluster / "refuse").write_text(
        "sbatch: error: invalid partition specified: x\nsbatch: error: failed\n", encoding="utf-8"
    )
    assert main(["slurm", "-i", "in", "-o", "out", "-m", str(tiny_bundle), "--tasks", "2"]) == 2
    assert "invalid partition specified: x; sbatch: error: failed" in said(capsys)


def test_without_slurm_the_local_executor_is_named(cluster, tiny_bundle, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert main(["slurm", "-i", "in", "-o", "out", "-m", str(tiny_bundle), "--tasks", "2"]) == 2
    assert "--executor local" in said(capsys)


def test_without_submitit_it_is_said_how_to_install_it(cluster, capsys, monkeypatch):
    for name in [name for name in sys.modules if name.startswith(("submitit", "flare_runtime.cluster."))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert main(["slurm", "-i", "in", "-o", "out", "--tasks", "2"]) == 2
    assert "pip install '.[slurm]'" in said(capsys)


def test_no_option_of_a_run_is_the_beginning_of_one_of_the_array():
    array = ArgumentParser(add_help=False)
    _add_array(array)
    of_run = [name for name in parser_of("flare-infer")._option_string_actions if name.startswith("--")]
    assert not [name for name in array._option_string_actions if name.startswith(tuple(of_run))]


def test_a_worker_that_is_lost_is_replaced(tmp_path):
    code = """
import os, pathlib, signal, sys
runs = pathlib.Path("runs")
runs.write_text(runs.read_text() + "x" if runs.exists() else "x")
if len(runs.read_text()) < 3:
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(4)
"""
    assert ArrayTask((sys.executable, "-c", code), str(tmp_path), 5)() == 4
    assert (tmp_path / "runs").read_text(encoding="utf-8") == "xxx"


@pytest.mark.parametrize(
    ("worker", "code", "count"),
    [
        *[(f"exit {code}", code, 1) for code in (0, 1, 2, 4, 5, 6, 7, 138)],
        *[(f"kill -{name} $$", code, 1) for name, code in (("INT", 130), ("USR1", 138), ("USR2", 140))],
        ("kill -KILL $$", 137, 20),
        ("[ $(wc -l < runs) = 2 ] || kill -SEGV $$", 0, 2),
    ],
)
def test_how_a_worker_ends_is_how_its_task_does_unless_another_one_may_do_better(
    tmp_path, monkeypatch, worker, code, count
):
    monkeypatch.setattr(array_task, "_NOTICE_S", 0.0)
    command = ("sh", "-c", f"echo begun >> runs; {worker}")
    assert ArrayTask(command, str(tmp_path), 5)() == code
    assert len((tmp_path / "runs").read_text(encoding="utf-8").splitlines()) == count


# A process that a task is run in; `queue_again` is what submitit does when it is warned.
PROCESS = """
import os, signal, sys
from flare_runtime.cluster import array_task
array_task._NOTICE_S = 1.0
def queue_again(*_):
    again = task.checkpoint()
    assert again.function._arguments == task._arguments
    assert {signal.getsignal(one) for one in (signal.SIGUSR1, signal.SIGUSR2)} == {signal.SIG_IGN}  # once is enough
    print(task._code, flush=True)
    os._exit(9)
signal.signal(signal.SIGUSR2, queue_again)
task = array_task.ArrayTask((sys.executable, "-c", sys.argv[1]), ".", float(sys.argv[2]))
sys.exit(task())
"""


def test_a_worker_that_takes_longer_than_its_time_is_ended(tmp_path):
    worker = """
import pathlib, signal, sys, time
signal.signal(signal.SIGUSR2, lambda *_: pathlib.Path("told").touch())
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
print("begun", flush=True)
while True:
    time.sleep(0.01)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", PROCESS, worker, "0.5"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGUSR1)  # which it takes for the other
    assert process.communicate(timeout=300)[0] == "143\n"
    assert process.returncode == 9
    assert (tmp_path / "told").exists()


@pytest.mark.parametrize(
    ("ending", "code"), [("time.sleep(0.3); sys.exit(138)", 138), ("os.kill(os.getpid(), signal.SIGKILL)", 137)]
)
def test_a_task_that_is_warned_waits_for_its_worker_and_begins_no_other(tmp_path, ending, code):
    worker = f"""
import os, pathlib, signal, sys, time
with pathlib.Path("runs").open("a") as runs:
    runs.write("x")
def end(*_):
    {ending}
signal.signal(signal.SIGUSR2, end)
print("begun", flush=True)
while True:
    time.sleep(0.01)
"""
    command = [sys.executable, "-c", PROCESS, worker, "20"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGUSR2)
    assert process.communicate(timeout=120)[0] == f"{code}\n"
    assert process.returncode == 9
    assert (tmp_path / "runs").read_text(encoding="utf-8") == "x"


def test_a_worker_ends_with_its_task_that_is_interrupted(tmp_path):
    worker = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    command = [sys.executable, "-c", PROCESS, worker, "20"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=tmp_path, stdout=pipe, stderr=pipe, text=True)
    number = int(process.stdout.readline())
    process.send_signal(signal.SIGINT)
    process.wait(timeout=120)
    assert has_ended(number)
    process.communicate()


def test_a_task_whose_worker_was_warned_first_waits_to_be_warned(tmp_path):
    command = [sys.executable, "-c", PROCESS, 'print("ended", flush=True); exit(138)', "0.5"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ended\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGUSR2)
    process.communicate(timeout=120)
    assert process.returncode == 9


@pytest.mark.parametrize("worker", ["exit(143)", "import os; os.kill(os.getpid(), 15)"])
@pytest.mark.parametrize(("state", "code"), [("RUNNING", 9), ("CANCELLED", 143)])
def test_a_task_that_sigterm_preempts_is_queued_again_unless_it_was_cancelled(tmp_path, worker, state, code):
    (tmp_path / "squeue").write_text(f"#!/bin/sh\necho {state}\n", encoding="utf-8")
    (tmp_path / "squeue").chmod(0o755)
    slurm = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "7"}
    command = [sys.executable, "-c", PROCESS, worker, "0.5"]
    assert subprocess.run(command, cwd=tmp_path, env=os.environ | slurm, timeout=300).returncode == code


def test_a_task_that_cannot_begin_counts_as_failed(tmp_path):
    job = LocalExecutor(tmp_path).submit(divmod, 1, 0)  # raises what a missing package does
    assert exit_codes([job]) == [1]
