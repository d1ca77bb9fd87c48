"""Masks of an earlier run in formats that a new result does not have: they go with the result that they are of."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from flare_runtime.cases.case import Case, SideFile
from flare_runtime.cases.fingerprints import has_hash, has_stamp
from flare_runtime.files.naming import visible
from flare_runtime.imaging.file_names import type_of
from flare_runtime.imaging.volume import Remark
from flare_runtime.run.before import Before, read_before


@dataclass(frozen=True)
class Superseded:
    """What lies beside a case's masks in formats that are not written.

    Attributes:
        others: those that are as the earlier record says. They go before it, as nothing else knows them.
        masks: the one of them that it calls its mask, if any. It goes behind the record, which is never without it.
        remarks: of each file that stays.
    """

    others: list[SideFile] = field(default_factory=list)
    masks: list[SideFile] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)


def superseded_by(case: Case, inputs_sha256: Sequence[str] | None = None) -> Superseded:
    """Return what a new result of a case supersedes beside the files that it replaces.

    With the hashes of its images these have to be the same, as files of one name may be scans of several patients.
    """
    found = Superseded()
    there = [side for side in case.other_formats if _is_result(side.path, case)]
    before = read_before(case.record) if there else None
    for side in there:
        name = visible(side.path.name)
        known = before.hashes.get(name) if before else None
        if before and known:
            is_same = inputs_sha256 is None or (inputs_sha256 and inputs_sha256 == before.inputs_sha256)
            if not is_same or not before.is_of(case.places):
                found.remarks.append(_stays(name, "it is of another image"))
            elif not _is_as_recorded(side.path, before, known):
                found.remarks.append(_stays(name, "it was changed since"))
            else:
                (found.masks if name == Path(before.mask).name else found.others).append(side)
        elif _is_own(side):
            is_sure = type_of(name) != "nifti"  # any image of bytes looks like a mask in NIfTI
            found.remarks.append(_stays(name, "no record describes it", "is" if is_sure else "may be"))
    return found


def _is_result(path: Path, case: Case) -> bool:
    """Whether a file is there and is not what is segmented, by whatever path."""
    if path.is_symlink() or not path.is_file():
        return False
    with suppress(OSError):
        return not any(place.samefile(path) for place in case.places)
    return True


def _is_as_recorded(path: Path, before: Before, known: str) -> bool:
    stamp = before.identity.outputs.get(visible(path.name)) if before.identity else None
    return (stamp is not None and has_stamp(path, stamp)) or has_hash([path], known)


def _is_own(side: SideFile) -> bool:
    with suppress(OSError):
        return side.is_there()
    return False


def _stays(name: str, why: str, how: str = "is") -> Remark:
    return Remark("other_result", f"{name} {how} of an earlier run and stays, as {why}")
