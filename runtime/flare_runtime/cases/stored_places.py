"""Which cases the objects of a store are, and what it holds of earlier results, as its lists and their heads say."""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TypeAlias
from urllib.request import url2pathname

from flare_runtime.cases import input_folder, stand_ins
from flare_runtime.cases.case import Case
from flare_runtime.cases.case_list import names_urls
from flare_runtime.cases.fingerprints import sha256_of, stamp_of
from flare_runtime.cases.record_format import mask_in_record
from flare_runtime.cases.stand_ins import Found, StandIns
from flare_runtime.cases.stored_images import StoredImages
from flare_runtime.errors import FlareError, OutputError, UsageError
from flare_runtime.files.lease_file import is_lease_name, lease_path
from flare_runtime.files.naming import visible
from flare_runtime.files.temporary import temporary_file
from flare_runtime.imaging.write import HEAD_BYTES
from flare_runtime.paths import as_path, is_url
from flare_runtime.stores.mirror import Mirror

# The modules that look at folders and log what they leave out.
_LOOKING = (input_folder.__name__, stand_ins.__name__, "flare_runtime.imaging.dicom.series")
# As `cases_in` does, from an input and an output, and `check_outputs`.
_Find: TypeAlias = Callable[..., tuple[Sequence[Case], Sequence[Case]]]
_Check: TypeAlias = Callable[[Sequence[Case], Sequence[Case]], None]


class StoredPlaces:
    """An input and an output, of which something is in a store.

    Args:
        source: a path, or the URL of an image, a list or a prefix.
        target: a path, or a URL; with a / at its end it is a prefix.

    Attributes:
        mirror: the local places of their objects.
        images: those of the input.

    Raises:
        UsageError: for a URL that is not allowed, or whose store needs a package that is missing.
        OutputError: where there is no place on the local disk.
    """

    def __init__(self, source: str | Path, target: str | Path) -> None:
        try:
            self.mirror = Mirror()
        except OSError as error:
            raise OutputError(f"no folder can be made for what is downloaded ({error}); set TMPDIR") from error
        self.images = StoredImages(self.mirror)
        self._stand_ins = StandIns(self.mirror)
        self._source = self.mirror.place_of(source) if is_url(source) else as_path(source, "the source")
        self._is_prefix = str(source).endswith("/")
        self._target: str | Path = target
        if is_url(target):
            self._target = f"{self.mirror.place_of(str(target))}{'/' if str(target).endswith('/') else ''}"

    def find(self, find: _Find, check: _Check, *, channels: int, nested: bool = False) -> Sequence[Case]:
        """Return the cases that a run takes.

        Args:
            find: returns all cases of paths, and those that are taken.
            check: raises where these must not be written beside those.
            channels: how many images the model takes.
            nested: whether what lies deeper than the input is looked at.

        Raises:
            UsageError: where there is nothing to do.
            OutputError: where the target cannot or must not be written.
        """
        with ExitStack() as held, self._shown():
            held.callback(self.mirror.close)
            if self.mirror.holds(self._source):
                try:
                    self.images.list_source(self._source, is_prefix=self._is_prefix, channels=channels, nested=nested)
                except OSError as error:
                    raise UsageError(f"{self._source}: cannot be read ({visible(error)})") from error
            place = Path(self._target)
            is_stored = self.mirror.holds(place)
            if is_stored and not place.exists() and self._is_folder(place):
                place.mkdir(parents=True, exist_ok=True)
            every, cases = find(self._source, self._target, locate=self._place_of_listed)
            self.images.drop_headers(every)
            vouched = self._list_results(cases, nested) if is_stored else {}
            check(cases, every)
            for path, status in vouched.items():
                self.mirror.stand_in(path, status)
            if is_stored and cases:
                self._try_target(cases[0].mask.parent)
            held.pop_all()  # from here on it is open as long as the run
        self.mirror.be_patient()
        return cases

    def _place_of_listed(self, image: str) -> str:
        """Return the path of an image of a list: a list in a store names objects relative to itself, or by URLs."""
        if not is_url(image):
            if not self.mirror.holds(self._source):
                return image
            image = f"{self.mirror.shown(str(self._source.parent))}/{image}"
        local = _local_of(image)
        return str(self.mirror.place_of(image) if local == image else local)

    @property
    def target_folder(self) -> Path | None:
        """The place of the results; None where they are no objects."""
        target = Path(self._target)
        if not self.mirror.holds(target):
            return None
        return target if target.is_dir() else target.parent

    def refresh(self, case: Case) -> None:
        """Look again at the results of a case where another worker has stored its record meanwhile."""
        status = self.mirror.status_of(case.record)
        if (status and status.stamp) == _stamp_of(case.record):
            return
        for path in case.results:
            path.unlink(missing_ok=True)
        found: Found = {path: status for path in case.results if (status := self.mirror.status_of(path))}
        deque(self._stand_ins.fill(found.keys() - {case.record}, found, HEAD_BYTES), maxlen=0)
        deque(self._stand_ins.fill(found.keys() & {case.record}, found, None), maxlen=0)

    def sha256_of(self, *paths: Path) -> str:
        """Return the SHA-256 of files one after the other, be they objects or not; see `fingerprints.sha256_of`."""
        return (self.mirror.sha256_of if self.mirror.holds(paths[0]) else sha256_of)(*paths)

    @contextmanager
    def _shown(self) -> Iterator[None]:
        """Let errors and warnings show URLs in place of local places."""

        def show(record: logging.LogRecord) -> bool:
            record.msg, record.args = self.mirror.shown(record.getMessage()), ()
            return True

        try:
            with _filtered(show):
                yield
        except FlareError as error:
            error.args = tuple(self.mirror.shown(one) for one in error.args)
            raise
        except OSError as error:
            raise OutputError(f"the object store cannot be used ({visible(error)})") from error

    def _is_folder(self, place: Path) -> bool:
        return not self.mirror.is_object(place) and bool(self.mirror.listed(place, nested=False)[0])

    def _list_results(self, cases: Sequence[Case], nested: bool) -> Found:
        """Put stand-ins in place of what the target holds of results; return the masks that a record vouches for."""
        if len(cases) == 1:
            case = cases[0]
            paths = (*case.results, lease_path(case.mask, 1))
            found: Found = {path: status for path in paths if (status := self.mirror.status_of(path))}
        elif nested:
            found = self._stand_ins.listed(Path(self._target), nested=True)
        else:
            found = {}
            for folder in {case.mask.parent for case in cases}:
                found.update(self._stand_ins.listed(folder, nested=False))
        leases: Found = {path: status for path, status in found.items() if is_lease_name(path.name)}
        self._stand_ins.put(leases, Path(self._target))
        results: Found = {path: found[path] for case in cases for path in case.results if found.get(path)}
        records = {case.record: case.mask for case in cases if case.record in results}
        vouched: Found = {}
        for record, data in self._stand_ins.fill(records, results, None):
            mask = records[record]
            if mask in results and Path(mask_in_record(data) or "").name == visible(mask.name):
                vouched[mask] = results[mask]
        others = [path for path in results if path not in records and path not in vouched]
        deque(self._stand_ins.fill(others, results, HEAD_BYTES), maxlen=0)
        return vouched

    def _try_target(self, folder: Path) -> None:
        """Write an object into the target, and remove it again.

        Raises:
            OutputError: where that must not be done.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with temporary_file(folder) as (probe, _):
                self.mirror.put(probe)
                self.mirror.remove(probe)
        except OSError as error:
            raise OutputError(f"{folder}: cannot be written to ({visible(error)})") from error


def places_of(source: str | Path, target: str | Path) -> tuple[str | Path, str | Path, StoredPlaces | None]:
    """Return an input and an output with the paths of file:// URLs, and their places where something is in a store.

    Raises:
        UsageError: for a URL that is not allowed, or whose store needs a package that is missing.
        OutputError: where there is no place on the local disk.
    """
    source, target = _local_of(source), _local_of(target)
    is_stored = is_url(source) or is_url(target) or names_urls(Path(source))
    return source, target, StoredPlaces(source, target) if is_stored else None


def _local_of(given: str | Path) -> str | Path:
    text = str(given)
    if not is_url(given) or not text.lower().startswith("file://"):
        return given
    path = text[len("file://") :]
    if not path.startswith("/"):
        raise UsageError(f"{text}: a file:// URL names a path from the root on, such as file:///data/scans")
    return url2pathname(path)


def _stamp_of(path: Path) -> str | None:
    with suppress(OSError):
        return stamp_of([path])
    return None


@contextmanager
def _filtered(keep: Callable[[logging.LogRecord], bool]) -> Iterator[None]:
    """Have what is logged while folders are looked at go through a filter."""
    loggers = [logging.getLogger(name) for name in _LOOKING]
    for logger in loggers:
        logger.addFilter(keep)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(keep)
