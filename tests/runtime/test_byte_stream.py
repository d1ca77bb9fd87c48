"""Plain and gzip-compressed bytes: all of them, or a named refusal."""

import gzip
import os
import struct
import zlib
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flare_runtime.errors import CaseError
from flare_runtime.imaging.byte_stream import DEFLATE_MAX_RATIO, ByteStream

BLOCK = 1 << 20


def random_bytes(count, seed=0):
    return np.random.default_rng(seed).bytes(count)


def read_all(path):
    with ByteStream(path) as stream:
        data = bytearray()
        while piece := stream.read(300_000):
            data += piece
        return bytes(data), [remark.code for remark in stream.remarks], stream.compressed


@pytest.fixture
def stored(tmp_path):
    def write(data, name="file.bin"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


def member_of_length(payload, length):
    """Return a gzip member of stored blocks, made exactly `length` bytes long by the file name in its header."""
    deflater = zlib.compressobj(0, zlib.DEFLATED, -15)
    body = deflater.compress(payload) + deflater.flush()
    name = b"n" * (length - 10 - 1 - len(body) - 8)
    trailer = struct.pack("<II", zlib.crc32(payload), len(payload))
    member = b"\x1f\x8b\x08\x08" + bytes(6) + name + b"\0" + body + trailer
    assert len(member) == length
    assert gzip.decompress(member) == payload
    return member


@pytest.mark.parametrize("count", [0, 1, 2, 1000, BLOCK, BLOCK + 1])
def test_plain_bytes_come_as_they_are(stored, count):
    data = random_bytes(count)
    assert read_all(stored(data)) == (data, [], False)


@pytest.mark.parametrize("count", [0, 1, 1000, 3 * BLOCK + 5])
def test_gzip_is_known_by_its_magic_bytes(stored, count):
    data = random_bytes(count)
    assert read_all(stored(gzip.compress(data), "no_suffix")) == (data, [], True)


def test_what_expands_a_thousandfold_is_decoded_in_pieces(stored):
    data = bytes(40 * BLOCK)
    packed = gzip.compress(data)
    assert len(data) / len(packed) > 900
    assert len(data) / len(packed) < DEFLATE_MAX_RATIO
    assert read_all(stored(packed)) == (data, [], True)


def test_several_members_are_one_stream(stored):
    pieces = [random_bytes(n, n) for n in (5, 0, 70_000, 1, 0)]
    assert read_all(stored(b"".join(map(gzip.compress, pieces)))) == (b"".join(pieces), [], True)


@pytest.mark.parametrize("past", [-2, -1, 0, 1, 2, 10])
def test_members_may_end_anywhere_about_a_read_blocks_end(stored, past):
    first, second = random_bytes(1_000_000), random_bytes(200_000, 1)
    packed = member_of_length(first, BLOCK + past) + gzip.compress(second)
    assert read_all(stored(packed)) == (first + second, [], True)


@pytest.mark.parametrize("past", [-1, 0, 1])
def test_the_last_member_may_end_anywhere_about_a_read_blocks_end(stored, past):
    data = random_bytes(1_000_000)
    assert read_all(stored(member_of_length(data, BLOCK + past))) == (data, [], True)


@pytest.mark.parametrize("garbage", [b"x", b"\x1f", b"garbage", bytes(512)])
def test_bytes_after_the_stream_are_remarked_upon(stored, garbage):
    assert read_all(stored(gzip.compress(b"image") + garbage)) == (b"image", ["trailing_bytes"], True)


@pytest.mark.parametrize("kept", [2, 5, 9, 10, 11, 500, -9, -8, -4, -1])
def test_a_stream_that_ends_early_is_truncated(stored, kept):
    packed = gzip.compress(random_bytes(1000))
    with pytest.raises(CaseError, match="ends early") as caught:
        read_all(stored(packed[:kept]))
    assert caught.value.reason == "truncated"


def test_a_second_member_that_ends_early_is_truncated(stored):
    with pytest.raises(CaseError) as caught:
        read_all(stored(gzip.compress(b"first") + gzip.compress(random_bytes(1000))[:-1]))
    assert caught.value.reason == "truncated"


@pytest.mark.parametrize("place", range(-8, 0))
def test_a_wrong_checksum_or_length_is_corrupt(stored, place):
    packed = bytearray(gzip.compress(random_bytes(1000)))
    packed[place] ^= 1
    with pytest.raises(CaseError, match="bad gzip data") as caught:
        read_all(stored(bytes(packed)))
    assert caught.value.reason == "corrupt"


def test_a_flipped_bit_in_the_data_is_corrupt(stored):
    packed = bytearray(gzip.compress(random_bytes(100_000), 0))
    packed[50_000] ^= 4
    with pytest.raises(CaseError) as caught:
        read_all(stored(bytes(packed)))
    assert caught.value.reason == "corrupt"


def test_draining_tests_the_checksum_and_counts_what_was_left(stored):
    packed = gzip.compress(random_bytes(1000))
    with ByteStream(stored(packed)) as stream:
        assert len(stream.read(300)) == 300
        assert stream.drain() == 700
        assert stream.read(10) == b""
    with ByteStream(stored(packed[:-8] + bytes(8))) as stream:
        with pytest.raises(CaseError) as caught:
            stream.drain()
        assert caught.value.reason == "corrupt"


def test_reading_into_memory_fills_what_there_is(stored):
    target = bytearray(10)
    with ByteStream(stored(gzip.compress(b"abcdef"))) as stream:
        assert stream.read_into(memoryview(target)) == 6
    assert target == b"abcdef\0\0\0\0"


@given(data=st.binary(max_size=2000), cuts=st.lists(st.integers(0, 2000), max_size=4), counts=st.integers(1, 700))
def test_any_members_read_in_any_pieces_give_the_bytes(tmp_path_factory, data, cuts, counts):
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    path = tmp_path_factory.getbasetemp() / "any.gz"
    path.write_bytes(b"".join(gzip.compress(data[a:b]) for a, b in pairwise(edges)))
    with ByteStream(path) as stream:
        got = b"".join(iter(lambda: stream.read(counts), b""))
    assert got == data


def test_a_pipe_that_comes_in_the_place_of_a_file_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "scan.nii"
    path.write_bytes(b"a file when it is looked at")
    real = os.open

    def open_another(name, flags):
        path.unlink()
        os.mkfifo(path)
        return real(name, flags)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", open_another)
        with pytest.raises(CaseError, match=r"scan\.nii: is a named pipe") as caught:
            ByteStream(path)
    assert caught.value.reason == "not_a_file"
