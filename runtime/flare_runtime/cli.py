"""The command line of `flare-infer`, which segments a CT or a folder of them."""

# Nothing heavy is imported before `main` handles signals.
from __future__ import annotations

import sys

from flare_runtime.program.interruption import Interruption
from flare_runtime.program.terminal import WaitingLine, open_streams, say

TYPE_CHECKING = False  # of `typing`
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from flare_runtime.run.events import Listener
    from flare_runtime.run.session import SessionBase

# What can be asked in place of segmenting.
QUESTIONS = ("list", "info", "doctor", "check", "completion")
# What can be asked of a folder of results.
COHORT_QUESTIONS = ("status", "merge")
# What has a cluster do it: by jobs that go on by themselves, or by actors that this program directs.
CLUSTERS = ("slurm", "ray")
COMMANDS = (*QUESTIONS, *COHORT_QUESTIONS, *CLUSTERS)


def may_need_worker(device: str) -> bool:
    """Whether a device that a person named may be a GPU, without a look at what is installed, which takes longer."""
    from pathlib import Path

    return device.startswith("cuda") or (device == "auto" and Path("/dev/nvidiactl").exists())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Called with arguments, as by a notebook, it leaves signals to the caller: Ctrl-C ends the run, not the process.
    """
    open_streams()  # before anything else is opened
    words = sys.argv[1:] if argv is None else argv
    command = words[0] if words else ""
    if command == "slurm":  # submitit handles signals of its own
        from flare_runtime.cluster.cli import main as submit

        return submit(words)
    is_question = command in (*QUESTIONS, *COHORT_QUESTIONS)
    interruption = _minding(f"flare-infer {command}" if is_question else "flare-infer") if argv is None else None
    if command in QUESTIONS:
        from flare_runtime.introspection.cli import main as answer

        return answer(words)
    if command in COHORT_QUESTIONS:
        from flare_runtime.cohort.cli import main as look

        return look(words)
    return _main(words, interruption)


def _minding(program: str) -> Interruption:
    """Mind signals from here on: what there is of temporary files is removed, and a line says why the program ends."""
    interruption = Interruption()
    interruption.final_steps = [(_remove_temporaries, 0.5), (lambda word: say(f"{program}: {word}"), 0.5)]
    interruption.begin()
    return interruption


def _remove_temporaries(_word: str) -> None:
    from flare_runtime.files.temporary import remove_ours

    remove_ours()


def _main(words: Sequence[str], interruption: Interruption | None) -> int:
    import logging

    from flare_runtime.arguments import FLARE, parse_args
    from flare_runtime.program.command_line import exit_code_of, log_to_stderr, skip_model_converter, skip_pydicom

    on_ray = bool(words) and words[0] == "ray"
    args = _parse_ray_args(words[1:]) if on_ray else parse_args(words, commands=COMMANDS)
    level = logging.INFO if args.verbose else logging.ERROR if args.quiet else logging.WARNING
    log_to_stderr("flare_runtime", level)
    skip_model_converter()
    if interruption is not None:  # the program, and no notebook
        skip_pydicom()

    if args.flare and not args.quiet:
        say(f"flare-infer: --flare sets {FLARE}, where nothing else is given")

    def run() -> int:
        if may_need_worker(args.device) and not on_ray:
            from flare_runtime.run.worker_server import start_early

            start_early()  # before the imports here, which take as long as those there
        with WaitingLine(f"flare-infer: looking at the model and at {args.input} ..."):
            from flare_runtime.command import Command, open_here

            open_session = _open_on_ray if on_ray else open_here
            checked = Command(args, ("flare-infer", *words), interruption, open_session)
        return checked.run()

    return exit_code_of("flare-infer", run)


def _open_on_ray(args: argparse.Namespace, listener: Listener) -> SessionBase:
    from flare_runtime.cluster.ray_session import open_session

    return open_session(args, listener)


def _parse_ray_args(words: Sequence[str]) -> argparse.Namespace:
    from flare_runtime.arguments import parse_args
    from flare_runtime.cluster.ray_options import DESCRIPTION, add_group

    return parse_args(words, "flare-infer ray", DESCRIPTION, add_group)


if __name__ == "__main__":
    sys.exit(main())
