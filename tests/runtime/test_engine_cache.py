"""Engines on disk: found under their full key alone, and whole or not at all."""

import os
from dataclasses import replace

import msgspec
import pytest

from flare_runtime.backends.tensorrt.cache import EngineCache, EngineKey
from flare_runtime.errors import FlareError, OutputError
from tests.runtime.stand_in_tensorrt import RECORD

KEY = EngineKey(
    onnx_sha256="a" * 64,
    tensorrt="11.4.0.106",
    gpu="NVIDIA H100 80GB HBM3",
    compute_capability="9.0",
    patch=(128, 160, 160),
    batch=2,
)
ENGINE = bytes(range(256)) * 40


@pytest.fixture
def told():
    return []


@pytest.fixture
def cache(tmp_path, told):
    return EngineCache(tmp_path, told.append)


def store(cache, key=KEY, engine=ENGINE, record=RECORD):
    return cache.find_or_build(key, lambda: (engine, record))


def forbidden():
    raise AssertionError("nothing is to be built")


def test_a_built_engine_is_found_with_its_record(cache, told):
    assert cache.find(KEY) is None
    built = store(cache)
    found = cache.find(KEY)
    assert found == built
    assert (found.key, found.engine, found.record) == (KEY, ENGINE, RECORD)
    assert cache.find_or_build(KEY, forbidden) == built
    assert not told


def test_files_are_the_owners_alone(cache, tmp_path):
    store(cache)
    assert {path.suffix: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
        ".engine": 0o600,
        ".lock": 0o600,
    }


@pytest.mark.parametrize(
    "other",
    [
        {"onnx_sha256": "b" * 64},
        {"tensorrt": "11.3.0.99"},
        {"gpu": "NVIDIA H200"},
        {"compute_capability": "10.0"},
        {"patch": (128, 160, 128)},
        {"batch": 1},
        {"version_compatible": True},
    ],
    ids=lambda other: next(iter(other)),
)
def test_another_key_is_another_engine(cache, other):
    store(cache)
    foreign = replace(KEY, **other)
    assert cache.find(foreign) is None
    store(cache, foreign, b"another")
    assert (cache.find(KEY).engine, cache.find(foreign).engine) == (ENGINE, b"another")


def test_a_file_under_anothers_name_is_not_used_and_is_replaced(cache, told):
    other = store(cache, replace(KEY, gpu="NVIDIA H200"), b"another")
    ours = store(cache)
    ours.path.write_bytes(other.path.read_bytes())
    assert cache.find(KEY) is None
    assert told == [f"{ours.path.name} is not used: it holds the engine of another key"]
    assert store(cache).engine == ENGINE
    assert cache.find(KEY).engine == ENGINE


def regions(content):
    """A byte of everything that a file holds."""
    second = content.index(b"\n") + 1
    third = content.index(b"\n", second) + 1
    return {
        "magic": 0,
        "version": content.index(b" 1 ") + 1,
        "digest": second - 10,
        "first newline": second - 1,
        "header": second,
        "key": content.index(b"H100"),
        "record": content.index(b"0.9998") + 3,
        "length": content.index(b"10240"),
        "second newline": third - 1,
        "engine's start": third,
        "engine's middle": third + len(ENGINE) // 2,
        "engine's end": len(content) - 1,
    }


@pytest.mark.parametrize("region", list(regions(b"M 1 dddddddddddd\nH100 0.9998 10240\ne")))
@pytest.mark.parametrize("bit", [0x01, 0x80])
def test_a_flipped_bit_anywhere_makes_an_engine_absent_until_it_is_built_again(cache, told, region, bit):
    path = store(cache).path
    content = bytearray(path.read_bytes())
    content[regions(bytes(content))[region]] ^= bit
    path.write_bytes(content)
    assert cache.find(KEY) is None
    assert len(told) == 1
    assert told[0].startswith(f"{path.name} is not used: it")
    assert store(cache, engine=b"anew").engine == b"anew"
    assert cache.find(KEY).engine == b"anew"


@pytest.mark.parametrize("length", [0, 10, 50, 90, 300, 5000, -1])
def test_a_truncated_file_is_absent(cache, told, length):
    path = store(cache).path
    path.write_bytes(path.read_bytes()[:length])
    assert cache.find(KEY) is None
    assert len(told) == 1


def test_a_longer_file_is_absent(cache, told):
    path = store(cache).path
    path.write_bytes(path.read_bytes() + b"\0")
    assert cache.find(KEY) is None
    assert "bytes of" in told[0]


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_file_that_others_can_write_to_is_not_used_and_is_replaced(cache, told, mode):
    path = store(cache).path
    path.chmod(mode)
    assert cache.find(KEY) is None
    assert told == [f"{path.name} is not used: others can write to it"]
    store(cache, engine=b"anew")
    assert path.stat().st_mode & 0o777 == 0o600
    assert cache.find(KEY).engine == b"anew"


def test_a_symbolic_link_is_not_used_and_is_replaced(cache, told, tmp_path):
    path = store(cache).path
    elsewhere = path.rename(tmp_path / "elsewhere")
    path.symlink_to(elsewhere)
    before = elsewhere.read_bytes()
    assert cache.find(KEY) is None
    assert told == [f"{path.name} is not used: it is a symbolic link"]
    store(cache, engine=b"anew")
    assert not path.is_symlink()
    assert elsewhere.read_bytes() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_anothers_file_is_not_used(cache, told):
    os.chown(store(cache).path, 54321, -1)
    assert cache.find(KEY) is None
    assert "belongs to somebody else" in told[0]


def test_a_build_that_is_refused_keeps_nothing(cache, tmp_path):
    def refuse():
        raise FlareError("disagrees")

    with pytest.raises(FlareError, match="disagrees"):
        cache.find_or_build(KEY, refuse)
    assert cache.find(KEY) is None
    assert not list(tmp_path.glob("*.engine"))
    assert store(cache).engine == ENGINE  # the lock is free again


def test_an_engine_does_not_outlive_a_build_anew_that_is_refused(cache):
    def refuse():
        raise FlareError("disagrees")

    store(cache)
    assert cache.find_or_build(KEY, lambda: (b"anew", RECORD), anew=True).engine == b"anew"
    with pytest.raises(FlareError, match="disagrees"):
        cache.find_or_build(KEY, refuse, anew=True)
    assert cache.find(KEY) is None


def test_a_folder_that_is_gone_holds_nothing_and_takes_nothing(tmp_path):
    cache = EngineCache(tmp_path / "gone")
    assert cache.find(KEY) is None
    assert cache.find_runnable([KEY]) == []
    with pytest.raises(OutputError, match="cannot be opened"):
        store(cache)


# --- which engine a runtime takes


def runnable(cache, *, version=KEY.tensorrt, folds=(KEY.onnx_sha256,), **options):
    wanted = [replace(KEY, onnx_sha256=fold, tensorrt=version, batch=1) for fold in folds]
    return [engine.engine for engine in cache.find_runnable(wanted, **options)]


def test_an_engine_of_exactly_this_version_is_taken_before_a_compatible_one(cache):
    compatible = replace(KEY, version_compatible=True)
    store(cache, compatible, b"compatible")
    assert runnable(cache) == [b"compatible"]
    store(cache, KEY, b"exact")
    assert runnable(cache) == [b"exact"]
    assert runnable(cache, lean=True) == [b"compatible"]


@pytest.mark.parametrize(
    ("built", "runs", "found"),
    [
        ("11.4.0.106", "11.4.0.106", True),
        ("11.3.0.99", "11.4.0.106", True),
        ("11.4.0.106", "11.10.0.1", True),
        ("11.4.0.106", "11.3.0.99", False),
        ("11.10.0.1", "11.4.0.106", False),
        ("10.16.1.11", "11.4.0.106", False),
        ("11.4.0.106", "12.0.0.1", False),
    ],
)
@pytest.mark.parametrize("lean", [False, True])
def test_a_compatible_engine_runs_on_later_versions_of_its_major_version(cache, built, runs, found, lean):
    store(cache, replace(KEY, tensorrt=built, version_compatible=True))
    assert bool(runnable(cache, version=runs, lean=lean)) is found


def test_another_versions_engine_that_is_not_compatible_is_never_taken(cache):
    store(cache, replace(KEY, tensorrt="11.3.0.99"))
    assert runnable(cache) == []


def test_the_latest_compatible_engine_is_taken(cache):
    for version in ("11.9.0.1", "11.10.0.1", "11.2.0.1"):
        store(cache, replace(KEY, tensorrt=version, version_compatible=True), version.encode())
    assert runnable(cache, version="11.11.0.1") == [b"11.10.0.1"]


@pytest.mark.parametrize("other", [{"gpu": "NVIDIA H200"}, {"compute_capability": "8.9"}, {"patch": (64, 64, 64)}])
def test_engines_of_another_gpu_or_patch_are_never_taken(cache, other):
    store(cache, replace(KEY, version_compatible=True, **other))
    assert runnable(cache) == []


def test_the_largest_batch_that_fits_the_memory_is_taken(cache, told):
    for batch in (1, 2, 10):
        store(
            cache, replace(KEY, batch=batch), b"%d" % batch, msgspec.structs.replace(RECORD, memory_bytes=100 * batch)
        )
    assert runnable(cache) == [b"10"]
    assert runnable(cache, memory_bytes=1000) == [b"10"]
    assert not told
    assert runnable(cache, memory_bytes=999) == [b"2"]
    assert runnable(cache, memory_bytes=99) == []
    assert "take 1,000 bytes of 999" in told[0]


def test_all_folds_have_engines_of_one_batch_or_none_has(cache):
    folds = ("a" * 64, "b" * 64)
    store(cache, replace(KEY, onnx_sha256=folds[0], batch=4), b"first, 4")
    assert runnable(cache, folds=folds) == []
    store(cache, replace(KEY, onnx_sha256=folds[1], batch=2), b"second, 2")
    assert runnable(cache, folds=folds) == []
    store(cache, replace(KEY, onnx_sha256=folds[0], batch=2), b"first, 2")
    assert runnable(cache, folds=folds) == [b"first, 2", b"second, 2"]
    assert runnable(cache, folds=folds, memory_bytes=999) == []  # 500 each


def test_a_damaged_engine_gives_way_to_the_next_best(cache, told):
    store(cache, replace(KEY, version_compatible=True), b"compatible")
    path = store(cache).path
    path.write_bytes(path.read_bytes()[:-1])
    assert runnable(cache) == [b"compatible"]
    assert "cut short" in told[0]


def test_files_that_are_no_engines_are_passed_over(cache, told, tmp_path):
    (tmp_path / "notes.engine").write_text("shopping list\n\n")
    (tmp_path / "notes.engine").chmod(0o600)
    store(cache)
    assert runnable(cache) == [ENGINE]
    assert told == ["notes.engine is not used: it is no engine file"]
