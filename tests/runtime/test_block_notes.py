"""Many workers on many cases: what one has seen the others need not look at, and nobody believes what is old."""

import errno
import os
import time
from threading import Barrier, Thread

import numpy as np
import pytest

from flare_runtime import ResumeRules, __version__
from flare_runtime.cases.case import Case
from flare_runtime.cases.fingerprints import stamp_of
from flare_runtime.files import lease_file
from flare_runtime.files.lease import Leases, lease_path
from flare_runtime.imaging import read
from flare_runtime.imaging.geometry import Geometry
from flare_runtime.imaging.volume import Template
from flare_runtime.run.block_notes import BlockNotes, SeenCase
from flare_runtime.run.claims import Claims
from flare_runtime.run.commit import commit_failure, stage_result
from flare_runtime.run.identity import Recipe
from flare_runtime.run.queue import next_case
from flare_runtime.run.record import CaseRecord, failed_record
from flare_runtime.run.shared import SharedCases
from tests.runtime.command_runs import names
from tests.runtime.test_resume import lose_worker

RECIPE, RULES = Recipe("model", "options"), ResumeRules()
TEMPLATE = Template(Geometry.of_affine(np.eye(4), (2, 2, 2)))
FOLDER = ".cases.flare-seen"


class CountedClaims(Claims):
    looks = 0

    def _look_at(self, case):
        self.looks += 1
        return super()._look_at(case)


def write_cases(folder, count):
    (folder / "scans").mkdir()
    (folder / "masks").mkdir()
    cases = [
        Case(f"{n:03}", {0: folder / "scans" / f"{n:03}.nii"}, folder / "masks" / f"{n:03}.nii") for n in range(count)
    ]
    for case in cases:
        case.files[0].touch()
    return cases


def finish(case):
    """Let a case be done; every tenth fails."""
    stamps = [stamp_of(case.files)]

    def record_of(mask_sha256):
        return CaseRecord(
            case=case.name,
            status="done",
            inputs=[str(file) for file in case.files],
            mask=str(case.mask),
            mask_sha256=mask_sha256,
            identity=RECIPE.identity(stamps, case.tries),
        )

    if case.name.endswith("7"):
        commit_failure(case, failed_record(case.name, ValueError("seven")), RECIPE, stamps)
    else:
        stage_result(case, np.zeros((2, 2, 2), np.uint8), TEMPLATE, record_of).commit()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    cases = write_cases(tmp_path_factory.mktemp("finished"), 150)
    for case in cases:
        finish(case)
    return cases


@pytest.fixture
def notes_of():
    """Makes the notes of a worker, which are closed in the end."""
    all_notes = []

    def make(cases, rules=RULES, recipe=RECIPE):
        all_notes.append(Claims(rules, recipe).notes_of(cases))
        return all_notes[-1]

    yield make
    for notes in all_notes:
        notes.close()


def leave_note(notes, block):
    note = notes.read(block)
    note.seen[1] = SeenCase("failed", "internal", "seven", "0.1")
    notes.write(block, note)
    return note.seen


def work(cases, workers):
    """Let so many threads take all cases; return how many were done, what each kept, and the looks at records."""
    done, kept, looks, start = [], [[] for _ in range(workers)], [], Barrier(workers)

    def take_all(mine):
        claims = CountedClaims(RULES, RECIPE)
        queue = SharedCases(cases, claims, mine.append, pytest.fail)
        start.wait()
        while case := next_case(queue):
            finish(case)
            done.append(case.name)
            mine.append(case)
            queue.settle(case)
        queue.close()
        looks.append(claims.looks)

    threads = [Thread(target=take_all, args=[mine]) for mine in kept]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return done, kept, sum(looks)


def test_not_every_worker_looks_at_every_case(finished):
    done, kept, looks = work(finished, 20)
    assert done == []
    for mine in kept:
        assert sorted(one.case.name for one in mine) == [case.name for case in finished]
        failed = [(one.case.name, one.reason, one.message) for one in mine if one.status == "failed"]
        assert sorted(failed) == [(f"{n:03}", "internal", "ValueError: seven") for n in range(7, 150, 10)]
    assert looks < 20 * 150 / 2
    assert not [name for name in names(finished[0].mask.parent) if name.startswith(".")]


def test_each_case_is_done_once_and_known_to_all(tmp_path):
    cases = write_cases(tmp_path, 120)
    done, kept, _ = work(cases, 6)
    assert sorted(done) == [case.name for case in cases]
    assert {len(mine) for mine in kept} == {120}
    assert not [name for name in names(tmp_path / "masks") if name.startswith(".")]


def test_who_had_begun_before_believes_a_note(finished, notes_of):
    early, block = notes_of(finished), finished[:12]
    assert early.read(block).seen == {}
    seen = leave_note(notes_of(finished), block)
    assert early.read(block).seen == seen
    assert notes_of(finished).read(block).seen == {}


class WholeSeconds(Leases):
    """Leases of a file system that keeps no parts of seconds."""

    def take(self, target):
        lease = super().take(target)
        os.utime(lease_path(target, 1), ns=(0, time.time_ns() // 10**9 * 10**9))
        return lease


def test_whole_seconds_make_no_note_older_than_a_worker_who_began_after_it(finished, notes_of):
    block, terms = finished[:12], f"{__version__} {RECIPE} {RULES}"
    earlier = notes_of(finished)
    note = earlier.read(block)
    later = BlockNotes(finished[0].mask.parent, terms, WholeSeconds())
    later.read(block)
    note.seen[1] = SeenCase("failed", "internal", "seven", "0.1")
    earlier.write(block, note)
    assert later.read(block).seen == {}
    later.close()


def test_a_worker_in_a_folder_that_is_gone_has_notes_too(finished, notes_of, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    early = notes_of(finished)
    early.read(finished[:12])
    assert leave_note(notes_of(finished), finished[:12]) == early.read(finished[:12]).seen


def test_for_a_note_no_header_of_a_series_is_read(finished, notes_of, tmp_path, monkeypatch):
    series = [Case(case.name, {0: read.image_at(tmp_path)}, case.mask) for case in finished[:12]]
    monkeypatch.setattr(read, "find_series", pytest.fail)
    early = notes_of(finished)
    early.read(series)
    assert leave_note(notes_of(finished), series) == early.read(series).seen


def test_a_note_is_passed_on_with_the_time_of_what_was_seen_first(finished, notes_of):
    first, second = notes_of(finished), notes_of(finished)
    block = finished[:12]
    first.read(block)
    second.read(block)
    writer = notes_of(finished)
    seen = leave_note(writer, block)
    late = notes_of(finished)
    late.read(block)
    second.write(block, second.read(block))
    assert first.read(block).seen == seen
    assert late.read(block).seen == {}


@pytest.mark.parametrize(
    "other",
    [{"rules": ResumeRules(verify_hashes=True)}, {"rules": ResumeRules(failed_too=True)}, {"recipe": Recipe("a", "b")}],
)
def test_a_note_by_other_rules_is_not_believed(finished, notes_of, other):
    early = notes_of(finished, **other)
    early.read(finished[:12])
    leave_note(notes_of(finished), finished[:12])
    assert early.read(finished[:12]).seen == {}


def test_a_note_of_other_images_is_not_believed(finished, notes_of, tmp_path):
    early = notes_of(finished)
    others = [Case(case.name, {0: tmp_path / case.files[0].name}, case.mask) for case in finished[:12]]
    early.read(others)
    leave_note(notes_of(finished), finished[:12])
    assert early.read(others).seen == {}


@pytest.mark.parametrize("content", [b"", b"{", b'{"since_ns": 1e300, "seen": {}}', b"\xff", "pipe", "folder"])
def test_what_is_no_note_is_not_believed(finished, notes_of, content):
    notes, block = notes_of(finished), finished[:12]
    leave_note(notes, block)
    (path,) = (finished[0].mask.parent / FOLDER).glob("*.flare-seen")
    path.unlink()
    if content == "pipe":
        os.mkfifo(path)
    elif content == "folder":
        path.mkdir()
    else:
        path.write_bytes(content)
    assert notes.read(block).seen == {}
    if content == "folder":
        path.rmdir()


def test_a_link_in_place_of_the_folder_leads_nowhere(finished, notes_of, tmp_path):
    theirs = tmp_path / f".{'0' * 24}.flare-tmp"
    theirs.touch()
    link = finished[0].mask.parent / FOLDER
    link.symlink_to(tmp_path)
    notes = notes_of(finished)
    leave_note(notes, finished[:12])
    notes.close()
    link.unlink()
    assert list(tmp_path.iterdir()) == [theirs]


def test_where_nobody_can_say_that_he_is_there_no_folder_stays(finished, notes_of, monkeypatch):
    def refuse(*_arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    notes = notes_of(finished)
    monkeypatch.setattr(lease_file, "create", refuse)
    assert notes.read(finished[:12]).seen == {}
    notes.close()
    assert not (finished[0].mask.parent / FOLDER).exists()


def test_who_ends_last_removes_the_notes(finished, notes_of):
    folder = finished[0].mask.parent / FOLDER
    first, last = notes_of(finished), notes_of(finished)
    last.read(finished[:12])
    leave_note(first, finished[:12])
    lose_worker(Case("lost", {}, folder / "0123456789abcdef"))
    first.close()
    assert last.read(finished[:12]).seen
    last.close()
    assert not folder.exists()


def test_a_worker_does_anew_what_was_changed_before_it_began(tmp_path, notes_of):
    cases = write_cases(tmp_path, 100)
    for case in cases:
        finish(case)
    waiting = notes_of(cases)
    waiting.read(cases[:10])
    earlier = SharedCases(cases, Claims(RULES, RECIPE), list[object]().append, pytest.fail)
    assert (earlier.take(), earlier.left) == (None, 0)
    assert len(waiting.read(cases[50:60]).seen) == 10
    os.utime(cases[58].files[0], ns=(1, 1))
    cases[3].mask.unlink()
    later = SharedCases(cases, Claims(RULES, RECIPE), list[object]().append, pytest.fail)
    assert {later.take().name, later.take().name, later.take()} == {"003", "058", None}
    for queue in (earlier, later):
        queue.close()


def test_cases_that_others_have_are_looked_at_a_few_at_a_time(tmp_path):
    cases = write_cases(tmp_path, 60)
    other, claims = Leases(), CountedClaims(RULES, RECIPE)
    for case in cases:
        other.take(case.mask)
    queue = SharedCases(cases, claims, pytest.fail, pytest.fail)
    assert (queue.take(), queue.left, claims.looks) == (None, 60, 16)
    queue.close()
    other.close()


@pytest.mark.parametrize("free", range(6))
def test_a_free_case_among_those_of_others_is_found_at_once(tmp_path, free):
    cases = write_cases(tmp_path, 6)
    other = Leases()
    for case in cases:
        if case is not cases[free]:
            other.take(case.mask)
    queue = SharedCases(cases, Claims(RULES, RECIPE), pytest.fail, pytest.fail)
    assert queue.take().name == cases[free].name
    queue.close()
    other.close()
