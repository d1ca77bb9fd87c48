"""The images that a store holds: their names and headers, by which cases are found, and their files while in work."""

import logging
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from flare_runtime.cases.case import Case
from flare_runtime.cases.case_list import MOST_BYTES, is_case_list
from flare_runtime.cases.stand_ins import Found, StandIns
from flare_runtime.errors import UsageError
from flare_runtime.files.looking import looking_at
from flare_runtime.imaging.file_names import is_image_name, record_name
from flare_runtime.imaging.read import ImageAt, ImageSource, begins_as_archive, dicom_instance, files_of
from flare_runtime.imaging.write import HEAD_BYTES
from flare_runtime.stores.mirror import Mirror

_LOG = logging.getLogger(__name__)
# Of an object that may be DICOM: where its header is longer, so many times as much is read of it, up to a limit that
# only objects without pixels reach.
_FIRST_BYTES, _GROWTH, _LAST_BYTES = 1 << 14, 16, 1 << 26
_THREADS = 8
_MOST_FILES = 200_000


class StoredImages:
    """The images of the cases of a run that are objects.

    Args:
        mirror: the local places of their objects.
    """

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self._looking = threading.Lock()
        self._stand_ins = StandIns(mirror)
        # Of what is in work, how many cases there are.
        self._in_work: Counter[Path] = Counter()
        # Places that a list names and whose stand-ins are all there. That a folder is there does not say that: it may
        # have come with another place, which is in it.
        self._looked_up: set[Path] = set()
        # Those that were downloaded to be looked at.
        self._whole: set[Path] = set()
        # Stand-ins that hold the header of a DICOM file.
        self._headers: set[Path] = set()

    def list_source(self, source: Path, *, is_prefix: bool, channels: int, nested: bool) -> None:
        """Put stand-ins for what is to be looked at in the place of an input.

        Args:
            source: the place.
            is_prefix: whether it is that of no object.
            channels: how many images the model takes.
            nested: whether what lies deeper is looked at, where there are images.

        Raises:
            UsageError: where there is nothing.
            OSError: where it cannot be read.
        """
        is_object = not is_prefix and self._mirror.is_object(source)
        status = self._mirror.status_of(source) if is_object else None
        if status and is_case_list(source):
            self._stand_ins.put({source: status}, source)
            if status.size <= MOST_BYTES:  # else it is refused
                self._mirror.fetch(source)
            return
        if is_object:
            found: Found = {source: status} if channels == 1 else self._stand_ins.listed(source.parent, nested=False)
            may_be_dicom = [] if is_image_name(source.name) else [source]
        else:
            found = self._stand_ins.listed(source, nested=nested)
            if not found:
                raise UsageError(f"{source}: there is no such object or prefix")
            with_images = _folders_of_images(found)
            if not nested and not with_images:  # of DICOM all is looked at that lies deeper
                found = self._stand_ins.listed(source, nested=True)
            shown = (path for path in found if not _is_hidden(path.relative_to(source)))
            may_be_dicom = [path for path in shown if path.parent not in with_images]
        new = {path: status for path, status in found.items() if not path.is_file()}  # others may be in work
        self._stand_ins.put(new, source)
        images = [path for path, status in found.items() if status and is_image_name(path.name)]
        records = {path.with_name(record_name(path.name)): path for path in images}
        records = {record: path for record, path in records.items() if record in new}
        deque(self._stand_ins.fill(records, new, None), maxlen=0)
        deque(self._stand_ins.fill(new.keys() & records.values(), new, HEAD_BYTES), maxlen=0)
        self._fill_dicom([path for path in may_be_dicom if path in new], new, archives=is_object)

    def drop_headers(self, cases: Iterable[Case]) -> None:
        """Let stand-ins for the slices of cases, which are known now, hold nothing any more."""
        if self._headers:
            for path in {path for case in cases for path in case.files} & self._headers:
                self._mirror.empty(path)
            self._headers.clear()

    def look_up(self, case: Case) -> None:
        """Put stand-ins in the places of a case's images, where a list named them and they are not there yet.

        Raises:
            OutputError: where the store does not answer.
        """
        with self._looking:
            for image in case.sources:
                place = image if isinstance(image, Path) else image.place
                is_there = place in self._looked_up if isinstance(image, ImageAt) else place.exists()
                if self._mirror.holds(place) and not is_there:
                    with suppress(UsageError, FileNotFoundError, PermissionError):  # the case is refused for it
                        self.list_source(place, is_prefix=False, channels=1, nested=False)
                        self._looked_up.add(place)
            self._headers.clear()  # they stay until the case ends

    def begin(self, case: Case) -> None:
        """Note that a case is in work, whose images may then be fetched."""
        self._in_work.update(key for image in case.sources for key in self._keys(image))

    def to_fetch(self, case: Case) -> list[Path]:
        """Return the places of a case's images whose objects are not there as files."""
        places = dict.fromkeys(path for path in case.files if self._mirror.holds(path))
        return [path for path in places if path not in self._whole and not path.is_dir()]

    def end(self, case: Case) -> None:
        """Note that a case is in work no longer, and remove what no other one reads of its images' content."""
        for image in case.sources:
            for key in self._keys(image):
                self._in_work[key] -= 1
                if self._in_work[key]:
                    continue
                del self._in_work[key]
                if not isinstance(image, ImageAt):
                    self._whole.discard(key)
                    self._mirror.empty(key)
        self.drop(case)

    def drop(self, case: Case) -> None:
        """Remove the stand-ins that `look_up` has put for images, where no case in work reads them."""
        for image in case.sources:
            if isinstance(image, ImageAt) and self._mirror.holds(image.place):
                around = [place for place in tuple(self._looked_up) if _overlap(place, image.place)]
                for place in {image.place, *around}:
                    self._looked_up.discard(place)
                    if not any(_overlap(place, key) for key in tuple(self._in_work)):
                        self._whole.discard(place)
                        self._mirror.drop(place)

    def _keys(self, image: ImageSource) -> list[Path]:
        """Return the places by which it is known that an image is in work."""
        places = [image.place] if isinstance(image, ImageAt) else files_of(image)
        return [place for place in places if self._mirror.holds(place)]

    def _fill_dicom(self, paths: Iterable[Path], found: Found, *, archives: bool) -> None:
        """Let the stand-ins of DICOM files hold their headers.

        Archives are downloaded, as are images of one UID: whether they are copies, all of their bytes say.
        """
        by_instance = defaultdict[str, list[Path]](list)
        coming = [path for path in paths if found[path]]
        if len(coming) > _MOST_FILES:
            raise UsageError(
                f"{len(coming):,} objects may be DICOM, more than {_MOST_FILES:,}; give the URL of one study"
            )
        whole, size = list[Path](), _FIRST_BYTES
        while coming:
            longer = []
            for path, head in looking_at(self._stand_ins.fill(coming, found, size), len(coming)):
                status = found[path]
                if archives and begins_as_archive(head):
                    whole.append(path)
                    self._whole.add(path)
                    continue
                self._headers.add(path)
                instance = dicom_instance(head)
                if instance:
                    by_instance[instance].append(path)
                elif instance is None and status and len(head) < status.size:
                    longer.append(path)
            if size >= _LAST_BYTES:
                self._leave_out(longer)
                break
            coming, size = longer, size * _GROWTH
        whole += [path for alike in by_instance.values() if len(alike) > 1 for path in alike]
        with ThreadPoolExecutor(_THREADS, "fetch") as threads:
            deque(looking_at(threads.map(self._mirror.fetch, whole), len(whole)), maxlen=0)

    def _leave_out(self, paths: Iterable[Path]) -> None:
        """Let objects whose headers go on and on count as no DICOM."""
        for path in paths:
            self._mirror.empty(path)
            _LOG.warning(
                "%s: left out, as its first %s bytes hold no pixels", self._mirror.shown(str(path)), f"{_LAST_BYTES:,}"
            )


def _folders_of_images(found: Found) -> set[Path]:
    """Return the folders that hold images which are no results of earlier runs: no record lies beside them."""
    images = (path for path, status in found.items() if status and is_image_name(path.name))
    return {path.parent for path in images if path.with_name(record_name(path.name)) not in found}


def _overlap(one: Path, other: Path) -> bool:
    """Whether a place is the other, or one is in the other."""
    return one == other or one in other.parents or other in one.parents


def _is_hidden(path: Path) -> bool:
    return any(part[0] == "." for part in path.parts)
