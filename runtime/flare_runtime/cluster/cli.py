"""The command `flare-infer slurm`, by which a cluster starts workers that share the cases of one output."""

import argparse
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING

from flare_runtime.arguments import parse_args
from flare_runtime.errors import UsageError
from flare_runtime.files.output import check_folder
from flare_runtime.program.command_line import above_zero, exit_code_of, path_of, positive, skip_model_converter
from flare_runtime.program.terminal import WaitingLine, print_line

if TYPE_CHECKING:
    from submitit import Job

    from flare_runtime.cluster.slurm import ArrayOptions, ExecutorName

_DESCRIPTION = (
    "Submit a job array to SLURM, each task of which is flare-infer --resume with these options. They share the cases."
)
# How long a task may take, by executor: a scheduler finds room sooner for short ones, and they are queued again.
_TIME_MIN = {"slurm": 60, "local": 10_000, "debug": 10_000}


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code; the first word is its name."""
    words = argv[1:]
    program = f"flare-infer {argv[0]}"
    args = parse_args(words, program, _DESCRIPTION, _add_array)
    return exit_code_of(program, lambda: _slurm(args, words), extra="slurm")


def _add_array(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("job array").add_argument
    add("--tasks", type=positive, required=True, metavar="N", help="how many workers")
    add("--partition", metavar="P", help="of the cluster")
    add(
        "--time",
        type=positive,
        metavar="MIN",
        help="of one task, which is then queued again and goes on (default: {slurm})".format(**_TIME_MIN),
    )
    add("--gpus-per-task", type=positive, metavar="G", help="(default: none)")
    add("--cpus-per-task", type=positive, metavar="C", help="(default: the cluster's)")
    add("--mem", type=above_zero, metavar="GB", help="of one task (default: the cluster's)")
    add("--array-parallelism", type=positive, metavar="K", help="let at most so many tasks run at once (default: 256)")
    add(
        "--signal-delay",
        type=positive,
        default=120,
        metavar="S",
        help="warn a task so long before its end, in which it finishes its case or drops it (default: %(default)s)",
    )
    add(
        "--sbatch",
        type=_sbatch_option,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="another option of sbatch, such as account=lab; can be given several times",
    )
    add(
        "--log-folder",
        type=path_of,
        default="flare-slurm",
        metavar="DIR",
        help="for what the tasks say; all machines have to see it (default: %(default)s)",
    )
    add(
        "--executor",
        choices=[*_TIME_MIN],
        help="local: processes of this machine; debug: one after the other in this one (default: slurm)",
    )
    add("--wait", action="store_true", help="wait for all tasks, and return the worst of their exit codes")


def _sbatch_option(text: str) -> tuple[str, str | bool]:
    """Read an option of sbatch without its dashes; one without a value is a flag."""
    name, equals, value = text.partition("=")
    if not name or name.startswith("-"):
        raise argparse.ArgumentTypeError(f"{text}: write NAME=VALUE, such as account=lab")
    return name, value if equals else True


def _slurm(args: argparse.Namespace, words: Sequence[str]) -> int:
    from flare_runtime.cluster.slurm import exit_codes, submit  # before anything is looked at: submitit may be missing

    options = _array_options(args)
    _check_run(args)
    check_folder(options.log_folder)
    jobs = submit(_words_of_worker(args, words), options)
    if options.executor != "debug":
        _print_jobs(jobs, options, args)
        if not args.wait:
            return 0
    return max(exit_codes(jobs), key=lambda code: (code != 0, code != 4, code))


def _array_options(args: argparse.Namespace) -> "ArrayOptions":
    from flare_runtime.cluster.slurm import ArrayOptions

    has_slurm = shutil.which("sbatch") and shutil.which("srun")
    if args.executor in (None, "slurm") and not has_slurm:
        raise UsageError("this machine has no sbatch and srun; submit where they are, or give --executor local")
    executor: ExecutorName = args.executor or "slurm"
    time_min = args.time or _TIME_MIN[executor]
    if args.signal_delay >= 60 * time_min:
        raise UsageError(f"--signal-delay {args.signal_delay} is in seconds; it must be less than --time {time_min}")
    return ArrayOptions(
        args.tasks,
        executor,
        time_min,
        args.signal_delay,
        args.log_folder,
        args.partition,
        args.cpus_per_task,
        args.gpus_per_task,
        args.mem,
        args.array_parallelism,
        dict(args.sbatch),
    )


def _check_run(args: argparse.Namespace) -> None:
    """Refuse what every worker would refuse, but for its device: that of this machine is another one."""
    if args.report or args.lesions:
        raise UsageError("--report and --lesions are of one process alone; flare-infer merge makes tables of all cases")
    skip_model_converter()
    from flare_runtime.command import Command

    on_cpu = {"device": "cpu", "backend": "auto", "precision": "auto", "resume": True}
    with WaitingLine(f"flare-infer slurm: looking at the model and at {args.input} ..."):
        Command(argparse.Namespace(**{**vars(args), **on_cpu}), (), None)


def _words_of_worker(args: argparse.Namespace, words: Sequence[str]) -> list[str]:
    """Return the words without those that are for the array; all together were found to be right."""
    of_array = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    _add_array(of_array)
    of_run = of_array.parse_known_args(words)[1]
    return of_run if args.resume or args.resume_failed else ["--resume", *of_run]


def _print_jobs(jobs: "Sequence[Job[int]]", options: "ArrayOptions", args: argparse.Namespace) -> None:
    numbers = [job.job_id for job in jobs]
    if options.executor == "slurm":
        array = numbers[0].partition("_")[0]
        print_line(f"submitted job {array}: {len(jobs)} task(s), which log to {options.log_folder}")
        print_line(f"  to see them:      squeue --job {array}")
        print_line(f"  to end them:      scancel {array}")
    else:
        print_line(f"started {len(jobs)} task(s) on this machine, which log to {options.log_folder}")
        print_line(f"  to end them:      kill -INT {' '.join(numbers)}")
    print_line(f"  to see the cases: flare-infer status {args.output}")
