"""The run of `flare-infer`: a model, its cases one after the other, what is said of them, and the report."""

import argparse
import logging
import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import replace

from flare_runtime.backends.selection import choose
from flare_runtime.errors import DeviceError, FlareError, UsageError
from flare_runtime.files.commit_lock import committing
from flare_runtime.files.output import check_folder
from flare_runtime.files.target import check_targets
from flare_runtime.files.temporary import remove_ours, sweep
from flare_runtime.model.bundle import Bundle, default_bundle
from flare_runtime.options import RunOptions
from flare_runtime.program.interruption import Interruption
from flare_runtime.program.terminal import clear_line, say, say_lines
from flare_runtime.run.case_work import CaseWork
from flare_runtime.run.cases import find_cases
from flare_runtime.run.commit import alone_in, commits_made
from flare_runtime.run.journal import Journal
from flare_runtime.run.record import CaseRecord, is_report
from flare_runtime.run.supervision import supervise
from flare_runtime.segmenter import Segmenter

SOME_FAILED = 4
# How long the report of an interrupted run waits for what should take no time.
_MOMENT_S = 0.3


class RunLoop:
    """One run.

    Args:
        args: of the command line.
        interruption: is given the last words of a run that is ended by a signal.
    """

    def __init__(self, args: argparse.Namespace, interruption: Interruption) -> None:
        self.args = args
        options = _options_of(args)
        self._choice = choose(Bundle.open(args.model or default_bundle()), options)
        self._segmenter = None if self._choice.on_gpu else Segmenter.open(self._choice, wait=False)
        self.cases = find_cases(args.input, args.output, len(self._choice.bundle.manifest.channels))
        level = logging.getLogger("flare_runtime").level
        self._work = CaseWork(args, self._choice, self.cases[0].mask, len(self.cases), level)
        if args.report:
            self._check_report()
        self.journal = Journal(args.report, self.cases)
        self._commits_before = commits_made()
        interruption.last_words = [(self._give_report, 1.0), (self._clean_up, 0.2), (self._say_goodbye, 0.2)]

    def run(self) -> int:
        """Segment the cases and return the exit code."""
        try:
            for record in self._results():
                self.journal.add(record)
                self._tell(record)
        finally:
            self.journal.write()
        if self.journal.failed:
            say(f"{self.journal.failed} of {self.journal.count} case(s) not done")
        return SOME_FAILED if self.journal.failed else 0

    def _results(self) -> Iterator[CaseRecord]:
        if self._choice.on_gpu:
            try:
                yield from supervise(self._work, self.cases)
                return
            except DeviceError as error:
                if self.args.device != "auto" or self.journal.count:
                    raise
                say(f"flare-infer: {error}; going on on the CPU")
        segmenter = self._segmenter
        if segmenter is None:
            options = replace(self._choice.options, device="cpu")
            segmenter = Segmenter.load(self._choice.bundle, options, wait=False)
        yield from self._work.segment(segmenter, self.cases)

    def _check_report(self) -> None:
        report, cases = self.args.report, self.cases
        results = {path.name for case in cases for path in (case.mask, case.record, case.stale)}
        if report.name in results and report.parent.resolve() == cases[0].mask.parent.resolve():
            raise UsageError("the report would replace a result")
        check_targets([report], [image for case in cases for image in case.images.values()], over=is_report)
        check_folder(report.parent)

    def _tell(self, record: CaseRecord) -> None:
        if record.status != "done" or not self.args.quiet:
            say(record.line)
        if not self.args.verbose:
            return
        if record.timings_s:
            say("  " + ", ".join(f"{stage} {seconds:.3f} s" for stage, seconds in record.timings_s.items()))
        for lesion in record.lesions or []:
            say(f"  lesion of label {lesion.label}: {lesion.volume_ml:.3f} ml about voxel {lesion.centre} (z, y, x)")
        if record.traceback:
            say_lines(record.traceback)

    def _give_report(self, _word: str) -> None:
        if committing.acquire(timeout=_MOMENT_S):
            # What was committed just now may not have come to the journal yet.
            until = time.monotonic() + _MOMENT_S
            while self.journal.done < commits_made() - self._commits_before and time.monotonic() < until:
                time.sleep(0.001)
        with alone_in(self.cases[0].mask.parent, _MOMENT_S):  # no worker is between a mask and its record
            for worker in multiprocessing.active_children():
                worker.kill()
                worker.join(_MOMENT_S)
        try:
            self.journal.write()
        except FlareError as error:
            say(f"flare-infer: {error}")

    def _clean_up(self, _word: str) -> None:
        remove_ours()
        sweep(self.cases[0].mask.parent)  # what a worker has left

    def _say_goodbye(self, word: str) -> None:
        clear_line()
        say(f"flare-infer: {word}; finished cases are kept")


def _options_of(args: argparse.Namespace) -> RunOptions:
    limits = {"gpu_memory_mib": args.gpu_memory, "max_voxels": args.max_voxels}
    return RunOptions(
        device=args.device,
        backend=args.backend,
        precision=args.precision,
        step=args.step,
        tta=args.tta,
        crop=args.crop,
        any_intensity=args.any_intensity,
        threads=args.threads,
        keep_header_text=args.keep_header_text,
        **{name: limit for name, limit in limits.items() if limit is not None},
    )
