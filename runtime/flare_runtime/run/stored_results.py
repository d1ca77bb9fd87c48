"""Results of cases as objects of a store: what a commit did to their local places is done to the objects."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from flare_runtime.cases.case import Case
from flare_runtime.errors import OutputError
from flare_runtime.files.json_file import write_json
from flare_runtime.files.naming import visible
from flare_runtime.run.record import CaseRecord, read_record
from flare_runtime.stores.mirror import Mirror


@dataclass(frozen=True)
class _Mark:
    """Which file it is: another one, or one that was written anew, has another mark, one that was renamed has not."""

    number: int
    size: int
    changed_ns: int


class StoredResults:
    """The results of cases that are in work.

    Args:
        mirror: the local places of their objects.
    """

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        # What there was when a case was begun.
        self._before: dict[Path, dict[Path, _Mark]] = {}

    def begin(self, case: Case) -> None:
        """Note what there is of a case."""
        self._before[case.mask] = _marks(case)

    def drop(self, case: Case) -> None:
        """Leave the objects of a case as they are."""
        del self._before[case.mask]

    def store(self, case: Case) -> CaseRecord | None:
        """Do to the objects what was done to the places.

        The old record goes first, then what of its result is not replaced; the new record comes last.

        Returns:
            The record, if one was written.

        Raises:
            OutputError: where the store does not answer, or must not be written.
        """
        before = self._before.pop(case.mask)
        try:
            if self._mirror.holds(case.mask):
                return self._store(case, before)
            return self._rewritten(case, {})
        except OSError as error:
            mask = self._mirror.shown(str(case.mask))
            raise OutputError(f"{mask}: cannot be written ({visible(error)})") from error

    def _store(self, case: Case, before: dict[Path, _Mark]) -> CaseRecord | None:
        now, record = _marks(case), case.record
        is_new_record = now.get(record) != before.get(record)
        if is_new_record and record in before:
            self._mirror.remove(record)
        gone = before.keys() - now.keys() - {record}
        renamed = {path for path in gone if before[path] in now.values()}
        for path in gone - renamed:
            self._mirror.remove(path)
        names = {mark: path for path, mark in before.items()}
        stamps = {}
        for path, mark in now.items():
            if path == record or names.get(mark) == path:
                continue
            if mark in names:
                self._mirror.copy(names[mark], path)
            else:
                stamps[visible(path.name)] = self._mirror.put(path).stamp
        for path in renamed:
            self._mirror.remove(path)
        if not is_new_record or record not in now:
            return None
        content = self._rewritten(case, stamps)
        self._mirror.put(record)
        return content

    def _rewritten(self, case: Case, stamps: dict[str, str]) -> CaseRecord | None:
        """Let a case's record say where the objects are, and which stamps the store gave the results; return it."""
        record = read_record(case.record)
        if record is None:
            return None
        record = shown_record(record, self._mirror)
        if record.identity is not None:
            outputs = {name: stamps.get(name, stamp) for name, stamp in record.identity.outputs.items()}
            record.identity = msgspec.structs.replace(record.identity, outputs=outputs)
        write_json(case.record, record)
        return record


def shown_record(record: CaseRecord, mirror: Mirror) -> CaseRecord:
    """Return a record with URLs in place of local places."""
    return msgspec.json.decode(mirror.shown_json(msgspec.json.encode(record)), type=CaseRecord)


def _marks(case: Case) -> dict[Path, _Mark]:
    marks = {}
    for path in case.results:
        with suppress(FileNotFoundError):
            status = path.lstat()
            marks[path] = _Mark(status.st_ino, status.st_size, status.st_mtime_ns)
    return marks
