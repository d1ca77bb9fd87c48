"""Segments files as `flare-infer` does: a session is a model with its options, a run goes over cases with it."""

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from flare_runtime.backends.selection import choose
from flare_runtime.cases.case import Case
from flare_runtime.cases.case_list import names_urls
from flare_runtime.cases.finding import cases_in, find_cases
from flare_runtime.cases.input_rules import ALL_CASES, InputRules
from flare_runtime.cases.output_checks import check_outputs, files_known
from flare_runtime.cases.record_format import is_report
from flare_runtime.compute.device import device_names
from flare_runtime.errors import DeviceError, OutputError, UsageError
from flare_runtime.files.commit_lock import committing
from flare_runtime.files.output import check_folder
from flare_runtime.files.target import IsOurs, check_targets
from flare_runtime.files.temporary import remove_ours, sweep
from flare_runtime.model.bundle import Bundle, open_bundle
from flare_runtime.options import RunOptions
from flare_runtime.paths import as_path, is_url
from flare_runtime.run.before import lacked_room
from flare_runtime.run.commit import alone_in, commits_made
from flare_runtime.run.events import CaseKept, DeviceFallback, Listener
from flare_runtime.run.identity import Recipe
from flare_runtime.run.journal import Journal
from flare_runtime.run.lesion_table import is_table
from flare_runtime.run.queue import CaseQueue, ListedCases, Records
from flare_runtime.run.record import CaseRecord
from flare_runtime.run.work import CaseWork
from flare_runtime.segmenter import Segmenter

if TYPE_CHECKING:
    from flare_runtime.cases.stored_places import StoredPlaces
    from flare_runtime.run.claims import Claims, Kept
    from flare_runtime.run.resume import ResumeRules

# How long the report of a run that is ended by a signal waits for what should take no time.
_MOMENT_S = 0.3
# A disk that had no room for so many cases in a row has none for the others, which would be segmented in vain.
_WITHOUT_ROOM = 3
NO_RECORDS = "a run without records cannot be resumed, nor resume another; leave out --no-records"


def _ignore(_event: object) -> None:
    """Take an event, and do nothing."""


class SessionBase(ABC):
    """A model and its options, for runs over files: finds the cases and checks what is to be written.

    Attributes:
        bundle: the model.
    """

    def __init__(self, bundle: Bundle, options: RunOptions, listener: Listener) -> None:
        self.bundle = bundle
        self._options = options
        self._listener = listener

    @property
    def recipe(self) -> Recipe:
        """What decides its results beside the images."""
        return Recipe.of(self.bundle, self._options)

    def run(
        self,
        source: str | Path,
        target: str | Path,
        *,
        report: str | Path | None = None,
        lesions: str | Path | None = None,
        command: Sequence[str] = (),
        resume: "ResumeRules | None" = None,
        input_rules: InputRules = ALL_CASES,
    ) -> "Run":
        """Find the cases, check every output, and return a run that has not started.

        Args:
            source: an image, or a folder of them; or DICOM, or a list of cases, see `find_cases`; or the URL of these
                in a store.
            target: a folder for a folder; for a file another one, or a folder that exists or whose name ends in /; or
                its URL.
            report: a file for the JSON report of the whole run.
            lesions: a file for the CSV table of all lesions.
            command: the command line for the report, such as `sys.argv`.
            resume: leave what other runs have done with the same model, options and images, and share the rest with
                all workers that resume into the same target.
            input_rules: what of the source is taken.

        Raises:
            UsageError: where there is nothing to do, two inputs would write one output, something is no path, or the
                table no .csv file.
            OutputError: where an output cannot or must not be written.
        """
        places = None
        if is_url(source) or is_url(target) or names_urls(as_path(source, "the source")):
            from flare_runtime.cases.stored_places import places_of  # of use with stores alone

            source, target, places = places_of(source, target)
        cases = self._find(source, target, places, input_rules)
        report_path = None if report is None else as_path(report, "the report")
        table = None if lesions is None else as_path(lesions, "the table of lesions")
        if table is not None and table.suffix.lower() != ".csv":
            raise UsageError(f"{table}: the table of lesions is a .csv file; flare-infer merge writes Parquet too")
        for path, what, over in ((report_path, "report", is_report), (table, "table of lesions", is_table)):
            if path is not None:
                _check_report(path, what, over, cases)
        if report_path is not None and table is not None and report_path.resolve() == table.resolve():
            raise UsageError(f"{table}: is the report as well; give the table of lesions another name")
        journal = Journal(report_path, cases, command, table)
        return self._run_over(cases, journal, resume, places)

    def _find(
        self, source: str | Path, target: str | Path, places: "StoredPlaces | None", rules: InputRules
    ) -> Sequence[Case]:
        channels, options = len(self.bundle.manifest.channels), self._options
        probabilities, pictures = options.probabilities is not None, options.preview or options.page
        if places is not None:
            find = partial(cases_in, channels=channels, output_types=options.output_types, rules=rules)
            check = partial(check_outputs, probabilities=probabilities, pictures=pictures)
            return places.find(find, check, channels=channels, nested=rules.recursive)
        as_path(target, "the target")  # which drops a / at the end
        return find_cases(
            as_path(source, "the source"),
            target,
            channels,
            probabilities=probabilities,
            pictures=pictures,
            output_types=options.output_types,
            rules=rules,
        )

    @abstractmethod
    def _run_over(
        self,
        cases: Sequence[Case],
        journal: Journal,
        resume: "ResumeRules | None",
        places: "StoredPlaces | None" = None,
    ) -> "Run":
        """Return a run over cases, which has not started."""


class Session(SessionBase):
    """A model and its options, for any number of runs over cases.

    On a GPU a worker process segments the cases, and another takes its place where it dies; with several GPUs each has
    one, and takes the next case that waits. Where `options.device` is `auto` and no GPU can be used, the run continues
    on the CPU. Nothing is printed.

    Args:
        bundle: folder or zip made by `flare-export`, or one that is open already; the default model where None.
        options: what to run it on, and how; the defaults where None.
        listener: is called with every event; see `flare_runtime.run.events`.

    Raises:
        BundleError, DeviceError, UsageError: where the model cannot be run so.

    Example:
        >>> session = Session("models/default", RunOptions(crop="body"))
        >>> for record in session.run("scans", "masks", report="run.json"):
        ...     print(record.line)
    """

    def __init__(
        self,
        bundle: str | Path | Bundle | None = None,
        options: RunOptions | None = None,
        *,
        listener: Listener = _ignore,
    ) -> None:
        opened = open_bundle(bundle)
        names = device_names(options.device) if isinstance(options, RunOptions) else []
        each = [replace(options, device=name) for name in names] if options and len(names) > 1 else [options]
        self._choices = [choose(opened, one) for one in each]
        choice = self._choices[0]
        super().__init__(opened, choice.options, listener)
        self._segmenter = None if choice.on_gpu else Segmenter.open(choice, wait=False)

    def over(self, cases: CaseQueue | Sequence[Case], resume: "ResumeRules | None" = None) -> "Run":
        """Return a run over cases whose outputs have been checked, or a queue of them, which has not started."""
        if isinstance(cases, CaseQueue):
            queue, journal = cases, Journal(None, ())
            return Run((), journal, queue, lambda: self._segment(queue, journal, self.recipe))
        return self._run_over(cases, Journal(None, cases), resume)

    def _run_over(
        self,
        cases: Sequence[Case],
        journal: Journal,
        resume: "ResumeRules | None",
        places: "StoredPlaces | None" = None,
    ) -> "Run":
        recipe, claims, given_up = self.recipe, None, deque[CaseRecord]()
        if resume is None:
            queue: CaseQueue = ListedCases(cases)
        elif self._options.records:
            from flare_runtime.run.shared import SharedCases  # of use where a run resumes another

            def on_kept(kept: "Kept") -> None:
                journal.keep(kept)
                self._listener(CaseKept(kept.case.name, kept.status, kept.reason, kept.message))

            claims = _claims_of(resume, recipe, places)
            queue = SharedCases(cases, claims, on_kept, given_up.append)
        else:
            raise UsageError(NO_RECORDS)
        if places is not None:
            from flare_runtime.run.stored_cases import StoredCases

            queue = StoredCases(queue, places, claims)
        records = queue.own(self._segment(queue, journal, recipe))
        return Run(cases, journal, queue, lambda: _with_others(records, given_up))

    def _segment(self, queue: CaseQueue, journal: Journal, recipe: Recipe) -> Records:
        works = [CaseWork(choice, len(self._choices)) for choice in self._choices]
        if self._segmenter is None:
            from flare_runtime.run.supervision import supervise  # slow to import, and of use on GPUs alone

            try:
                yield from supervise(works, queue, self._listener, recipe, with_records=self._options.records)
                return
            except DeviceError as error:
                if self._options.device != "auto" or journal.count:
                    raise
                self._segmenter = self._on_cpu_after(error)
                self._listener(DeviceFallback(str(error)))
        yield from works[0].segment(self._segmenter, queue, self._listener)

    def _on_cpu_after(self, error: DeviceError) -> Segmenter:
        try:
            return Segmenter.load(self.bundle, replace(self._options, device="cpu"), wait=False)
        except UsageError:  # the CPU has not what was asked for
            raise error from None


def _claims_of(resume: "ResumeRules", recipe: Recipe, places: "StoredPlaces | None") -> "Claims":
    if places is None:
        from flare_runtime.run.claims import Claims

        return Claims(resume, recipe)
    from flare_runtime.run.stored_claims import claims_of

    return claims_of(resume, recipe, places)


class Run:
    """One run over cases, which is done by iterating over it once.

    It yields the record of every case as soon as its mask is written, or the case is refused or has failed. The report
    is written at the end, whatever ends the run.

    Attributes:
        cases: what is segmented, in this order.
        journal: the number of cases so far, and of those that failed.
    """

    def __init__(
        self, cases: Sequence[Case], journal: Journal, queue: CaseQueue, segment: Callable[[], Records]
    ) -> None:
        self.cases = cases
        self.journal = journal
        self._queue = queue
        # Its frame holds no run, so that a run that is left and forgotten is closed at once.
        self._records = _noted(segment, journal, queue)
        self._commits_before = commits_made()

    def __iter__(self) -> Generator[CaseRecord, None, None]:
        """Return the iterator over the records, the same at every call.

        Raises:
            DeviceError, BundleError: from the iterator, where no further case can be segmented.
            OutputError: from the iterator, where the report cannot be written, or the disk is full.
        """
        return self._records

    def finish(self) -> None:
        """Begin with no further case, and end with those that are in work; for another thread."""
        self._queue.finish()

    def stop(self) -> None:
        """End the workers and write the report; for another thread, before it ends this process.

        This takes less than a second, unless the disk does not respond.

        Raises:
            OutputError: where the report cannot be written.
        """
        from flare_runtime.run.worker import workers

        if committing.acquire(timeout=_MOMENT_S):
            # What was committed just now may not have come to the journal yet.
            until = time.monotonic() + _MOMENT_S
            while self.journal.done < commits_made() - self._commits_before and time.monotonic() < until:
                time.sleep(0.001)
        with ExitStack() as held:  # no worker is between a mask and its record
            for folder in self._folders_in_work():
                held.enter_context(alone_in(folder, _MOMENT_S))
            running = workers()
            for worker in running:
                worker.kill()
            for worker in running:
                worker.join(_MOMENT_S)
        self._queue.close()
        self.journal.write()

    def clean_up(self) -> None:
        """Remove the temporary files of this process and of workers that were ended."""
        remove_ours()
        for folder in self._folders_in_work():
            sweep(folder)

    def _folders_in_work(self) -> set[Path]:
        return {case.mask.parent for case in self._queue.in_work}


def _with_others(records: Records, others: deque[CaseRecord]) -> Records:
    """Yield records, and those of other cases as soon as there are any."""
    with closing(records):
        for record in records:
            yield record
            while others:
                yield others.popleft()
    yield from others


def _noted(segment: Callable[[], Records], journal: Journal, queue: CaseQueue) -> Records:
    without_room = 0
    try:
        with closing(segment()) as records:  # whose worker has ended before the report says what was not begun
            for record in records:
                journal.add(record)
                yield record
                without_room = without_room + 1 if lacked_room(record.reason, record.message) else 0
                if without_room >= _WITHOUT_ROOM and queue.left:
                    raise OutputError(f"{record.message}, as for the cases before; make room, then --resume goes on")
    finally:
        queue.close()
        journal.write()


def _check_report(report: Path, what: str, over: IsOurs, cases: Sequence[Case]) -> None:
    place = report.parent.resolve()
    of_folder = cache(lambda folder: folder.resolve() == place)
    # A result's name begins as its mask's does.
    alike = (case for case in cases if report.name[:1] == case.mask.name[:1] and of_folder(case.mask.parent))
    for case in alike:
        sides = (side.path for side in case.side_files)
        if report.name in (path.name for path in (*case.masks, *case.stale_masks, case.record, *sides)):
            raise UsageError(f"the {what} would replace a result")
    check_targets([report], (file for case in cases for file in files_known(case)), over=over)
    check_folder(report.parent)
