"""Compression: bounds on the output, snappy in both framings, bytes that are not of the codec."""

from __future__ import annotations

import gzip
import random
import struct
import time
import tracemalloc

import cramjam
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafka_protocol.compression import GZIP, LZ4, SNAPPY, ZSTD, compress, decompress
from kafka_protocol.errors import DecodeError

CODECS = [GZIP, SNAPPY, LZ4, ZSTD]
DATA = b"some text, some text, " * 5000


@pytest.mark.parametrize("codec", [0, *CODECS])
@pytest.mark.parametrize("data", [b"", b"x", DATA, random.Random(1).randbytes(200_000)])
def test_round_trip_with_the_exact_size_as_the_limit(codec: int, data: bytes) -> None:
    packed = compress(codec, data)
    assert bytes(decompress(codec, memoryview(packed), len(data))) == data


@pytest.mark.parametrize("codec", CODECS)
def test_an_output_above_the_limit_is_refused(codec: int) -> None:
    packed = compress(codec, DATA)
    for size_max in (0, 1, 1000, len(DATA) - 1):
        with pytest.raises(DecodeError):
            decompress(codec, packed, size_max)


@pytest.mark.parametrize("codec", CODECS)
def test_a_bomb_is_refused_within_the_limit(codec: int) -> None:
    bomb = compress(codec, bytes(30_000_000))
    with pytest.raises(DecodeError):
        decompress(codec, bomb, 1_000_000)


@pytest.mark.parametrize("codec", CODECS)
def test_truncated_bytes_are_a_decode_error(codec: int) -> None:
    packed = compress(codec, DATA)
    for size in (0, 1, 5, 20, len(packed) // 2, len(packed) - 1):
        if (codec, size) == (GZIP, 0):
            continue  # no member at all is an empty file
        with pytest.raises(DecodeError):
            decompress(codec, packed[:size], 1_000_000)


@pytest.mark.parametrize("codec", [*CODECS, 5, 7])
@given(data=st.binary(max_size=200))
def test_any_bytes_decompress_or_are_a_decode_error(codec: int, data: bytes) -> None:
    try:
        assert len(decompress(codec, data, 10_000)) <= 10_000
    except DecodeError:
        pass


@pytest.mark.parametrize("codec", CODECS)
def test_mutated_bytes_decompress_or_are_a_decode_error(codec: int) -> None:
    rng = random.Random(codec)
    packed = compress(codec, DATA[:3000])
    for _ in range(500):
        bad = bytearray(packed)
        for _ in range(rng.choice((1, 2, 5))):
            bad[rng.randrange(len(bad))] = rng.randrange(256)
        try:
            assert len(decompress(codec, bad, 50_000)) <= 50_000
        except DecodeError:
            pass


def test_snappy_is_written_in_xerial_framing_and_read_in_both() -> None:
    """The Java client frames its blocks, librdkafka sends one bare block."""
    framed = compress(SNAPPY, DATA)
    assert framed[:16] == b"\x82SNAPPY\x00" + struct.pack(">ii", 1, 1)
    bare = bytes(cramjam.snappy.compress_raw(DATA))
    assert decompress(SNAPPY, bare, len(DATA)) == DATA


def test_lz4_blocks_do_not_refer_to_earlier_ones() -> None:
    """Java's reader refuses frames whose flag for independent blocks is not set."""
    packed = compress(LZ4, DATA)
    assert packed[:4] == b"\x04\x22\x4d\x18"
    assert packed[4] & 0x20


def test_a_gzip_file_of_several_members_is_one_output() -> None:
    assert decompress(GZIP, gzip.compress(b"one,") + gzip.compress(b"two"), 7) == b"one,two"


def test_a_gzip_file_of_very_many_members_takes_time_in_proportion() -> None:
    """Empty ones of 20 bytes: to copy the rest after each took 6 s for these 4 MB."""
    members = 200_000
    started_s = time.process_time()
    assert decompress(GZIP, gzip.compress(b"", mtime=0) * members, 10) == b""
    assert time.process_time() - started_s < 3


@pytest.mark.parametrize("codec", [LZ4, ZSTD])
def test_bad_bytes_are_refused_without_room_for_the_largest_output(codec: int) -> None:
    bad = bytearray(compress(codec, random.Random(1).randbytes(300_000)))
    bad[:4] = b"????"
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError):
            decompress(codec, bad, 64 << 20)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_a_snappy_block_that_cannot_be_as_large_as_it_says_is_refused_at_once() -> None:
    with pytest.raises(DecodeError, match="a block of 14 bytes says that it has 63000000"):
        decompress(SNAPPY, b"\xc0\x9b\x85\x1e" + bytes(10), 64 << 20)


def test_an_unknown_codec_is_a_decode_error_or_our_mistake() -> None:
    with pytest.raises(DecodeError, match="codec 5"):
        decompress(5, b"", 10)
    with pytest.raises(ValueError, match="codec 5"):
        compress(5, b"")
