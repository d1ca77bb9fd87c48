"""Runs a session as the command line of `flare-infer` says, and prints what becomes of its cases."""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from flare_runtime.cases.input_rules import InputRules
from flare_runtime.errors import FlareError, UsageError
from flare_runtime.files.naming import visible
from flare_runtime.files.temporary import sweep_this_machine
from flare_runtime.options import RunOptions
from flare_runtime.program.duration import duration
from flare_runtime.program.interruption import Interruption
from flare_runtime.program.terminal import WaitingLine, clear_line, say, say_lines
from flare_runtime.run.events import CaseKept, CaseProgress, DeviceFallback, Event, Listener, NetworkReady
from flare_runtime.run.journal import Journal
from flare_runtime.run.record import CaseRecord
from flare_runtime.run.session import Session, SessionBase

if TYPE_CHECKING:
    from flare_runtime.run.resume import ResumeRules

SOME_FAILED = 4


def open_here(args: argparse.Namespace, listener: Listener) -> SessionBase:
    """Return the session of a command line, which segments with this machine."""
    return Session(args.model, options_of(args), listener=listener)


class Command:
    """One call of `flare-infer`, whose inputs and outputs are checked when it is made.

    Args:
        args: the parsed command line.
        command: the command line itself, for the report.
        interruption: gets what a signal that ends the run calls; None where the caller handles signals.
        open_session: opens the session of the command line, and is given what is to be called with events.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        command: Sequence[str],
        interruption: Interruption | None,
        open_session: Callable[[argparse.Namespace, Listener], SessionBase] = open_here,
    ) -> None:
        self._args = args
        self._places: set[NetworkReady] = set()
        self._bar: Any = None
        self._bar_case = ""
        self._begun_s = time.monotonic()
        self._interruption = interruption
        self._waiting = WaitingLine("flare-infer: preparing the network and the first case ...")
        sweep_this_machine()
        self._session = open_session(args, self._on_event)
        self._run = self._session.run(
            args.input,
            args.output,
            report=args.report,
            lesions=args.lesions,
            command=command,
            resume=resume_rules_of(args),
            input_rules=InputRules(args.recursive, args.shard),
        )
        if interruption is not None:
            interruption.final_steps = [(self._stop, 1.0), (self._clean_up, 0.2), (self._print_ending, 0.2)]
            interruption.finish = self._finish

    def run(self) -> int:
        """Segment the cases and return the exit code."""
        with self._waiting, closing(iter(self._run)) as records:
            for record in records:
                self._print_record(record)
        journal = self._run.journal
        self._print_kept(journal)
        if not self._run.cases and not self._args.quiet:
            say("flare-infer: no case is in shard {}/{}".format(*self._args.shard))
        if journal.failed:
            say(f"{journal.failed} of {journal.count} case(s) not done")
        left = len(self._run.cases) - journal.count - journal.kept
        if left and self._interruption and (number := self._interruption.warned_by):
            say(f"flare-infer: preempted; {left} case(s) are left")
            return 128 + number
        return SOME_FAILED if journal.failed or journal.kept_failed else 0

    def _print_kept(self, journal: Journal) -> None:
        hashed = self._args.verify_hashes
        how = "by their SHA-256" if hashed else "by size and time of change; --verify-hashes reads them"
        if (done := journal.kept - journal.kept_failed) and not self._args.quiet:
            say(f"{done} case(s) were done by other runs (files compared {how})")
        if journal.kept_of and not self._args.quiet:
            versions = ", ".join(sorted(journal.kept_of))
            say(f"{journal.kept_of.total()} of them by another version of flare-lite: {versions}; they stay")
        if journal.kept_failed and (rules := resume_rules_of(self._args)):
            most, again = f"--max-tries ({rules.max_tries})", "--resume-failed tries them again, up to"
            advice = f"{most} is reached" if rules.failed_too else f"{again} {most}"
            say(f"{journal.kept_failed} case(s) were refused or failed in other runs; {advice}")

    def _on_event(self, event: Event) -> None:
        if isinstance(event, DeviceFallback):
            say(f"flare-infer: {event.reason}; going on on the CPU")
        elif isinstance(event, NetworkReady):
            self._announce(event)
        elif isinstance(event, CaseKept):
            if self._args.verbose:
                say(f"{event.case}: {event.status} by another run" + (f" ({event.reason})" if event.reason else ""))
        elif not self._args.quiet:
            self._show_progress(event)

    def _announce(self, place: NetworkReady) -> None:
        self._waiting.end()
        if place in self._places or self._args.quiet:
            return
        if not self._places:
            self._begun_s = time.monotonic()
        self._places.add(place)
        manifest = self._session.bundle.manifest
        where = f"{place.device} ({place.backend}, {place.precision})"
        say(f"{manifest.name} on {where}, {len(self._run.cases)} case(s)")
        if manifest.caution:
            say(f"caution: {manifest.caution}")

    def _show_progress(self, progress: CaseProgress) -> None:
        # One bar, of the case whose tile is done first where there is none; records end it in between.
        if self._bar is None and progress.done < progress.total and sys.stderr.isatty():
            from tqdm import tqdm

            name = "; ".join([*self._cohort(), visible(progress.case)])
            self._bar = tqdm(desc=name, unit="tile", total=progress.total, leave=False)
            self._bar_case = progress.case
        if self._bar is not None and self._bar_case == progress.case:
            self._bar.update(progress.done - self._bar.n)
            if progress.done == progress.total:
                self._end_bar()

    def _cohort(self) -> list[str]:
        """Return how far a run over several cases is, and how fast by the cases of its own; nothing of one case."""
        journal, count = self._run.journal, len(self._run.cases)
        if count == 1:
            return []
        settled = journal.count + journal.kept
        words = [f"{settled:,} of {count:,} cases"]
        if journal.failed:
            words.append(f"{journal.failed:,} not done")
        if journal.count:
            case_s = (time.monotonic() - self._begun_s) / journal.count
            words += [f"{3600 / case_s:,.0f} an hour", f"{duration((count - settled) * case_s)} left"]
        return [", ".join(words)]

    def _end_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _print_record(self, record: CaseRecord) -> None:
        self._waiting.end()
        self._end_bar()
        if record.status != "done" or not self._args.quiet:
            say(record.line)
        if not self._args.verbose:
            return
        if record.timings_s:
            say("  " + ", ".join(f"{stage} {seconds:.3f} s" for stage, seconds in record.timings_s.items()))
        for lesion in record.lesions or []:
            say(f"  lesion of label {lesion.label}: {lesion.volume_ml:.3f} ml about voxel {lesion.centre} (z, y, x)")
        if record.traceback:
            say_lines(record.traceback)

    def _finish(self) -> None:
        self._run.finish()
        say("flare-infer: told to end soon; no further case is begun, those in work are finished")

    def _stop(self, _word: str) -> None:
        try:
            self._run.stop()
        except FlareError as error:
            say(f"flare-infer: {error}")

    def _clean_up(self, _word: str) -> None:
        self._run.clean_up()

    def _print_ending(self, word: str) -> None:
        clear_line()
        others = "; --resume does the others" if len(self._run.cases) > 1 and options_of(self._args).records else ""
        say(f"flare-infer: {word}; finished cases are kept{others}")


def resume_rules_of(args: argparse.Namespace) -> "ResumeRules | None":
    """Return how a run resumes others, if the command line says that it does.

    Raises:
        UsageError: where it only says how.
    """
    if not (args.resume or args.resume_failed):
        for name in ("max_tries", "verify_hashes"):
            if getattr(args, name):
                raise UsageError(f"--{name.replace('_', '-')} goes with --resume or --resume-failed alone")
        return None
    from flare_runtime.run.resume import DEFAULT_MAX_TRIES, ResumeRules

    return ResumeRules(args.resume_failed, args.max_tries or DEFAULT_MAX_TRIES, args.verify_hashes)


def options_of(args: argparse.Namespace) -> RunOptions:
    """Return the options that a command line gives, with the defaults of those that it leaves out."""
    names = {field.name for field in fields(RunOptions)}
    return RunOptions(**{name: value for name, value in vars(args).items() if name in names and value is not None})
