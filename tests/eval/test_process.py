"""The sampler against processes whose cost is known."""

import json
import os
import subprocess
import sys
import textwrap
from itertools import pairwise

import pytest

from flare_eval.efficiency.costs import integral, peak
from flare_eval.efficiency.process import measure
from flare_eval.results import RunCost


def run(script, *arguments, **options):
    return measure([sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)], **options)


def cost(measured):
    return RunCost(case="case", exit_code=measured.exit_code, wall_s=measured.wall_s, samples=measured.samples)


# Takes and returns anonymous memory on a schedule, and prints what was resident when, in MiB and seconds.
SCHEDULE = """
import json, mmap, re, sys, time
def resident():
    return sum(map(int, re.findall(r"Rss(?:Anon|File|Shmem):\\s+(\\d+)", open("/proc/self/status").read()))) / 1024
timeline = []
def note():
    timeline.append((time.perf_counter(), resident()))
held = []
for change in json.loads(sys.argv[1]):
    note()
    if change > 0:
        held.append(mmap.mmap(-1, change << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        for offset in range(0, change << 20, 4096):
            held[-1][offset] = 1
    else:
        held.pop().close()
    note()
    time.sleep(1)
note()
print(json.dumps(timeline))
"""


def deviations_from_the_schedule():
    """Return by how much integral and peak are off, as shares."""
    measured = run(SCHEDULE, json.dumps([400, 100, -1, 150, -1, 100, -1]))
    timeline = json.loads(measured.output)
    held = [(end - start) * (low + high) / 2 for (start, low), (end, high) in pairwise(timeline)]
    # Before and after the schedule the interpreter alone is resident.
    outside = (measured.wall_s - (timeline[-1][0] - timeline[0][0])) * timeline[0][1]
    highest = max(level for _, level in timeline)
    return (
        abs(integral(cost(measured), "host_mib") / (sum(held) + outside) - 1),
        abs(peak(cost(measured), "host_mib") / highest - 1),
    )


def at_last(attempt):
    """Whether one of several attempts succeeds: a busy machine delays samples, a wrong sampler is wrong every time."""
    return any(attempt() for _ in range(10))


def test_the_integral_and_the_peak_are_those_of_a_known_schedule():
    assert at_last(lambda: max(deviations_from_the_schedule()) <= 0.02)


def test_memory_of_children_counts():
    child = "import time; held = bytearray(150 << 20); held[::4096] = bytes(len(held[::4096])); time.sleep(0.6)"
    program = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    assert at_last(lambda: run(program, child).peak_mib > 150)


def test_samples_come_every_tenth_of_a_second():
    def come():
        measured = run("import time; time.sleep(1)")
        assert measured.wall_s >= 1
        assert [sample.device_mib for sample in measured.samples] == [None] * len(measured.samples)
        return len(measured.samples) == pytest.approx(measured.wall_s / 0.1, abs=4)

    assert at_last(come)


def test_processor_time_is_that_of_the_process():
    busy = """
    import time
    while time.process_time() < 0.8: pass
    """

    def spent():
        samples = run(busy).samples
        begins = [0.0, *(sample.seconds for sample in samples)]
        return sum(sample.cpu_share * (sample.seconds - begin) for begin, sample in zip(begins, samples, strict=False))

    assert at_last(lambda: spent() == pytest.approx(0.8, abs=0.2))


def test_a_failure_is_told_with_the_end_of_its_errors():
    measured = run("import sys; print('to out'); sys.exit('the reason')")
    assert (measured.exit_code, measured.output, measured.error_tail) == (1, "to out\n", "the reason\n")


def test_a_killed_process_has_a_negative_code():
    assert run("import os; os.kill(os.getpid(), 9)").exit_code == -9


def test_the_environment_is_set_on_top_and_input_is_closed():
    measured = run(
        "import os, sys; print(os.environ['A'], 'PATH' in os.environ, sys.stdin.read())", environment={"A": "b"}
    )
    assert measured.output == "b True \n"


def test_a_program_that_does_not_exist_is_an_error():
    with pytest.raises(FileNotFoundError):
        measure(["no-such-program-anywhere"])


def test_output_of_any_length_does_not_block():
    assert len(run("print('x' * 10_000_000)").output) == 10_000_001


def test_an_interrupted_measurement_leaves_no_process_behind(tmp_path):
    # What is started in the background of a script takes no Ctrl-C unless it asks for it. The inner process may run
    # before the call that starts it has returned, so it waits.
    script = """
    import signal, sys
    from flare_eval.efficiency.process import measure
    signal.signal(signal.SIGINT, signal.default_int_handler)
    measure([sys.executable, "-c", "import os, sys, time; time.sleep(1); "
             "print(os.getpid(), file=open(sys.argv[1], 'w'), flush=True); time.sleep(600)", sys.argv[1]])
    """
    note = tmp_path / "pid"
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(note)], stderr=subprocess.DEVNULL
    ) as outer:
        while not (note.exists() and note.read_text(encoding="utf-8").strip()):
            assert outer.poll() is None
        outer.send_signal(2)
        outer.wait(120)
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text(encoding="utf-8")), 0)


def test_the_whole_machine_counts_what_others_take():
    taken = "import time; held = bytearray(600 << 20); held[::4096] = b'1' * len(held[::4096]); time.sleep(0.6)"
    # Others take and give back memory at the same time.
    assert at_last(lambda: run(taken, whole_machine=True).peak_mib > 400)
    assert at_last(lambda: run("import time; time.sleep(0.3)", whole_machine=True).peak_mib < 400)
