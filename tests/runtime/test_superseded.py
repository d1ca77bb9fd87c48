"""Masks of an earlier run in formats that are not written any more: gone with their result, or left and said."""

from dataclasses import replace

import numpy as np
import pytest

from flare_runtime.imaging.read import read_volume
from flare_runtime.run.commit import commit_failure
from tests.runtime.commits import SHAPE, commit, killed_at, names, new_case, read_record, refused
from tests.runtime.nifti_files import noise, write_nifti


@pytest.fixture
def case(tmp_path):
    return new_case(tmp_path)


@pytest.fixture
def both(case):
    """The case with its mask in a second format."""
    return replace(case, others=(case.mask.with_name("a.nii"),))


@pytest.fixture
def plain(case):
    """The case with its mask in that format alone."""
    return replace(case, mask=case.mask.with_name("a.nii"))


def labels_in(path):
    return set(np.unique(read_volume(path).voxels)) if path.exists() else set()


def test_a_mask_in_a_format_that_is_not_written_goes_with_the_result_it_is_of(case, both, plain):
    commit(both, 1)
    assert names(case) == ["a.json", "a.nii", "a.nii.gz"]
    record = commit(case, 2)
    assert (names(case), record.remarks) == (["a.json", "a.nii.gz"], [])
    commit(plain, 3)
    assert names(case) == ["a.json", "a.nii"]
    commit(case, 4)
    assert names(case) == ["a.json", "a.nii.gz"]


@pytest.mark.parametrize("now", ["commit", "refusal"])
def test_what_was_changed_since_stays_and_is_said(case, both, now):
    commit(both, 1)
    edited = both.others[0]
    content = edited.read_bytes()[:-1] + b"\2"
    edited.write_bytes(content)
    record = commit(case, 2) if now == "commit" else commit_failure(case, refused())
    assert edited.read_bytes() == content
    assert read_record(case) == record
    text = "a.nii is of an earlier run and stays, as it was changed since"
    assert (record.remarks[0].code, record.remarks[0].text) == ("other_result", text)


@pytest.mark.parametrize("name", ["b.nii.gz", "another patient/a_0000.nii.gz"])
def test_the_mask_of_another_image_stays_and_is_said(case, plain, name):
    commit(plain, 1)
    path = case.images[0].parent / name
    path.parent.mkdir(exist_ok=True)
    other = replace(case, images={0: write_nifti(path, noise(SHAPE) + 1)})
    (remark,) = commit(other, 2).remarks
    assert remark.text == "a.nii is of an earlier run and stays, as it is of another image"
    assert labels_in(plain.mask) == {1}


def test_what_no_record_names_stays(case):
    stranger = case.mask.with_name("a.nii")
    stranger.write_bytes(b"of somebody else")
    (case.mask.with_name("a.seg.dcm")).symlink_to(stranger)
    commit(case, 1)
    assert commit(case, 2).remarks == []
    assert stranger.read_bytes() == b"of somebody else"
    assert names(case) == ["a.json", "a.nii", "a.nii.gz", "a.seg.dcm"]


@pytest.mark.parametrize("way", ["path", "link", "hard link"])
def test_an_earlier_mask_that_is_the_image_now_stays(plain, way):
    commit(plain, 1)
    image, case_image = plain.mask, plain.images[0]
    if way != "path":
        image = case_image.parent / "other" / case_image.name  # by which the record knows its image
        image.parent.mkdir()
        (image.hardlink_to if way == "hard link" else image.symlink_to)(plain.mask)
    case = replace(plain, images={0: image}, mask=plain.mask.with_name("a.nii.gz"))
    commit(case, 2)
    assert labels_in(plain.mask) == {1}
    commit_failure(case, refused())
    assert labels_in(plain.mask) == {1}


def test_of_a_refusal_every_format_is_set_aside(case, both, plain):
    commit(both, 1)
    record = commit_failure(case, refused())
    assert names(case) == ["a.json", "a.stale.nii", "a.stale.nii.gz"]
    assert [remark.text[-12:] for remark in record.remarks] == [" a.stale.nii", "stale.nii.gz"]
    commit(plain, 2)
    commit_failure(case, refused())
    assert labels_in(case.mask.with_name("a.stale.nii")) == {2}
    assert "a.nii" not in names(case)


@pytest.mark.parametrize("earlier", ["both", "plain"])
@pytest.mark.parametrize("now", ["commit", "refusal"])
def test_a_kill_at_any_step_leaves_no_format_beside_another_mask(case, earlier, now, request):
    earlier, step, killed = request.getfixturevalue(earlier), 0, True
    other = case.mask.with_name("a.nii")
    while killed:
        step += 1
        for path in case.mask.parent.iterdir():
            path.unlink()
        before = commit(earlier, 1)
        killed = killed_at(step, lambda: commit(case, 2) if now == "commit" else commit_failure(case, refused()))
        record = read_record(case) if case.record.exists() else None
        if record == before:  # never without its mask
            assert labels_in(earlier.mask) == {1}
        elif record:
            assert labels_in(case.mask) == ({2} if now == "commit" else set())
        if 2 in labels_in(case.mask) or (record and record != before):
            assert not other.exists()
        if other.exists() and earlier.others:  # else the next run would not know what it is
            assert record == before
        if now == "commit":
            again = commit(case, 3)
            assert bool(again.remarks) == other.exists()
    assert step > 7
