"""What a store does not allow any more, errors that nobody foresaw, and leases that others have by then."""

import os
from concurrent.futures import Future

import pytest

from flare_runtime import OutputError, ResumeRules, RunOptions, Session
from flare_runtime.errors import StoreError
from flare_runtime.files.lease_file import lease_path
from flare_runtime.stores.lease import StoreLeases
from flare_runtime.stores.mirror import Mirror
from flare_runtime.stores.patience import Patience
from tests.runtime.command_runs import write_cohort

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def bucket(tmp_path):
    """The name of a bucket in this process, with the scans of `cohort` in it."""
    name, memory = f"bucket-{os.urandom(8).hex()}", fsspec.filesystem("memory")
    for path in write_cohort(tmp_path / "scans").iterdir():
        memory.pipe_file(f"/{name}/scans/{path.name}", path.read_bytes())
    yield name
    memory.rm(f"/{name}", recursive=True)


def _run(bucket, tiny_bundle, **further):
    session = Session(tiny_bundle, RunOptions(device="cpu", precision="fp32", threads=1))
    list(session.run(f"memory://{bucket}/scans/", f"memory://{bucket}/masks/", **further))


@pytest.mark.parametrize("call", ["StoreLeases.holds", "StoreLeases.release"])
def test_a_store_that_refuses_what_it_allowed_ends_the_run_as_a_failing_one(bucket, tiny_bundle, monkeypatch, call):
    def refuse(*_args):
        raise PermissionError("the token has expired")

    monkeypatch.setattr(f"flare_runtime.stores.lease.{call}", refuse)
    with pytest.raises(OutputError, match=r"cannot be used \(the token has expired"):
        _run(bucket, tiny_bundle, resume=ResumeRules())


def test_the_old_record_goes_first_and_the_new_one_comes_last(bucket, tiny_bundle, monkeypatch):
    def note(what):
        act = getattr(Mirror, what)

        def noted(mirror, path):
            if path.name in ("a.json", "a.nii.gz"):
                done.append((what, path.name))
            return act(mirror, path)

        return noted

    _run(bucket, tiny_bundle)
    done = []
    for what in ("put", "remove"):
        monkeypatch.setattr(Mirror, what, note(what))
    _run(bucket, tiny_bundle)
    assert done == [("remove", "a.json"), ("put", "a.nii.gz"), ("put", "a.json")]


class _AtOnce:
    """An executor whose work is done when it is submitted."""

    def __init__(self, *_args):
        pass

    def submit(self, call, *given):
        future = Future()
        try:
            future.set_result(call(*given))
        except Exception as error:
            future.set_exception(error)
        return future

    def shutdown(self, **_options):
        pass


def test_an_error_that_nobody_foresaw_costs_no_case_before_it(bucket, tiny_bundle, monkeypatch):
    fetch = Mirror.fetch

    def fail(mirror, path):
        if path.name.startswith("b_"):
            raise RuntimeError("of some library")
        fetch(mirror, path)

    monkeypatch.setattr(Mirror, "fetch", fail)
    monkeypatch.setattr("flare_runtime.run.stored_cases.ThreadPoolExecutor", _AtOnce)
    monkeypatch.setattr("flare_runtime.run.stored_cases._MOST_AHEAD", 1)
    with pytest.raises(RuntimeError, match="of some library"):
        _run(bucket, tiny_bundle)
    masks = fsspec.filesystem("memory").ls(f"/{bucket}/masks", detail=False)
    assert sorted(masks) == [f"/{bucket}/masks/{name}" for name in ("a.json", "a.nii.gz")]


@pytest.mark.parametrize("data", [b"young", b"other size"])
def test_an_object_that_changes_while_it_is_read_is_not_taken(monkeypatch, data):
    mirror = Mirror()
    place = mirror.place_of("memory://bucket/a.nii.gz")
    store, key = mirror.object_at(place)
    store.write(key, b"older")
    get = store._fs.get_file

    def get_and_change(*given):
        get(*given)
        store.write(key, data)

    place.parent.mkdir(parents=True)
    monkeypatch.setattr(store._fs, "get_file", get_and_change)
    with pytest.raises(StoreError, match="changed while it was read"):
        mirror.fetch(place)
    assert list(place.parent.iterdir()) == []
    mirror.close()


def test_an_object_that_is_not_what_was_written_is_an_error(monkeypatch):
    mirror = Mirror()
    place = mirror.place_of("memory://bucket/a.nii.gz")
    store, _ = mirror.object_at(place)
    place.parent.mkdir(parents=True)
    place.write_bytes(b"right")
    monkeypatch.setattr(store._fs, "put_file", lambda _path, key: store.write(key, b"wrong"))
    with pytest.raises(StoreError, match="is not what was written"):
        mirror.put(place)
    mirror.close()


@pytest.mark.parametrize("leave", [StoreLeases.release, StoreLeases.give_back])
def test_the_lease_of_another_is_never_removed(leave):
    mirror = Mirror()
    target = mirror.place_of("memory://bucket/a.nii.gz")
    leases = StoreLeases(mirror)
    store, key = mirror.object_at(lease_path(target, 1))
    lease = leases.take(target)
    store.write(key, b"theirs")  # taken over, settled and taken anew
    leave(leases, lease)
    assert store.content(key) == b"theirs"
    store.remove(key)
    leases.close()
    assert leases.take(target) is None
    assert store.content(key) is None
    mirror.close()


def test_a_later_lease_counts():
    mirror = Mirror()
    target = mirror.place_of("memory://bucket/a.nii.gz")
    leases = StoreLeases(mirror)
    (store, first), (_, second) = (mirror.object_at(lease_path(target, generation)) for generation in (1, 2))
    lease = leases.take(target)
    assert leases.holds(lease)
    store.write(second, b"theirs")
    assert not leases.holds(lease)
    leases.release(lease)
    assert store.content(first) is not None  # who holds the second removes both
    store.remove(first)
    assert leases.take(target) is None
    assert (store.content(first), store.content(second)) == (None, b"theirs")
    store.remove(second)
    leases.close()
    mirror.close()


def test_a_sign_of_life_keeps_a_lease_from_being_taken_over(monkeypatch):
    mirror = Mirror()
    target = mirror.place_of("memory://bucket/a.nii.gz")
    leases = StoreLeases(mirror)
    (store, first), (_, second) = (mirror.object_at(lease_path(target, generation)) for generation in (1, 2))
    store.write(first, b"theirs")

    def is_dead(*_given):
        store.write(first, b"alive")
        return True

    monkeypatch.setattr(leases, "_is_dead", is_dead)
    assert leases.take(target) is None
    assert (store.content(first), store.content(second)) == (b"alive", None)
    store.remove(first)
    leases.close()
    mirror.close()


def test_nothing_of_a_case_that_is_settled_stays_on_the_local_disk(bucket, tiny_bundle, monkeypatch):
    close, names, left = Mirror.close, [], []

    def look_and_close(mirror):
        files = [path for path in mirror._folder.rglob("*") if path.is_file()]
        names.extend(sorted(path.name for path in files))
        left.extend(path.name for path in files if path.stat().st_blocks)
        close(mirror)

    monkeypatch.setattr(Mirror, "close", look_and_close)
    _run(bucket, tiny_bundle)
    assert (names, left) == ([f"{name}_0000.nii.gz" for name in "abc"], [])


def test_an_object_that_is_removed_while_it_is_created_makes_no_error(monkeypatch):
    mirror = Mirror()
    store, key = mirror.object_at(mirror.place_of("memory://bucket/lease"))
    write, refused = store._fs.pipe_file, []

    def refuse_first(*given, **options):
        if not refused:
            refused.append(given)
            raise OSError("at least one of the pre-conditions did not hold")  # and gone is what was there
        write(*given, **options)

    monkeypatch.setattr(store._fs, "pipe_file", refuse_first)
    assert store.create(key, b"ours")
    assert refused


def test_a_store_that_cannot_keep_leases_says_so(bucket, tiny_bundle, caplog, monkeypatch):
    monkeypatch.setattr("flare_runtime.stores.store.Store.create", lambda *_args: True)
    _run(bucket, tiny_bundle, resume=ResumeRules())
    assert any("give each its --shard I/N" in text for text in caplog.messages)
    assert len(fsspec.filesystem("memory").find(f"/{bucket}/masks")) == 5


def test_what_is_forbidden_is_not_asked_again():
    questions, patience = [], Patience()
    patience.limit_s = 60

    def ask():
        questions.append("again")
        raise OSError("Forbidden: bucket/a\nno such right")  # as gcsfs says it

    with pytest.raises(OSError, match="no such right"):
        patience.ask(ask)
    assert questions == ["again"]
