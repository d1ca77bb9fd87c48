"""Measures what commands cost a case: each in a fresh process as the challenge runs it, several methods in turn."""

import os
import platform
import shlex
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir
from typing import Literal

from flare_eval.efficiency.gpu import GpuMeter
from flare_eval.efficiency.process import INTERVAL_S, measure
from flare_eval.results import Efficiency, RunCost
from flare_runtime.cases.case import Case
from flare_runtime.cases.finding import find_cases
from flare_runtime.errors import CaseError, UsageError
from flare_runtime.files.naming import visible
from flare_runtime.files.output import check_folder, replacing
from flare_runtime.files.temporary import temporary_folder
from flare_runtime.imaging.file_names import mask_name, split_channel
from flare_runtime.imaging.plausibility import ANY_SPACING
from flare_runtime.imaging.read import read_volume

Memory = Literal["device_mib", "host_mib"]
MEMORIES: tuple[Memory, ...] = ("device_mib", "host_mib")
Progress = Callable[[Iterable[Case], int], Iterable[Case]]

ALL_CASES = "all"
_CAUSE_LINES = 3
_ONE_FILE = ("{input_file}", "{output_file}")
_FOLDERS = ("{input}", "{output}")


@dataclass(frozen=True)
class Method:
    """A command to measure.

    Attributes:
        name: in tables; also the name of its folder of results.
        command: its arguments, holding `{input}` and `{output}` (folders, of one image in a cold run) or
            `{input_file}` and `{output_file}`.
        whole_machine: measure the machine's memory and processors in place of the command's own processes, for
            commands whose work is done by a daemon.
    """

    name: str
    command: tuple[str, ...]
    whole_machine: bool = False

    @property
    def takes_one_file(self) -> bool:
        """Whether the command cannot be given a folder."""
        return not any(_FOLDERS[0] in argument for argument in self.command)

    @classmethod
    def parse(cls, text: str) -> "Method":
        """Read NAME=COMMAND LINE.

        Raises:
            UsageError: where the name or the placeholders are missing, or there is no such program.
        """
        name, separator, line = text.partition("=")
        if not separator or not name or not set(name).isdisjoint("/ {|"):
            raise UsageError(f"{text!r}: give NAME=COMMAND, the name without spaces and slashes")
        if not any(source in line and target in line for source, target in (_FOLDERS, _ONE_FILE)):
            raise UsageError(f"{name}: the command must hold {{input}} and {{output}}, or {' and '.join(_ONE_FILE)}")
        command = shlex.split(line)
        if shutil.which(command[0]) is None:
            raise UsageError(f"{name}: there is no program {command[0]!r}")
        return cls(visible(name), tuple(command))

    @classmethod
    def docker(cls, image: str, gpu: int) -> "Method":
        """Return the challenge's own command line for an image such as `team:latest`."""
        name = image.split("/")[-1].split(":")[0]
        limits = ("--gpus", f"device={gpu}", "-m", "28G", "--shm-size=28gb", "--name", name, "--rm")
        volumes = ("-v", "{input}/:/workspace/inputs/", "-v", "{output}/:/workspace/outputs/")
        if shutil.which("docker") is None:
            raise UsageError("there is no program 'docker'")
        command = ("docker", "container", "run", *limits, *volumes, image, "/bin/bash", "-c", "sh predict.sh")
        return cls(name, command, whole_machine=True)

    def arguments(self, source: Path, target: Path) -> list[str]:
        """Return the command for the image or images in folder `source`, the masks going to folder `target`."""
        images = sorted(source.iterdir())
        mask = target / mask_name(split_channel(images[0].name)[0])
        paths = {"{input}": source, "{output}": target, "{input_file}": images[0], "{output_file}": mask}
        filled = []
        for argument in self.command:
            for placeholder, path in paths.items():
                argument = argument.replace(placeholder, str(path))
            filled.append(argument)
        return filled


def measure_methods(
    methods: Sequence[Method],
    images: Path,
    output: Path,
    *,
    warm: bool = False,
    gpu: GpuMeter | None = None,
    progress: Progress = lambda cases, _count: cases,
) -> list[Efficiency]:
    """Run every method on every case in a fresh process, in turn (A B A B), and keep masks and costs.

    Args:
        methods: what to run.
        images: a folder of <case>_0000.nii.gz.
        output: gets <method>/masks/<case>.nii.gz.
        warm: afterwards also run each method once over all cases; not those that take one file.
        gpu: the GPU to watch.
        progress: wraps the cases, for a progress bar.

    Raises:
        UsageError: where there is no image.
        OutputError: where a mask cannot or must not be written.
    """
    for method in methods:
        check_folder(output / method.name / "masks")
        cases = find_cases(images, output / method.name / "masks", channels=1)
    if any(case.places != case.files for case in cases):
        raise UsageError(f"{images}: commands are measured on NIfTI files; convert the DICOM series")
    results = {
        method.name: Efficiency(
            method=method.name, command=list(map(visible, method.command)), machine=machine(gpu), runs=[]
        )
        for method in methods
    }
    for case in progress(cases, len(cases)):
        for method in methods:
            results[method.name].runs.append(_run(method, [case], output / method.name / "masks", gpu))
    if warm:
        for method in (method for method in methods if not method.takes_one_file):
            results[method.name].warm = _run(method, cases, output / method.name / "masks", gpu)
    return list(results.values())


def _run(method: Method, cases: Sequence[Case], masks: Path, gpu: GpuMeter | None) -> RunCost:
    with temporary_folder(Path(gettempdir())) as scratch:
        source, target = scratch / "inputs", scratch / "outputs"
        source.mkdir()
        target.mkdir()
        for case in cases:
            (masks / case.mask.name).unlink(missing_ok=True)  # an older run's must not pass for this one's
            for path in case.files:
                # Copies, since a container sees this folder and nothing else; made before the clock starts.
                shutil.copyfile(path, source / path.name)
        measured = measure(method.arguments(source, target), gpu=gpu, whole_machine=method.whole_machine)
        message = f"exit code {measured.exit_code}: {cause(measured.error_tail)}" if measured.exit_code else ""
        for case in cases:
            produced = target / case.mask.name
            if produced.is_file():
                with produced.open("rb") as mask, replacing(masks / produced.name) as copy:
                    shutil.copyfileobj(mask, copy)
            elif not message:
                message = f"left no {visible(produced.name)}"
    single = cases[0] if len(cases) == 1 else None
    return RunCost(
        case=single.name if single else ALL_CASES,
        image_size=_image_size(single) if single else None,
        exit_code=measured.exit_code,
        message=message,
        wall_s=round(measured.wall_s, 3),
        idle_device_mib=measured.idle_device_mib,
        samples=measured.samples,
    )


def _image_size(case: Case) -> tuple[int, ...] | None:
    try:
        return read_volume(case.sources[0], plausible=ANY_SPACING).shape[::-1]
    except CaseError:  # what cannot be read has no size; the command under test has said so in its own way
        return None


def cause(errors: str) -> str:
    """Return the last three lines of what a failed command printed on standard error, as one; frames do not count.

    Programs end with a summary as often as with the cause, which then stands before it.
    """
    lines = [line for line in errors.splitlines() if line[:1].strip() and not line.startswith("Traceback")]
    return visible("; ".join(lines[-_CAUSE_LINES:])) or "no message"


def values(run: RunCost, what: Memory) -> list[float] | None:
    """Return a run's samples of one kind of memory, MiB, or None where it was not measured."""
    levels = [getattr(sample, what) for sample in run.samples]
    return None if not levels or None in levels else levels


def peak(run: RunCost, what: Memory) -> float | None:
    """Return the largest sample, MiB."""
    levels = values(run, what)
    return None if levels is None else max(levels)


def official_area(run: RunCost, what: Memory) -> float | None:
    """Return the challenge's area under the memory-time curve, MiB s: a tenth of the sum of the samples, rounded.

    Its loop takes a little longer than the tenth of a second that each sample counts for, so this is below the true
    integral.
    """
    levels = values(run, what)
    return None if levels is None else float(round(INTERVAL_S * sum(levels)))


def integral(run: RunCost, what: Memory) -> float | None:
    """Return the integral of memory over the run's wall time by the trapezoid rule, MiB s."""
    levels = values(run, what)
    if levels is None:
        return None
    times = [0.0, *(sample.seconds for sample in run.samples), run.wall_s]
    levels = [levels[0], *levels, levels[-1]]
    steps = zip(times, times[1:], levels, levels[1:], strict=False)
    return float(sum((end - start) * (low + high) / 2 for start, end, low, high in steps))


def machine(gpu: GpuMeter | None) -> dict[str, str]:
    """Return what the measurement ran on: processor, cores, memory, system, GPU."""
    processor = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    )
    total_kib = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return {
        "processor": processor,
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{total_kib / 2**20:.0f} GiB",
        "system": platform.platform(),
        "gpu": gpu.name if gpu else "none",
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
