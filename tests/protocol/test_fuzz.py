"""Any bytes give a message or one of two exceptions, in time and memory that are bounded."""

from __future__ import annotations

import random
import struct
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafka_protocol import frame, wire
from kafka_protocol.api import SUPPORTED
from kafka_protocol.closures import compile_decoder
from kafka_protocol.errors import DecodeError, UnsupportedVersion
from kafka_protocol.record_batch import iter_batches, iter_records
from kafka_protocol.schema import INT32, Array, F, message
from kafka_protocol.schema import struct as schema_struct
from tests.protocol.values import mutants, random_value

SERVED = [
    (spec.key, version)
    for spec in SUPPORTED.values()
    for version in range(spec.min_version, spec.max_version + 1)
]


def _request(data: bytes) -> None:
    try:
        frame.decode_request(memoryview(data))
    except (DecodeError, UnsupportedVersion):
        pass


def _response(api_key: int, version: int, data: bytes) -> None:
    try:
        frame.decode_response(api_key, version, memoryview(data))
    except DecodeError:
        pass


@given(data=st.binary(max_size=300))
def test_any_bytes_are_a_request_or_refused(data: bytes) -> None:
    _request(data)


@given(served=st.sampled_from(SERVED), body=st.binary(max_size=300))
def test_any_body_after_a_good_header_is_a_message_or_refused(
    served: tuple[int, int], body: bytes
) -> None:
    api_key, version = served
    _request(struct.pack(">hhih", api_key, version, 1, -1) + body)
    _response(api_key, version, body)


@given(api_key=st.integers(-32768, 32767), version=st.integers(-32768, 32767), rest=st.binary())
def test_any_api_key_and_version_are_a_message_or_refused(
    api_key: int, version: int, rest: bytes
) -> None:
    _request(struct.pack(">hhi", api_key, version, 1) + rest)


@pytest.mark.parametrize(("api_key", "version"), SERVED, ids=str)
def test_mutants_of_good_frames_are_a_message_or_refused(api_key: int, version: int) -> None:
    spec = SUPPORTED[api_key]
    rng = random.Random(f"{api_key}-{version}")
    for _ in range(3):
        request = random_value(spec.request, version, rng)
        whole = frame.encode_request(request, version, 1, "fuzz")[4:]
        for data in mutants(whole[10:], 40, rng):
            _request(whole[:10] + data)
        response = random_value(spec.response, version, rng)
        whole = b"".join(frame.encode_response(api_key, version, 1, response))[4:]
        for data in mutants(whole[4:], 40, rng):
            _response(api_key, version, whole[:4] + data)


@pytest.mark.parametrize("hostile", ["7fffffff", "7ffffffe", "feffffff0f", "ffffffff07"])
def test_hostile_counts_at_every_position_allocate_nothing(hostile: str) -> None:
    """A count of two thousand million wherever one may stand, in every request and response."""
    put = bytes.fromhex(hostile)
    rng = random.Random(hostile)
    frames = []
    for api_key, version in SERVED:
        spec = SUPPORTED[api_key]
        request = random_value(spec.request, version, rng)
        frames.append((None, frame.encode_request(request, version, 1, None)[4:200]))
        response = random_value(spec.response, version, rng)
        whole = b"".join(frame.encode_response(api_key, version, 1, response))
        frames.append(((api_key, version), whole[4:200]))
    for served, data in frames:  # compiles the closures, which is not what is measured
        _response(*served, data) if served else _request(data)
    tracemalloc.start()
    try:
        for served, data in frames:
            for pos in range(4 if served else 8, len(data)):
                bad = data[:pos] + put + data[pos + len(put) :]
                _response(*served, bad) if served else _request(bad)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000


def test_a_count_is_judged_by_the_smallest_size_of_its_items() -> None:
    """10,000 partitions of at least 8 bytes cannot lie in 40,000 bytes: refused at once."""
    topic = struct.pack(">ih1si", 1, 1, b"t", 10_000)
    body = struct.pack(">hhi", -1, 1, 1000) + topic + bytes(40_000)
    data = struct.pack(">hhih", 0, 3, 1, -1) + body
    with pytest.raises(DecodeError, match="10000 array items do not fit"):
        frame.decode_request(memoryview(data))


def test_an_array_of_items_without_bytes_cannot_be_declared() -> None:
    """Its count could not be judged by the bytes that remain, so the schema is refused."""

    @schema_struct
    class Empty:
        later: int = F(INT32, since=1)

    @message(api_key=0, kind="request", versions=(0, 1), flexible=2)
    class Hostile:
        items: list[Empty] = F(Array(Empty))

    with pytest.raises(TypeError, match="at least one byte"):
        compile_decoder(Hostile, 0)
    data = memoryview(struct.pack(">ii", 1, 5))
    assert compile_decoder(Hostile, 1)(data, 0) == (Hostile([Empty(5)]), 8)


@given(data=st.binary(max_size=400))
def test_any_bytes_are_batches_or_refused(data: bytes) -> None:
    try:
        for pos, header in iter_batches(data, 0, len(data)):
            list(iter_records(memoryview(data)[pos : pos + header.size_bytes], 10_000))
    except DecodeError:
        pass


@given(value=st.integers(0, 2**32 - 1))
def test_unsigned_varints_survive_a_round_trip(value: int) -> None:
    out = bytearray()
    wire.write_uvarint(out, value)
    assert wire.read_uvarint(memoryview(out), 0) == (value, len(out))


@given(value=st.integers(-(2**63), 2**63 - 1))
def test_zigzag_varints_survive_a_round_trip(value: int) -> None:
    out = bytearray()
    wire.write_varlong(out, value)
    assert wire.read_varlong(out, 0) == (value, len(out))


@pytest.mark.parametrize("data", ["80808080 8001", "ffffffff1f"])
def test_too_long_unsigned_varints_are_refused(data: str) -> None:
    with pytest.raises(DecodeError):
        wire.read_uvarint(memoryview(bytes.fromhex(data)), 0)


@pytest.mark.parametrize("data", ["80" * 10 + "01", "ff" * 9 + "02"])
def test_too_long_zigzag_varints_are_refused(data: str) -> None:
    with pytest.raises(DecodeError):
        wire.read_varlong(bytes.fromhex(data), 0)
