"""Segmenting one case after the other, the next being read already: each is committed or refused by itself."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from math import prod
from time import perf_counter

from flare_runtime.compute.available_memory import available_bytes
from flare_runtime.errors import BundleError, CaseError, DeviceError
from flare_runtime.files.naming import visible
from flare_runtime.imaging.read import ImageSource, read_grid, read_volume
from flare_runtime.imaging.volume import Grid, Volume
from flare_runtime.pipeline.inference import Progress
from flare_runtime.run.cases import Case
from flare_runtime.run.commit import commit_failure, commit_result
from flare_runtime.run.digests import InputDigests
from flare_runtime.run.record import CaseRecord, done_record, failed_record
from flare_runtime.segmenter import Segmenter


def segment_cases(
    segmenter: Segmenter,
    cases: Sequence[Case],
    *,
    progress: Callable[[Case], Progress] = lambda _case: iter,
) -> Iterator[CaseRecord]:
    """Segment and write every case, and yield its record as soon as it is committed or given up.

    Args:
        segmenter: the loaded model; its options say as well which images are too large, and what masks take of them.
        cases: from `find_cases`.
        progress: gives each case its wrapper of tiles.

    Raises:
        DeviceError, BundleError: what would fail every further case too.
    """
    with _ReadAhead(segmenter, cases) as images:
        for case in cases:
            try:
                yield _segment_in_memory(segmenter, case, images, progress(case))
            except (DeviceError, BundleError):
                raise
            except Exception as error:  # one bad case must not cost the others
                yield commit_failure(case, failed_record(case.name, error), with_record=segmenter.options.records)
            finally:
                images.digests.forget(case)


class _ReadAhead:
    """Reads a case's images while the one before it is segmented: one case ahead, in a thread of its own."""

    def __init__(self, segmenter: Segmenter, cases: Sequence[Case]) -> None:
        self._memory = segmenter.memory
        self._rules = segmenter.rules
        self._channels = len(segmenter.bundle.manifest.channels)
        self._max_voxels = segmenter.options.max_voxels
        self._coming = deque(cases)
        self._thread = ThreadPoolExecutor(1, "read")
        self.digests = InputDigests()
        self._ahead: tuple[Case, Future[list[Volume] | None]] | None = None

    def take(self, case: Case) -> list[Volume]:
        """Return the images of a case, which are then the caller's alone, and begin with those of the case after it.

        Raises:
            CaseError: where they cannot be read, do not fit the model, or this machine could not hold them.
        """
        ahead, self._ahead = self._ahead, None
        while self._coming.popleft() is not case:
            pass  # a case that was given up before its images were asked for
        images = ahead[1].result() if ahead and ahead[0] is case else None
        if images is None:
            self._memory.check_before_reading(self._grids(case))
            images = self.read(case)
        if self._coming:
            room = self._room_beside(images)
            self._ahead = self._coming[0], self._thread.submit(self._read_within, room, self._coming[0])
        return images

    def read(self, case: Case) -> list[Volume]:
        """Read the images of a case, and have them hashed."""
        self.digests.begin(case)
        return [read_volume(one, self._max_voxels, self._rules.plausible) for one in self._sources(case)]

    def _room_beside(self, images: Sequence[Volume]) -> int | None:
        """Return what a case that is read leaves of the memory while it is segmented; None where nobody knows."""
        available = available_bytes()
        held = sum(image.voxels.nbytes for image in images)
        grids = [self._rules.grid(image.grid) for image in images]
        return None if available is None else available + held - self._memory.peak_of(grids)

    def _read_within(self, room: int | None, case: Case) -> list[Volume] | None:
        """Read a case that can wait in memory without being missed there; None where it cannot."""
        taken = sum(prod(grid.shape) * grid.itemsize for grid in self._grids(case))
        return self.read(case) if room is None or taken < room else None

    def _grids(self, case: Case) -> list[Grid]:
        return [self._rules.grid(read_grid(one, self._max_voxels)) for one in self._sources(case)]

    def _sources(self, case: Case) -> list[ImageSource]:
        if sorted(case.images) != list(range(self._channels)):
            found = ", ".join(f"_{channel:04d}" for channel in sorted(case.images))
            raise CaseError(
                "wrong_channels", f"{case.name} has the channels {found}; the model takes {self._channels} from _0000"
            )
        return case.sources

    def __enter__(self) -> "_ReadAhead":
        return self

    def __exit__(self, *_error: object) -> None:
        self._thread.shutdown(cancel_futures=True)
        self.digests.close()


def _segment_in_memory(segmenter: Segmenter, case: Case, images: _ReadAhead, progress: Progress) -> CaseRecord:
    """Segment a case, and once more with as little of the GPU's memory as can be where that ran out."""
    return segmenter.within_memory(lambda smallest: _segment(segmenter, case, images, progress, smallest=smallest))


def _segment(
    segmenter: Segmenter,
    case: Case,
    images: _ReadAhead,
    progress: Progress,
    *,
    smallest: bool = False,
) -> CaseRecord:
    started = perf_counter()
    volumes = images.read(case) if smallest else images.take(case)
    read_at = perf_counter()
    prepared = segmenter.prepare(volumes, smallest=smallest)
    del volumes  # the scan as read takes no memory while the network runs
    result = segmenter.finish(prepared, progress=progress)
    segmented_at = perf_counter()

    def record_of(mask_sha256: str) -> CaseRecord:
        written_at = perf_counter()
        timings = {
            "read": read_at - started,
            **result.timings_s,
            "write": written_at - segmented_at,
            "total": written_at - started,
        }
        record = done_record(case.name, result, timings, segmenter)
        record.inputs = [visible(path) for path in case.places]
        record.inputs_sha256 = images.digests.of(case)
        record.mask, record.mask_sha256 = visible(case.mask), mask_sha256
        return record

    options = segmenter.options
    return commit_result(
        case,
        result.mask,
        result.template,
        record_of,
        keep_text=options.keep_header_text,
        with_record=options.records,
    )
