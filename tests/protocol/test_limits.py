"""A legal frame of tiny items costs little: items are counted over the message, frames are small.

The shapes here are the costly ones: names without bytes, null partitions, empty tagged fields.
"""

from __future__ import annotations

import random
import struct
from typing import Any, cast

import pytest

from kafka_protocol import frame, wire
from kafka_protocol.api import REQUEST_BYTES_MAX, SUPPORTED, ApiKey, request_bytes_max
from kafka_protocol.closures import compile_decoder, limited_decoder, tags_writer
from kafka_protocol.errors import DecodeError
from kafka_protocol.frame import HAND_DECODERS
from kafka_protocol.messages import create_topics, fetch, list_offsets, metadata, produce
from kafka_protocol.schema import info_of, specs_of
from kafka_protocol.wire import ITEMS_MAX
from tests.protocol.declared import REQUESTS
from tests.protocol.values import random_value

ROWS, COLUMNS = 250, 400  # an array of arrays: one item more than the limit for each row


def _uvarint(value: int) -> bytes:
    out = bytearray()
    wire.write_uvarint(out, value)
    return bytes(out)


def _decode(message: Any, version: int) -> Any:
    whole = memoryview(frame.encode_request(message, version, 1, None))
    return frame.decode_request(whole[4:])[1]


def _names(version: int, count: int) -> metadata.MetadataRequest:
    return metadata.MetadataRequest([metadata.MetadataRequestTopic(name="")] * count)


@pytest.mark.parametrize("version", [1, 9, 12])
def test_a_request_may_have_the_most_items_and_not_one_more(version: int) -> None:
    assert len(_decode(_names(version, ITEMS_MAX), version).topics) == ITEMS_MAX
    with pytest.raises(DecodeError, match="array items and tagged fields") as caught:
        _decode(_names(version, ITEMS_MAX + 1), version)
    assert str(ITEMS_MAX) in str(caught.value)
    assert caught.value.api_key == ApiKey.METADATA


def _nested(api_key: ApiKey) -> Any:
    """A request of which no array is long, but all of them together are."""
    match api_key:
        case ApiKey.PRODUCE:
            data = [produce.PartitionProduceData()] * COLUMNS
            return produce.ProduceRequest(
                topic_data=[produce.TopicProduceData(partition_data=data)] * ROWS
            )
        case ApiKey.FETCH:
            wanted = [fetch.FetchPartition()] * COLUMNS
            return fetch.FetchRequest(topics=[fetch.FetchTopic(partitions=wanted)] * ROWS)
        case ApiKey.CREATE_TOPICS:
            configs = [create_topics.CreatableTopicConfig()] * COLUMNS
            return create_topics.CreateTopicsRequest(
                [create_topics.CreatableTopic(configs=configs)] * ROWS
            )
        case _:
            partitions = [list_offsets.ListOffsetsPartition()] * COLUMNS
            topic = list_offsets.ListOffsetsTopic(partitions=partitions)
            return list_offsets.ListOffsetsRequest(topics=[topic] * ROWS)


@pytest.mark.parametrize(
    ("api_key", "version"),
    [
        *((ApiKey.PRODUCE, version) for version in (3, 9, 13)),
        *((ApiKey.FETCH, version) for version in (4, 12, 13)),
        *((ApiKey.CREATE_TOPICS, version) for version in (2, 5)),
        *((ApiKey.LIST_OFFSETS, version) for version in (1, 6)),
    ],
)
def test_items_are_counted_over_all_arrays_of_a_request(api_key: ApiKey, version: int) -> None:
    with pytest.raises(DecodeError, match="array items and tagged fields"):
        _decode(_nested(api_key), version)


def test_forgotten_topics_count_too() -> None:
    forgotten = fetch.ForgottenTopic("t", partitions=[0] * (ITEMS_MAX // 2))
    for version in (7, 12, 18):
        with pytest.raises(DecodeError, match="array items and tagged fields"):
            _decode(fetch.FetchRequest(forgotten_topics_data=[forgotten] * 2), version)


TAGS = _uvarint(ITEMS_MAX + 1) + b"\x63\x00" * (ITEMS_MAX + 1)  # number 99, no bytes


@pytest.mark.parametrize("api_key", [ApiKey.PRODUCE, ApiKey.FETCH, ApiKey.METADATA])
def test_tagged_fields_count_wherever_they_stand(api_key: ApiKey) -> None:
    version = SUPPORTED[api_key].max_version
    header = struct.pack(">hhih", api_key, version, 1, -1)
    data = frame.encode_request(SUPPORTED[api_key].request(), version, 1, None)[4:]
    body = data[len(header) + 1 :]
    assert data == header + b"\0" + body
    assert data.endswith(b"\0")
    for hostile in (header + TAGS + body, data[:-1] + TAGS):
        with pytest.raises(DecodeError, match="array items and tagged fields"):
            frame.decode_request(memoryview(hostile))


@pytest.mark.parametrize("version", [9, 13])
def test_tagged_fields_of_many_partitions_are_added_up(version: int) -> None:
    """Each partition has few of them: only the sum is too much."""
    few = 50
    partition = bytes(4) + b"\0" + _uvarint(few) + b"\x63\x00" * few
    name = bytes(16) if version >= 13 else b"\x02t"
    count = ITEMS_MAX // few
    topic = name + _uvarint(count + 1) + partition * count + b"\0"
    body = b"\0" + struct.pack(">hi", -1, 1000) + b"\x02" + topic + b"\0"
    hostile = struct.pack(">hhih", 0, version, 1, -1) + b"\0" + body
    with pytest.raises(DecodeError, match="array items and tagged fields"):
        frame.decode_request(memoryview(hostile))


def _items(value: Any, version: int, flexible: bool) -> int:
    """How many array items and tagged fields a value has on the wire, without asking a decoder."""
    if isinstance(value, list):
        return len(value) + sum(_items(each, version, flexible) for each in value)
    if not hasattr(value, "__specs__"):
        return 0
    total = 0
    for spec in specs_of(type(value)):
        if spec.tag is None and spec.active(version):
            total += _items(getattr(value, spec.name), version, flexible)
    if flexible:
        section, cls = bytearray(), cast(Any, type(value))
        tags_writer(cls, version)(section, value)
        total += wire.read_uvarint(memoryview(section), 0)[0]
    return total


@pytest.mark.parametrize(("cls", "version"), REQUESTS, ids=str)
def test_every_decoder_counts_the_same_items(cls: Any, version: int) -> None:
    """By hand or compiled: exactly the items of the message fit its limit, one fewer does not."""
    flexible = version >= info_of(cls).flexible
    rng = random.Random(f"{info_of(cls).api_key}-{version}")
    for _ in range(10):
        value = random_value(cls, version, rng)
        items = _items(value, version, flexible)
        data = memoryview(frame.encode_request(value, version, 1, None))
        body = data[4 + 10 + flexible :]
        makers: list[Any] = [lambda counts: limited_decoder(cls, version, counts)]
        if cls in HAND_DECODERS:
            makers.append(lambda counts: HAND_DECODERS[cls](version, counts))
        for make in makers:
            assert make(wire.limited_counts(items))(body, 0) == (value, len(body))
            if items:
                with pytest.raises(DecodeError, match="array items and tagged fields"):
                    make(wire.limited_counts(items - 1))(body, 0)


def test_a_limit_is_of_one_message_and_not_of_the_process() -> None:
    request = _names(9, ITEMS_MAX // 2 + 1)
    for _ in range(3):
        assert _decode(request, 9) == request


def test_a_response_is_not_limited() -> None:
    """The answer of the server that a client chose: a large cluster's has millions of items."""
    partitions = [metadata.MetadataResponsePartition(replica_nodes=[1, 2, 3])] * (ITEMS_MAX // 3)
    response = metadata.MetadataResponse(
        topics=[metadata.MetadataResponseTopic(name="t", partitions=partitions)]
    )
    data = b"".join(frame.encode_response(ApiKey.METADATA, 12, 1, response))
    assert frame.decode_response(ApiKey.METADATA, 12, memoryview(data)[4:]) == (1, response)
    assert compile_decoder(metadata.MetadataResponse, 12) is not None


def test_the_smallest_frame_that_is_counted_is_below_every_frame_limit() -> None:
    """Both limits are checked only in frames that may exceed the limit of items."""
    assert all((spec.request_bytes_max or 2**31) > ITEMS_MAX for spec in SUPPORTED.values())


def test_only_produce_may_send_as_much_as_the_broker_takes() -> None:
    assert request_bytes_max(ApiKey.PRODUCE) is None
    others = [key for key in SUPPORTED if key != ApiKey.PRODUCE]
    assert {request_bytes_max(key) for key in others} == {REQUEST_BYTES_MAX}
    for unknown in (-32768, -1, 999, 32767):
        assert request_bytes_max(unknown) == REQUEST_BYTES_MAX


@pytest.mark.parametrize("api_key", [key for key in SUPPORTED if key != ApiKey.PRODUCE], ids=str)
def test_a_request_larger_than_its_api_allows_is_refused_before_it_is_decoded(
    api_key: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = SUPPORTED[api_key].max_version
    data = frame.encode_request(SUPPORTED[api_key].request(), version, 1, None)[4:]
    padded = memoryview(data + bytes(REQUEST_BYTES_MAX + 1 - len(data)))
    with pytest.raises(DecodeError, match=r"after the end|null|ends inside"):
        frame.decode_request(padded[:-1])  # one byte less is read, and refused for what it is
    monkeypatch.setattr(frame, "limited_counts", None)  # no decoder is made
    with pytest.raises(DecodeError, match="REQUEST_BYTES_MAX") as caught:
        frame.decode_request(padded)
    assert caught.value.api_key == api_key


def test_a_produce_request_may_be_larger_than_any_other() -> None:
    data = produce.PartitionProduceData(0, memoryview(bytes(REQUEST_BYTES_MAX + 1)))
    request = produce.ProduceRequest(
        topic_data=[produce.TopicProduceData("t", partition_data=[data])]
    )
    for version in (3, 9):
        assert _decode(request, version) == request
