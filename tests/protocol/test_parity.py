"""The four hand-written functions equal the compiled closures of their schemas.

On every version: random values, and thousands of mutants of their bytes, for which both give the
same value or both refuse. Parity shows consistency only; test_oracle.py shows that it is Kafka's.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from kafka_protocol.closures import compile_decoder, compile_encoder
from kafka_protocol.frame import HAND_DECODERS, HAND_ENCODERS
from kafka_protocol.messages import fetch, produce
from kafka_protocol.schema import info_of
from kafka_protocol.wire import UNLIMITED
from tests.protocol.values import mutants, outcome, random_value


def _versions(classes: Any) -> list[tuple[type, int]]:
    ranges = ((cls, info_of(cls).versions) for cls in classes)
    return [(cls, version) for cls, (low, high) in ranges for version in range(low, high + 1)]


def _id(value: Any) -> str:
    return value.__name__ if isinstance(value, type) else f"v{value}"


@pytest.mark.parametrize(("cls", "version"), _versions(HAND_DECODERS), ids=_id)
def test_decoder_by_hand_agrees_with_its_schema_on_mutants(cls: Any, version: int) -> None:
    rng = random.Random(f"{cls.__name__}-{version}")
    by_hand = HAND_DECODERS[cls](version, UNLIMITED)
    compiled = compile_decoder(cls, version)
    encode = compile_encoder(cls, version)
    accepted = refused = 0
    for _ in range(12):
        value = random_value(cls, version, rng)
        out = bytearray()
        encode(out, value)
        assert outcome(by_hand, bytes(out)) == value
        assert outcome(compiled, bytes(out)) == value
        for data in mutants(bytes(out), 50, rng):
            expected = outcome(compiled, data)
            assert outcome(by_hand, data) == expected, data.hex()
            accepted += expected is not None
            refused += expected is None
    # Both kinds must be met, or the mutants prove little.
    assert accepted > 20
    assert refused > 20


@pytest.mark.parametrize(("cls", "version"), _versions(HAND_ENCODERS), ids=_id)
def test_encoder_by_hand_agrees_with_its_schema(cls: Any, version: int) -> None:
    rng = random.Random(f"{cls.__name__}-{version}")
    by_hand = HAND_ENCODERS[cls](version)
    compiled = compile_encoder(cls, version)
    for _ in range(100):
        value = random_value(cls, version, rng)
        out = bytearray(b"head")
        compiled(out, value)
        first = bytearray(b"head")
        parts = by_hand(first, value)
        assert parts[0] is first
        assert b"".join(parts) == out


@pytest.mark.parametrize("version", [4, 7, 11, 12, 13, 18])
def test_large_records_of_a_fetch_response_are_not_copied(version: int) -> None:
    pieces = [memoryview(bytes(700)), memoryview(b"x" * 9000)]
    lone = memoryview(b"y" * (fetch.COPIED_BYTES_MAX + 1))
    small = memoryview(b"z" * fetch.COPIED_BYTES_MAX)
    partitions = [
        fetch.PartitionData(partition_index=0, records=pieces),
        fetch.PartitionData(partition_index=1, records=small),
        fetch.PartitionData(partition_index=2, records=lone),
        fetch.PartitionData(partition_index=3, records=None),
        fetch.PartitionData(partition_index=4, records=[]),
    ]
    response = fetch.FetchResponse(
        responses=[fetch.FetchableTopicResponse("t", b"i" * 16, partitions)]
    )
    parts = fetch.response_encoder(version)(bytearray(), response)
    assert [part for part in parts if isinstance(part, memoryview)] == [*pieces, lone]
    assert any(part is pieces[1] for part in parts)
    assert any(part is lone for part in parts)
    out = bytearray()
    compile_encoder(fetch.FetchResponse, version)(out, response)
    assert b"".join(parts) == out


@pytest.mark.parametrize("version", [3, 9, 13])
def test_records_of_a_produce_request_are_slices_of_the_frame(version: int) -> None:
    frame = bytearray()
    data = produce.PartitionProduceData(0, memoryview(b"records"))
    request = produce.ProduceRequest(topic_data=[produce.TopicProduceData("t", b"i" * 16, [data])])
    compile_encoder(produce.ProduceRequest, version)(frame, request)
    for decode in (
        produce.request_decoder(version),
        compile_decoder(produce.ProduceRequest, version),
    ):
        decoded, _ = decode(memoryview(frame), 0)
        records = decoded.topic_data[0].partition_data[0].records
        assert records == b"records"
        assert records.obj is frame
