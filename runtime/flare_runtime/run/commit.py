"""What a case ends with beside its name: its mask and record, both or neither, or the record of why there is none."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import msgspec

from flare_runtime.cases.case import Case, SideFile
from flare_runtime.cases.fingerprints import sha256_of, stamp_of, stamps_of
from flare_runtime.compute.arrays import MaskArray
from flare_runtime.errors import CaseError, OutputError
from flare_runtime.files.commit_lock import committing
from flare_runtime.files.json_file import encode_json, write_json
from flare_runtime.files.naming import visible
from flare_runtime.files.output import StagedFile, staged
from flare_runtime.files.target import check_kind
from flare_runtime.imaging.volume import Remark, Template
from flare_runtime.imaging.write import encode_mask
from flare_runtime.run.identity import Recipe
from flare_runtime.run.record import CaseRecord, failed_record
from flare_runtime.run.superseded import Superseded, superseded_by

# Two files take their names in much less.
_WAIT_S, _PAUSE_S = 5.0, 0.005
_commits = 0


class StagedResult:
    """A mask, what belongs to it and its record, which are on the disk under the names of temporary files.

    Attributes:
        record: what is known of the case.
    """

    def __init__(self, case: Case, record: CaseRecord, files: Sequence[StagedFile], held: ExitStack) -> None:
        self.record = record
        self._case, self._files, self._held = case, files, held

    def hold(self, held: ExitStack) -> None:
        """Also close this, after the result is committed or removed."""
        self._held.push(held)

    def commit(self) -> CaseRecord:
        """Give all their names, and return the record.

        Raises:
            OutputError: where one of them cannot have its name; then none is there.
            CaseError: `taken_over` where another worker has the case by now; nothing is changed.
        """
        with self._held, alone_in(self._case.mask.parent), committing:
            if not self._case.is_ours:
                raise taken_over(self._case)
            superseded = superseded_by(self._case, self.record.inputs_sha256)
            self._add(superseded.remarks)
            _take_names(self._case, self._files, superseded)
            global _commits
            _commits += 1
        return self.record

    def discard(self) -> None:
        """Remove all."""
        self._held.close()

    def _add(self, remarks: Sequence[Remark]) -> None:
        self.record.remarks.extend(remarks)
        for file in self._files if remarks else ():
            if file.target == self._case.record:
                file.rewrite(encode_json(self.record))


def stage_result(
    case: Case,
    mask: MaskArray,
    template: Template,
    record_of: Callable[[str], CaseRecord],
    *,
    keep_text: bool = False,
    with_record: bool = True,
    beside: Callable[[CaseRecord, Sequence[StagedFile]], Sequence[StagedFile]] = lambda _record, _masks: (),
) -> StagedResult:
    """Write a case's mask (z, y, x) in all formats and its record, which replace an earlier run's when committed.

    Args:
        case: the case.
        mask: its labels.
        template: of the image, whose geometry the mask takes, and free text of its header where `keep_text`.
        record_of: makes the record from the SHA-256 of the first mask, once all are on the disk.
        keep_text: see `template`.
        with_record: False writes the mask alone; a record of an earlier run goes all the same.
        beside: gives what else belongs to the masks on the disk, written and settled, and names it in the record; what
            an earlier run left of the kind goes all the same.

    Raises:
        OutputError: where one of them cannot be written.
        CaseError: where the image allows no mask in one of the formats.
    """
    with ExitStack() as files:
        masks = [files.enter_context(staged(target)) for target in case.masks]
        for new in masks:
            encode_mask(new.file, new.target.name, mask, template, keep_text=keep_text)
            new.settle()
        first = masks[0]
        record = record_of(sha256_of(first.path))
        record.other_masks = {visible(other.target): sha256_of(other.path) for other in masks[1:]}
        others = list(beside(record, masks))
        if record.identity is not None:
            stamps = {visible(new.target.name): stamp_of([new.path]) for new in (*masks, *others)}
            record.identity = msgspec.structs.replace(record.identity, outputs=stamps)
        new_record = files.enter_context(staged(case.record)) if with_record else None
        if new_record is not None:
            new_record.file.write(encode_json(record))
            new_record.settle()
        staged_files = [*masks, *others, *([new_record] if new_record else [])]
        return StagedResult(case, record, staged_files, files.pop_all())


def taken_over(case: Case) -> CaseError:
    """Return the error of a case that another worker has."""
    return CaseError("taken_over", f"{case.name}: another worker took the case over meanwhile")


def commits_made() -> int:
    """Return how many results this process has committed."""
    return _commits


def _take_names(case: Case, files: Sequence[StagedFile], superseded: Superseded) -> None:
    """Let all take their names, so that at no moment a record is beside a mask that it does not describe."""
    for target in (case.record, *(file.target for file in files)):
        check_kind(target)
    for side in superseded.others:
        side.path.unlink(missing_ok=True)
    case.record.unlink(missing_ok=True)
    for side in superseded.masks:
        side.path.unlink(missing_ok=True)
    for side in case.side_files:
        with suppress(OSError):
            if side.is_there():
                side.path.unlink()
    try:
        for file in files:
            file.take_name()
    except BaseException:  # Ctrl-C too, of which the exception may come when the name was taken already
        named = [file for file in files if file.has_name()]
        for file in named if len(named) < len(files) else []:
            with suppress(OSError):
                file.target.unlink()
        raise


def commit_failure(
    case: Case,
    record: CaseRecord,
    recipe: Recipe | None = None,
    inputs: list[str] | None = None,
    *,
    with_record: bool = True,
) -> CaseRecord:
    """Write the record of a case that was not done, and move a mask of an earlier run aside; return the record.

    Without `with_record` none is written, and one of an earlier run goes all the same. With a `recipe` the record says
    what was tried, for a later run: images of the stamps `inputs`, or of those of now. Where another worker has taken
    the case over, nothing is changed, and the record that is returned says so.

    What cannot be written or moved is said in the record's message.
    """
    record.inputs = [visible(path) for path in case.places]
    if recipe is not None:
        record.identity = recipe.identity(stamps_of(case.sources) if inputs is None else inputs, case.tries)
    with alone_in(case.mask.parent):
        if not case.is_ours:
            return msgspec.structs.replace(failed_record(case.name, taken_over(case)), inputs=record.inputs)
        superseded = superseded_by(case)
        record.remarks.extend(superseded.remarks)
        for step in (*_steps_aside(superseded), *([_write_record] if with_record else [])):
            try:
                step(case, record)
            except OutputError as error:
                record.message = f"{record.message}; {visible(error)}"
            except OSError as error:
                why = error.strerror or error
                record.message = f"{record.message}; {visible(case.mask)}: cannot be set aside ({why})"
    return record


@contextmanager
def alone_in(folder: Path, limit_s: float | None = None) -> Iterator[None]:
    """Keep other processes from coming between a mask and its record, where the file system has locks.

    Whoever holds the folder for longer than `limit_s`, a few seconds where None, is no such process; it may be what
    started this one.
    """
    with ExitStack() as held:
        with suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            held.callback(os.close, descriptor)
            until = time.monotonic() + (_WAIT_S if limit_s is None else limit_s)
            while not _locks(descriptor) and time.monotonic() < until:
                time.sleep(_PAUSE_S)
        yield


def _locks(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _steps_aside(superseded: Superseded) -> list[Callable[[Case, CaseRecord], None]]:
    """Return what sets the result of an earlier run aside, step by step, of which each may fail by itself."""
    others, masks = ([partial(_set_aside, side) for side in of] for of in (superseded.others, superseded.masks))
    return [*others, _drop_record, *masks, _set_mask_aside, _set_side_files_aside]


def _drop_record(case: Case, _record: CaseRecord) -> None:
    check_kind(case.record)
    case.record.unlink(missing_ok=True)


def _set_aside(side: SideFile, _case: Case, record: CaseRecord) -> None:
    side.set_aside()
    record.remarks.append(_stale_mask(side.stale))


def _set_mask_aside(case: Case, record: CaseRecord) -> None:
    for mask, stale in zip(case.masks, case.stale_masks, strict=True):
        check_kind(mask)
        check_kind(stale)
        with suppress(FileNotFoundError):
            mask.replace(stale)
            record.remarks.append(_stale_mask(stale))


def _stale_mask(stale: Path) -> Remark:
    return Remark("stale_mask", f"the mask of an earlier run is now {visible(stale.name)}")


def _set_side_files_aside(case: Case, _record: CaseRecord) -> None:
    for side in case.side_files:
        if side.is_there():
            side.set_aside()


def _write_record(case: Case, record: CaseRecord) -> None:
    write_json(case.record, record)
