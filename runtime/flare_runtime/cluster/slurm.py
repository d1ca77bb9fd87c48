"""Job arrays of workers, by submitit: on SLURM, or as processes of this machine."""

import sys
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import submitit
from submitit.core.utils import FailedJobError, UncompletedJobError

from flare_runtime.cluster.array_task import ArrayTask
from flare_runtime.errors import UsageError

ExecutorName = Literal["slurm", "local", "debug"]
# Of one task, at which it is queued again: enough for any cohort, and an end where no case fits into a task's time.
_MOST_TIMEOUTS = 100
# What submitit's local executor leaves between its signal and the end.
_LOCAL_DELAY_S = 30
# Of the time between the signal and the end: for dropping the case, and for queueing the task again.
_MARGIN_S = 15


@dataclass(frozen=True)
class ArrayOptions:
    """What a job array asks for.

    Attributes:
        tasks: how many workers.
        executor: submitit's.
        time_min: of one task, at the end of which it is queued again.
        signal_delay_s: so long before it is told to end.
        log_folder: for what the workers say, and for submitit's files; all machines have to see it.
        partition, cpus, gpus, memory_gb: of a task; the cluster's own where None.
        parallelism: how many tasks run at once at most.
        sbatch: other options of sbatch by name; True for those that have no value.
    """

    tasks: int
    executor: ExecutorName
    time_min: int
    signal_delay_s: int
    log_folder: Path
    partition: str | None = None
    cpus: int | None = None
    gpus: int | None = None
    memory_gb: float | None = None
    parallelism: int | None = None
    sbatch: dict[str, str | bool] = field(default_factory=dict)


def submit(words: Sequence[str], options: ArrayOptions) -> "list[submitit.Job[int]]":
    """Submit workers as one job array, and return a job for each.

    Args:
        words: the command line of a worker, without the program.
        options: of the array.

    Raises:
        UsageError: where the scheduler refuses it.
    """
    delay_s = options.signal_delay_s if options.executor == "slurm" else _LOCAL_DELAY_S
    command = (sys.executable, "-m", "flare_runtime", *words)
    tasks = [ArrayTask(command, str(Path.cwd()), max(delay_s - _MARGIN_S, 1)) for _ in range(options.tasks)]
    limits = {f"{name}_max_num_timeout": _MOST_TIMEOUTS for name in ("slurm", "local")}
    array = submitit.AutoExecutor(options.log_folder, cluster=options.executor, **limits)
    array.update_parameters(**_parameters(options))
    try:
        with redirect_stderr(StringIO()):  # on which submitit repeats what sbatch says
            return array.submit_array(tasks)
    except FailedJobError as error:
        raise UsageError(f"the job array was refused ({'; '.join(str(error).splitlines())})") from error


def _parameters(options: ArrayOptions) -> dict[str, Any]:
    return {
        "name": "flare-infer",
        "timeout_min": options.time_min,
        "cpus_per_task": options.cpus,
        "gpus_per_node": options.gpus,
        "mem_gb": options.memory_gb,
        "slurm_partition": options.partition,
        "slurm_array_parallelism": options.parallelism,
        "slurm_signal_delay_s": options.signal_delay_s,
        "slurm_additional_parameters": options.sbatch or None,
        # Which srun has not taken from its job since SLURM 22.05.
        "slurm_srun_args": options.cpus and [f"--cpus-per-task={options.cpus}"],
    }


def exit_codes(jobs: "Sequence[submitit.Job[int]]") -> list[int]:
    """Wait for jobs and return the exit codes of their workers; 1 where a task did not come to its end."""
    return [_exit_code(job) for job in jobs]


def _exit_code(job: "submitit.Job[int]") -> int:
    try:
        return job.result()
    except (FailedJobError, UncompletedJobError):  # it never began, as where the machine lacks this package
        return 1
