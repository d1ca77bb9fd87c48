"""Claims on the cases that workers share: what is claimed, what is given up, and what an overtaken worker may do."""

import json
import os
import shutil
from dataclasses import replace

import pytest

from flare_runtime import CaseProgress, ResumeRules, Session
from flare_runtime.cases.finding import find_cases
from flare_runtime.cases.input_rules import InputRules
from flare_runtime.files.lease import Leases
from flare_runtime.files.lease_file import create, lease_path, new_content
from flare_runtime.model.bundle import open_bundle
from flare_runtime.run.claims import Claims, Kept
from flare_runtime.run.commit import commit_failure
from flare_runtime.run.identity import Recipe
from flare_runtime.run.record import failed_record
from flare_runtime.run.shared import SharedCases
from tests.runtime.command_runs import names, write_cohort
from tests.runtime.test_resume import OPTIONS, lose_worker


@pytest.fixture
def done(tiny_bundle, tmp_path):
    """A case that was done."""
    scan = write_cohort(tmp_path / "scans") / "a_0000.nii.gz"
    list(Session(tiny_bundle, OPTIONS).run(scan, f"{tmp_path / 'masks'}/"))
    (case,) = find_cases(scan, f"{tmp_path / 'masks'}/", 1)
    return case


def claims_of(bundle, **options):
    return Claims(ResumeRules(), Recipe.of(open_bundle(bundle), OPTIONS), **options)


def shared(folder, bundle):
    """Return the cases of `scans` as workers share them."""
    return SharedCases(find_cases(folder / "scans", folder / "masks", 1), claims_of(bundle), pytest.fail, pytest.fail)


def test_a_case_at_which_workers_were_lost_is_in_work_by_itself(tiny_bundle, tmp_path):
    write_cohort(tmp_path / "scans")
    lose_worker(find_cases(tmp_path / "scans", tmp_path / "masks", 1)[1])
    queue = shared(tmp_path, tiny_bundle)
    first, second = queue.take(), queue.take()
    assert [first.name, second.name, queue.take(), queue.left] == ["a", "c", None, 1]
    queue.settle(first)
    queue.settle(second)
    queue.give_back(queue.take())  # as before a run falls back on the CPU
    alone = queue.take()
    assert (alone.name, alone.lease.lost_before, alone.tries) == ("b", 1, 2)
    queue.settle(alone)
    assert (queue.take(), queue.left) == (None, 0)


def test_nothing_is_begun_beside_a_case_at_which_workers_were_lost(tiny_bundle, tmp_path):
    write_cohort(tmp_path / "scans")
    lose_worker(find_cases(tmp_path / "scans", tmp_path / "masks", 1)[0])
    queue = shared(tmp_path, tiny_bundle)
    alone = queue.take()
    assert [alone.name, queue.take(), queue.left] == ["a", None, 2]
    queue.settle(alone)
    assert queue.take().name == "b"


def test_what_another_worker_finished_just_now_is_kept(done, tiny_bundle, monkeypatch):
    content = done.record.read_bytes()
    done.record.unlink()
    take = Leases.take

    def take_at_last(leases, target):
        done.record.write_bytes(content)
        return take(leases, target)

    monkeypatch.setattr(Leases, "take", take_at_last)
    assert isinstance(claims_of(tiny_bundle).claim(done), Kept)
    assert not [name for name in names(done.mask.parent) if "lease" in name]


def test_a_claim_that_fails_leaves_no_lease(done, tiny_bundle):
    os.utime(done.files[0], ns=(1, 1))
    seen = []

    def hash_of(*paths):
        seen.append(paths)
        if len(seen) > 1:
            raise MemoryError
        return ""

    claims = claims_of(tiny_bundle, hash_of=hash_of)
    with pytest.raises(MemoryError):
        claims.claim(done)
    assert not [name for name in names(done.mask.parent) if "lease" in name]


def test_a_case_that_cannot_be_claimed_is_one_of_the_run(tiny_bundle, tmp_path):
    (tmp_path / "scans").mkdir()
    write_cohort(tmp_path / "scans" / "sub")
    shutil.copy(tmp_path / "scans" / "sub" / "a_0000.nii.gz", tmp_path / "scans")
    rules, report = InputRules(recursive=True), tmp_path / "report.json"
    run = Session(tiny_bundle, OPTIONS).run(
        tmp_path / "scans", tmp_path / "masks", report=report, resume=ResumeRules(), input_rules=rules
    )
    (tmp_path / "masks" / "sub").touch()
    assert {(record.case, record.reason) for record in run} == {
        ("a", None),
        *((f"sub/{name}", "output") for name in "abc"),
    }
    assert (run.journal.count, run.journal.failed, run.journal.kept) == (4, 3, 0)
    assert len(json.loads(report.read_bytes())["cases"]) == 4


@pytest.fixture
def overtake(tiny_bundle, tmp_path):
    """A function that runs a case during whose work another worker takes it over so often, and dies; the records."""

    def run(times):
        write_cohort(tmp_path / "scans")
        masks, seen = tmp_path / "masks", []
        ours = new_content()
        dead = replace(ours, process=ours.process[:-1] + ("1" if ours.process[-1] == "0" else "0"))

        def listen(event):
            if isinstance(event, CaseProgress) and event.done == 0 and len(seen) < times:
                seen.append(names(masks))
                last = max(int(lease.name.split(".")[-2]) for lease in masks.glob(".*.flare-lease"))
                create(lease_path(masks / f"{event.case}.nii.gz", last + 1), replace(dead, token=str(last)))

        session = Session(tiny_bundle, OPTIONS, listener=listen)
        run = session.run(tmp_path / "scans" / "a_0000.nii.gz", f"{masks}/", resume=ResumeRules())
        records = list(run)
        assert not [name for of_then in seen for name in of_then if "lease" not in name]
        return records, run.journal

    return run


def test_a_case_that_was_taken_over_is_left_to_the_other_and_done_where_that_one_dies(overtake, tmp_path):
    (record,), journal = overtake(1)
    assert (record.status, journal.count, journal.failed) == ("done", 1, 0)
    assert names(tmp_path / "masks") == ["a.json", "a.nii.gz"]


def test_a_case_that_is_taken_over_again_and_again_ends_a_run(overtake, tmp_path):
    (record,), journal = overtake(9)
    assert (record.reason, journal.failed) == ("taken_over", 1)
    assert [name for name in names(tmp_path / "masks") if "lease" not in name] == []


def test_a_worker_that_was_overtaken_leaves_what_is_there(done, tiny_bundle):
    done.record.unlink()
    claimed = claims_of(tiny_bundle).claim(done)
    before = names(done.mask.parent)
    create(lease_path(done.mask, 2), new_content())
    assert commit_failure(claimed, failed_record("a", ValueError())).reason == "taken_over"
    assert names(done.mask.parent) == sorted([*before, lease_path(done.mask, 2).name])
