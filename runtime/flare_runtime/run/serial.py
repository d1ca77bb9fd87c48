"""Segmenting one case after the other, the next being read already: each is committed or refused by itself."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache, partial
from math import prod
from pathlib import Path
from time import perf_counter
from typing import BinaryIO

from flare_runtime.cases.case import Case
from flare_runtime.cases.fingerprints import sha256_of
from flare_runtime.compute.available_memory import available_bytes
from flare_runtime.errors import BundleError, CaseError, DeviceError
from flare_runtime.files.naming import visible
from flare_runtime.files.output import StagedFile, staged
from flare_runtime.imaging.probabilities import encode_probabilities
from flare_runtime.imaging.read import ImageAt, ImageSource, read_grid, read_volume
from flare_runtime.imaging.volume import ALL_SLICES, Grid, Volume
from flare_runtime.pipeline.gpu_memory import MIB
from flare_runtime.pipeline.inference import Progress
from flare_runtime.pipeline.probability_maps import MapsTo, ProbabilityMaps
from flare_runtime.run.commit import StagedResult, commit_failure, stage_result
from flare_runtime.run.digests import InputDigests
from flare_runtime.run.identity import Recipe
from flare_runtime.run.pictures import draw_pictures
from flare_runtime.run.queue import CaseQueue, next_case, queued
from flare_runtime.run.record import CaseRecord, done_record, failed_record
from flare_runtime.segmentation import Segmentation
from flare_runtime.segmenter import Segmenter


def segment_cases(
    segmenter: Segmenter,
    cases: CaseQueue | Sequence[Case],
    *,
    progress: Callable[[Case], Progress] = lambda _case: iter,
) -> Iterator[CaseRecord]:
    """Segment and write every case, and yield its record as soon as it is committed or given up.

    Args:
        segmenter: the loaded model; its options say as well which images are too large, and what masks take of them.
        cases: from `find_cases`, or a queue of them.
        progress: gives each case its wrapper of tiles.

    Raises:
        DeviceError, BundleError: what would fail every further case too.
    """
    queue, recipe = queued(cases), Recipe.of(segmenter.bundle, segmenter.options)
    with _ReadAhead(segmenter, queue) as images:
        while case := images.next_case():
            try:
                record = segment_alone(segmenter, case, images.reader, progress(case), images.take)
            except (DeviceError, BundleError):
                raise
            except Exception as error:  # one bad case must not cost the others
                failure = failed_record(case.name, error)
                inputs = images.reader.digests.stamps_of(case)
                record = commit_failure(case, failure, recipe, inputs, with_record=segmenter.options.records)
            finally:
                images.reader.digests.forget(case)
            queue.settle(case)
            yield record


class CaseReader:
    """Reads the images of cases for one model, and has them hashed.

    Attributes:
        digests: the hashes.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        self._rules = segmenter.rules
        self._channels = len(segmenter.bundle.manifest.channels)
        self._max_voxels = segmenter.options.max_voxels
        self._straightens = segmenter.options.straighten_tilt
        self.digests = InputDigests()

    def read(self, case: Case, *, hashed: bool = True) -> list[Volume]:
        """Read the images of a case, and have them hashed unless nobody asks for that.

        Raises:
            CaseError: where they cannot be read, or do not fit the model.
        """
        if hashed:
            self.digests.begin(case)
        return [read_volume(one, self._max_voxels, self._rules.plausible) for one in self._sources(case)]

    def read_first(self, case: Case, wanted: slice = ALL_SLICES) -> Volume:
        """Read the first channel of a case again; see `read_volume`.

        Raises:
            CaseError: where it cannot be read, or there is no memory left for it.
        """
        first = self._sources(case)[0]
        grid, available = read_grid(first, self._max_voxels), available_bytes()
        if available is not None and prod(grid.shape) * grid.itemsize > available:
            raise CaseError("too_little_memory", f"{available // MIB:,} MiB are left")
        return read_volume(first, self._max_voxels, self._rules.plausible, wanted=wanted)

    def grids(self, case: Case) -> list[Grid]:
        """Read the headers of a case.

        Raises:
            CaseError: where they cannot be read, or do not fit the model.
        """
        self.digests.stamps_of(case)  # which a file that is still being written has no longer at the end
        return [self._rules.grid(read_grid(one, self._max_voxels)) for one in self._sources(case)]

    def close(self) -> None:
        """End the thread that hashes."""
        self.digests.close()

    def _sources(self, case: Case) -> list[ImageSource]:
        if sorted(case.images) != list(range(self._channels)):
            found = ", ".join(f"_{channel:04d}" for channel in sorted(case.images))
            raise CaseError(
                "wrong_channels", f"{case.name} has the channels {found}; the model takes {self._channels} from _0000"
            )
        if case.refers_to_images:
            for one in case.sources:
                (ImageAt(one) if isinstance(one, Path) else one).check_referable()
        if self._straightens:
            return [one if isinstance(one, Path) else one.straightening() for one in case.sources]
        return case.sources


class _ReadAhead:
    """Reads a case's images while the one before it is segmented: one case ahead, in a thread of its own."""

    def __init__(self, segmenter: Segmenter, queue: CaseQueue) -> None:
        self._memory = segmenter.memory
        self._rules = segmenter.rules
        self._queue = queue
        self._thread = ThreadPoolExecutor(1, "read")
        self.reader = CaseReader(segmenter)
        self._ahead: tuple[Case, Future[list[Volume] | None]] | None = None
        self._images: Future[list[Volume] | None] | None = None

    def next_case(self) -> Case | None:
        """Return the case that is to be segmented now; None where there is none any more."""
        if self._queue.is_finished:  # one that was read ahead is not begun
            return None
        (case, self._images), self._ahead = self._ahead or (None, None), None
        return case or next_case(self._queue)

    def take(self, case: Case) -> list[Volume]:
        """Return the images of a case, which are then the caller's alone, and begin with those of the case after it.

        Raises:
            CaseError: where they cannot be read, do not fit the model, or this machine could not hold them.
        """
        coming, self._images = self._images, None
        images = coming.result() if coming else None
        del coming  # which would keep them
        if images is None:
            self._memory.check_before_reading(self.reader.grids(case))
            images = self.reader.read(case)
        room = self._room_beside(images)
        with suppress(Exception):  # such as of a store: the queue raises it again when this case is done
            if following := self._queue.take():
                self._ahead = following, self._thread.submit(self._read_within, room, following)
        return images

    def _room_beside(self, images: Sequence[Volume]) -> int | None:
        """Return what a case that is read leaves of the memory while it is segmented; None where nobody knows."""
        available = available_bytes()
        held = sum(image.voxels.nbytes for image in images)
        grids = [self._rules.grid(image.grid) for image in images]
        return None if available is None else available + held - self._memory.peak_of(grids)

    def _read_within(self, room: int | None, case: Case) -> list[Volume] | None:
        """Read a case that can wait in memory without being missed there; None where it cannot."""
        taken = sum(prod(grid.shape) * grid.itemsize for grid in self.reader.grids(case))
        return self.reader.read(case) if room is None or taken < room else None

    def __enter__(self) -> "_ReadAhead":
        return self

    def __exit__(self, *_error: object) -> None:
        self._thread.shutdown(cancel_futures=True)
        self.reader.close()


def segment_alone(
    segmenter: Segmenter,
    case: Case,
    reader: CaseReader,
    progress: Progress,
    take: Callable[[Case], list[Volume]],
) -> CaseRecord:
    """Segment a case and commit it; once more with as little of the GPU's memory as can be where that ran out.

    Args:
        segmenter: the loaded model.
        case: the case.
        reader: reads the images again for the second time.
        progress: wraps the tiles.
        take: returns the images, which are then this function's alone.
    """

    def attempt(smallest: bool) -> CaseRecord:
        started = perf_counter()
        volumes = reader.read(case) if smallest else take(case)
        read_s = perf_counter() - started
        prepared = segmenter.prepare(volumes, smallest=smallest, progress=progress)
        del volumes  # the scan as read takes no memory while the network runs

        whole = cache(partial(reader.read_first, case))  # for the lesions and the pictures

        def scan(wanted: slice) -> Volume:
            has_pictures = segmenter.options.preview or segmenter.options.page
            return whole() if has_pictures else reader.read_first(case, wanted)

        def finish(maps_to: MapsTo | None) -> Segmentation:
            return segmenter.finish(prepared, progress=progress, maps_to=maps_to, scan=scan)

        return stage_case(segmenter, case, finish, CaseTimes(started, read_s), reader.digests, whole).commit()

    return segmenter.within_memory(attempt)


@dataclass(frozen=True)
class CaseTimes:
    """When the work on a case began, by `perf_counter`, and how long its images took."""

    started: float
    read_s: float


def stage_case(
    segmenter: Segmenter,
    case: Case,
    segment: Callable[[MapsTo | None], Segmentation],
    times: CaseTimes,
    digests: InputDigests,
    scan: Callable[[], Volume],
) -> StagedResult:
    """Write the mask and the record of a case, and probabilities where the options ask for them, to be committed.

    Args:
        segmenter: the loaded model.
        case: the case.
        segment: gives the mask, once what it is given has written the probabilities.
        times: of the case.
        digests: of its images.
        scan: gives its first channel again.

    Raises:
        OutputError: where one of the files cannot be written.
    """
    with ExitStack() as held:
        probabilities = held.enter_context(staged(case.probabilities)) if segmenter.options.probabilities else None
        result = segment(None if probabilities is None else partial(_write_maps, probabilities.file))

        def beside(record: CaseRecord, masks: Sequence[StagedFile]) -> list[StagedFile]:
            files = [] if probabilities is None else [probabilities]
            others = draw_pictures(segmenter, case, result, scan, record)
            if case.reports:
                from flare_runtime.run.structured_report import draw_up_report  # of use for DICOM alone

                others[case.structured_report] = draw_up_report(case, result, record, masks)
            for target, content in others.items():
                files.append(held.enter_context(staged(target)))
                files[-1].file.write(content)
            for file in files:
                file.settle()
            if probabilities is not None:
                record.probabilities = visible(probabilities.target)
                record.probabilities_sha256 = sha256_of(probabilities.path)
            return files

        done = _stage_result(segmenter, case, result, times, digests, beside)
        done.hold(held.pop_all())
    return done


def _write_maps(file: BinaryIO, maps: ProbabilityMaps) -> None:
    encode_probabilities(file, maps, maps.decoder.outputs, maps.geometry)


def _stage_result(
    segmenter: Segmenter,
    case: Case,
    result: Segmentation,
    times: CaseTimes,
    digests: InputDigests,
    beside: Callable[[CaseRecord, Sequence[StagedFile]], list[StagedFile]],
) -> StagedResult:
    segmented_at = perf_counter()

    def record_of(mask_sha256: str) -> CaseRecord:
        written_at = perf_counter()
        timings = {
            "read": times.read_s,
            **result.timings_s,
            "write": written_at - segmented_at,
            "total": written_at - times.started,
        }
        record = done_record(case.name, result, timings, segmenter)
        record.inputs = [visible(path) for path in case.places]
        record.inputs_sha256 = digests.of(case)
        record.mask, record.mask_sha256 = visible(case.mask), mask_sha256
        recipe = Recipe.of(segmenter.bundle, segmenter.options)
        record.identity = recipe.identity(digests.stamps_of(case), case.tries)
        return record

    options = segmenter.options
    return stage_result(
        case,
        result.mask,
        result.template,
        record_of,
        keep_text=options.keep_header_text,
        with_record=options.records,
        beside=beside,
    )
