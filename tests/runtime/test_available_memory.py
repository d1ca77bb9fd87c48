"""What a process can still take: of the machine, of its containers by cgroup 1 and 2, of its own limits."""

import subprocess
import sys

import pytest

from flare_runtime.compute.available_memory import available_bytes, lacked_memory
from flare_runtime.errors import BundleError
from flare_runtime.program.command_line import exit_code_of

MIB = 1 << 20
# What cgroup 1 says where there is no limit.
UNLIMITED = 9223372036854771712


@pytest.fixture
def system(tmp_path):
    """A function that writes what the kernel would say, and returns what is made of it in MiB.

    `groups` are limits in MiB by the folder of their group; of each 500 MiB are used, 40 of them by cached files.
    """

    def read(available_mib, swap_mib=0, *, cgroup="", groups=()):
        proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
        (proc / "self").mkdir(parents=True)
        lines = {"MemTotal": 10**6, "MemAvailable": available_mib, "SwapFree": swap_mib}
        meminfo = "".join(f"{name}: {size * 1024} kB\n" for name, size in lines.items())
        (proc / "meminfo").write_text(meminfo, encoding="utf-8")
        (proc / "self" / "cgroup").write_text(cgroup, encoding="utf-8")
        for name, limit in dict(groups).items():
            write_group(cgroups / name, limit, first="memory" in name)
        return available_bytes(proc, cgroups) / MIB

    return read


def write_group(folder, limit_mib, *, first):
    folder.mkdir(parents=True, exist_ok=True)
    bound, used = ("limit_in_bytes", "usage_in_bytes") if first else ("max", "current")
    text = str(limit_mib * MIB if isinstance(limit_mib, int) else limit_mib)
    (folder / f"memory.{bound}").write_text(f"{text}\n", encoding="utf-8")
    (folder / f"memory.{used}").write_text(f"{500 * MIB}\n", encoding="utf-8")
    # In cgroup 1 the plain names leave out the groups below.
    prefix = "total_" if first else ""
    own = f"inactive_file {7 * MIB}\nactive_file {7 * MIB}\n" if first else f"slab_reclaimable {10 * MIB}\n"
    rest = 40 if first else 30
    cached = f"{prefix}inactive_file {(rest - 5) * MIB}\n{prefix}active_file {5 * MIB}\n"
    (folder / "memory.stat").write_text(f"anon 1\n{own}{cached}", encoding="utf-8")


def test_what_is_free_on_the_machine_swap_included(system):
    assert system(1000, 24) == 1024


def test_a_system_that_does_not_say(tmp_path):
    assert available_bytes(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("free", "limit", "left"), [(1000, 600, 140), (100, 600, 100), (1000, "max", 1000), (1000, 300, 0)]
)
def test_a_limit_of_cgroup_2_counts_where_it_leaves_less(system, free, limit, left):
    assert system(free, cgroup="0::/\n", groups={"": limit}) == left


V1 = "9:name=systemd:/docker/abc\n4:{controllers}:{path}\n1:cpu,cpuacct:/docker/abc\n0::/\n"


@pytest.mark.parametrize(
    ("free", "limit", "left"),
    [(1000, 600, 140), (100, 600, 100), (1000, f"{UNLIMITED}", 1000), (1000, 300, 0)],
)
@pytest.mark.parametrize("controllers", ["memory", "memory,hugetlb"])
def test_a_limit_of_cgroup_1_counts_where_it_leaves_less(system, controllers, free, limit, left):
    told = V1.format(controllers=controllers, path="/docker/abc")
    assert system(free, cgroup=told, groups={"memory/docker/abc": limit}) == left


@pytest.mark.parametrize(
    "groups",
    [
        {"memory/docker/abc": 700, "memory/docker": 600, "memory": f"{UNLIMITED}"},
        {"memory": 600},  # a container that sees its own group as the root, and is told its name outside
    ],
)
def test_the_tightest_group_above_counts(system, groups):
    assert system(1000, cgroup=V1.format(controllers="memory", path="/docker/abc"), groups=groups) == 140


def test_groups_above_count_in_cgroup_2_as_well(system):
    assert system(1000, cgroup="0::/user/abc\n", groups={"user/abc": "max", "user": 600}) == 140


def test_limits_of_other_groups_do_not_count(system):
    groups = {"memory/docker/other": 501, "cpu/docker/abc": 501}
    assert system(1000, cgroup=V1.format(controllers="memory", path="/docker/abc"), groups=groups) == 1000


@pytest.mark.parametrize("limit", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_a_limit_of_the_process_counts_less_what_it_has(limit):
    code = f"""
import resource
from pathlib import Path
from flare_runtime.compute.available_memory import available_bytes
resource.setrlimit(resource.{limit}, (500 << 20, resource.RLIM_INFINITY))
before = available_bytes()
taken = bytearray(200 << 20)
print(before, available_bytes())
try:
    bytearray(available_bytes() + (8 << 20))
    print("it was to be had all the same")
except MemoryError:
    bytearray(available_bytes() - (8 << 20))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = map(int, ran.stdout.split())
    assert 350 * MIB < before < 500 * MIB
    assert before - after == pytest.approx(200 * MIB, abs=2 * MIB)


def caused(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "lacked"),
    [
        (MemoryError(), True),
        (RuntimeError("Exception from core.cpp:105:\nstd::bad_alloc\n"), True),
        (RuntimeError("Check 'ptr' failed:\nFailed to allocate 167772160 bytes of memory"), True),
        (ImportError("libopenvino.so: failed to map segment from shared object"), True),
        (caused(BundleError("OpenVINO cannot compile the network"), RuntimeError("std::bad_alloc")), True),
        (RuntimeError("can't start new thread"), True),
        (RuntimeError("Exception from plugin.cpp:54:\nResource temporarily unavailable\n"), True),
        (RuntimeError("Exception from plugin.cpp:54:\ncan't alloc\n"), True),
        (BundleError("network.onnx: is not ONNX"), False),
        (caused(BundleError("network.onnx: is not ONNX"), ValueError("wrong tag")), False),
    ],
)
def test_what_was_lacking_is_known_by_its_words(error, lacked):
    assert lacked_memory(error) == lacked


@pytest.mark.parametrize(
    ("left_mib", "says"), [(100, "needs at least 256 MiB of addresses"), (450, "too little memory to compile")]
)
def test_under_a_limit_of_the_process_memory_is_blamed_and_not_the_bundle(left_mib, says):
    code = f"""
import resource
from flare_runtime import segmenter
from flare_runtime.options import RunOptions
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + ({left_mib} << 20), resource.RLIM_INFINITY))
try:
    segmenter.Segmenter.load(options=RunOptions(device="cpu", backend="openvino"))
except Exception as error:
    print(type(error).__name__, error.exit_code, error)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("DeviceError 5 ")
    assert says in ran.stdout
    assert "ulimit -v" in ran.stdout


def test_a_command_that_runs_out_of_memory_says_so(capfd):
    def run():
        return len(bytearray(1 << 62))

    assert exit_code_of("flare-some", run) == 5
    said = capfd.readouterr().err
    assert said.startswith("flare-some: too little memory (MemoryError: ); close other programs")
    assert said.count("\n") == 1
