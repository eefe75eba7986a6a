"""The protocol over a bare socket: what no client library would send, or would hide."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from kafka_protocol.api import SUPPORTED
from kafka_protocol.api_key import ApiKey
from kafka_protocol.errors import ErrorCode
from kafka_protocol.frame import decode_response
from kafka_protocol.messages.api_versions import ApiVersionsRequest
from kafka_protocol.messages.describe_cluster import DescribeClusterRequest
from kafka_protocol.messages.init_producer_id import InitProducerIdRequest
from kafka_protocol.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsTopic,
)
from kafka_protocol.messages.metadata import MetadataRequest
from kafka_protocol.record_batch import RECORD_BATCH_OVERHEAD, build_batch
from tests.clients.broker import RunningBroker, wait_until
from tests.clients.records import FIRST_MS, MIB
from tests.clients.topics import create_topic
from tests.clients.wire_client import (
    WireClient,
    fetch_request,
    produce_request,
    stored_batches,
)

V = 9  # of Produce where the version does not matter
BATCH_BYTES_MAX = 1_048_588  # message.max.bytes
FRAME_BYTES_MAX = 100 * MIB


def batch_of(*values: bytes, **config: Any) -> bytearray:
    return build_batch([(None, value) for value in values], timestamp_ms=FIRST_MS, **config)


def produce(client: WireClient, topic: str, batch: bytearray, acks: int = -1) -> Any:
    """Produce one batch to partition 0; returns the partition's answer."""
    answer = client.ask(produce_request(topic, 0, batch, acks), V)
    return answer.responses[0].partition_responses[0]


def new_producer_id(client: WireClient) -> int:
    answer = client.ask(InitProducerIdRequest(None, 60_000), 4)
    assert answer.error_code == 0
    return int(answer.producer_id)


def end_offset(client: WireClient, topic: str) -> int:
    wanted = ListOffsetsTopic(topic, [ListOffsetsPartition(0, timestamp=-1)])
    answer = client.ask(ListOffsetsRequest(-1, topics=[wanted]), 5)
    return int(answer.topics[0].partitions[0].offset)


def test_a_retried_batch_is_answered_with_its_original_offset(broker: RunningBroker) -> None:
    topic = create_topic(broker)
    with WireClient(broker) as client, WireClient(broker) as other:
        identity = {"producer_id": new_producer_id(client), "producer_epoch": 0}
        batches = [batch_of(b"a", b"b", base_sequence=2 * i, **identity) for i in range(6)]
        for i, batch in enumerate(batches):
            assert produce(client, topic, batch).base_offset == 2 * i
        for i in (5, 1, 3):  # each of the last five, in any order, from any connection
            for connection in (client, other):
                again = produce(connection, topic, batches[i])
                assert (again.error_code, again.base_offset) == (0, 2 * i)
        assert end_offset(client, topic) == 12
        too_old = produce(client, topic, batches[0])
        assert too_old.error_code == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
        gap = produce(client, topic, batch_of(b"x", base_sequence=13, **identity))
        assert gap.error_code == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
        assert produce(client, topic, batch_of(b"x", base_sequence=12, **identity)).error_code == 0
        assert end_offset(client, topic) == 13


def test_two_producers_get_two_ids(broker: RunningBroker) -> None:
    with WireClient(broker) as client:
        assert len({new_producer_id(client) for _ in range(50)}) == 50


def test_acks_0_is_answered_with_nothing(broker: RunningBroker) -> None:
    topic = create_topic(broker)
    with WireClient(broker) as client:
        for i in range(10):
            client.send(produce_request(topic, 0, batch_of(b"%d" % i), 0), V, answered=False)
        answer = client.ask(MetadataRequest(None), 5)  # checks that this is the first answer
        assert answer.topics
        wait_until(lambda: end_offset(client, topic) == 10, "the records are durable")


def test_acks_0_that_fails_closes_the_connection(broker: RunningBroker) -> None:
    with WireClient(broker) as client:
        client.send(produce_request("no-such-topic", 0, batch_of(b"x"), 0), V, answered=False)
        assert client.is_closed_by_broker()


def test_unknown_acks_are_refused(broker: RunningBroker) -> None:
    topic = create_topic(broker)
    with WireClient(broker) as client:
        answer = produce(client, topic, batch_of(b"x"), acks=2)
        assert answer.error_code == ErrorCode.INVALID_REQUIRED_ACKS
        assert end_offset(client, topic) == 0


def mixed_requests(topic: str) -> list[tuple[Any, int]]:
    """Requests of many APIs: slow and fast ones, with answers large and small."""
    wanted = ListOffsetsTopic(topic, [ListOffsetsPartition(0, timestamp=-2)])
    return [
        (produce_request(topic, 0, batch_of(b"v" * 1_000), -1), V),
        (MetadataRequest(None), 12),
        (fetch_request(topic, 0, 0, max_wait_ms=100), 11),
        (ApiVersionsRequest("test", "1"), 3),
        (produce_request(topic, 0, batch_of(b"v" * 100_000), 1), 7),
        (InitProducerIdRequest(None, 60_000), 4),
        (ListOffsetsRequest(-1, topics=[wanted]), 7),
        (DescribeClusterRequest(), 0),
        (produce_request(topic, 0, batch_of(b"w"), -1), V),
        (fetch_request(topic, 0, 2, max_wait_ms=100), 12),
    ]


def test_pipelined_requests_are_answered_in_their_order(broker: RunningBroker) -> None:
    topic = create_topic(broker)
    with WireClient(broker) as client:
        requests = mixed_requests(topic) * 20
        client.socket.sendall(b"".join(client.encode(*request) for request in requests))
        answers = [client.receive() for _ in requests]
    assert [correlation_id for correlation_id, _ in answers] == list(range(1, len(requests) + 1))
    offsets = [
        answer.responses[0].partition_responses[0].base_offset
        for (request, _), (_, answer) in zip(requests, answers, strict=True)
        if type(request).__name__ == "ProduceRequest"
    ]
    assert offsets == list(range(60))


def test_a_frame_may_arrive_byte_by_byte(broker: RunningBroker) -> None:
    topic = create_topic(broker)
    with WireClient(broker) as client:
        requests = mixed_requests(topic)[:4] + mixed_requests(topic)[5:]
        for byte in b"".join(client.encode(*request) for request in requests):
            client.socket.sendall(bytes([byte]))
        assert [client.receive()[0] for _ in requests] == list(range(1, len(requests) + 1))


def test_frames_may_be_cut_anywhere(broker: RunningBroker) -> None:
    topic = create_topic(broker)
    with WireClient(broker) as client:
        requests = mixed_requests(topic)
        data = b"".join(client.encode(*request) for request in requests)
        for size in (3, 61, 997, 65_537):
            cut = [data[pos : pos + size] for pos in range(0, len(data), size)]
            for piece in cut if size > 61 else [*cut[:500], b"".join(cut[500:])]:
                client.socket.sendall(piece)
            for _ in requests:
                client.receive_frame()


@pytest.mark.parametrize("size", [-1, -(2**31), 0, 7, FRAME_BYTES_MAX + 1, 2**31 - 1])
def test_an_impossible_frame_size_closes_the_connection(broker: RunningBroker, size: int) -> None:
    with WireClient(broker) as client:
        client.socket.sendall(struct.pack(">i", size) + b"\0" * 16)
        assert client.is_closed_by_broker()


def test_another_protocol_closes_the_connection(broker: RunningBroker) -> None:
    for hello in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"):
        with WireClient(broker) as client:
            client.socket.sendall(hello + bytes(64))
            assert client.is_closed_by_broker()


UNSERVED = [
    (999, 0),  # no such API
    (ApiKey.FIND_COORDINATOR, 0),  # known, not served
    (ApiKey.FETCH, 3),
    (ApiKey.PRODUCE, 2),  # advertised, and yet refused
    (ApiKey.METADATA, 99),
]


@pytest.mark.parametrize(("api_key", "version"), UNSERVED)
def test_what_is_not_served_closes_the_connection(
    broker: RunningBroker, api_key: int, version: int
) -> None:
    with WireClient(broker) as client:
        header = struct.pack(">hhih4s", api_key, version, 7, 4, b"test")
        client.socket.sendall(struct.pack(">i", len(header)) + header)
        assert client.is_closed_by_broker()


def test_an_unknown_version_of_api_versions_is_answered_as_version_0(
    broker: RunningBroker,
) -> None:
    with WireClient(broker) as client:
        header = struct.pack(">hhih4s", ApiKey.API_VERSIONS, 127, 7, 4, b"test")
        frame = header + b"\0 a body that nobody can read"
        client.socket.sendall(struct.pack(">i", len(frame)) + frame)
        correlation_id, answer = decode_response(ApiKey.API_VERSIONS, 0, client.receive_frame())
        assert correlation_id == 7
        assert answer.error_code == ErrorCode.UNSUPPORTED_VERSION
        ranges = {item.api_key: (item.min_version, item.max_version) for item in answer.api_keys}
        assert ranges[ApiKey.API_VERSIONS] == (0, 4)
        retried = client.ask(ApiVersionsRequest("test", "1"), 4)  # on the same connection
        assert retried.error_code == 0
        assert {item.api_key for item in retried.api_keys} == set(SUPPORTED)


def test_the_largest_batch_fits_and_one_byte_more_does_not(broker: RunningBroker) -> None:
    topic = create_topic(broker)
    overhead = len(batch_of(bytes(1_000_000))) - 1_000_000
    value = bytes(BATCH_BYTES_MAX - overhead)
    with WireClient(broker) as client:
        largest = batch_of(value)
        assert len(largest) == BATCH_BYTES_MAX
        assert produce(client, topic, largest).base_offset == 0
        answer = produce(client, topic, batch_of(value + b"x"))
        assert answer.error_code == ErrorCode.MESSAGE_TOO_LARGE
        assert end_offset(client, topic) == 1
    assert stored_batches(broker, topic)[0].data[RECORD_BATCH_OVERHEAD:] == largest[61:]


def damaged_batches() -> dict[str, tuple[bytearray, ErrorCode]]:
    flipped = batch_of(b"value")
    flipped[-1] ^= 1
    old_format = batch_of(b"value")
    old_format[16] = 1
    return {
        "a flipped bit": (flipped, ErrorCode.CORRUPT_MESSAGE),
        "cut": (batch_of(b"value")[:-1], ErrorCode.INVALID_RECORD),
        "a header alone": (batch_of(b"value")[:40], ErrorCode.INVALID_RECORD),
        "two batches": (batch_of(b"1") + batch_of(b"2"), ErrorCode.INVALID_RECORD),
        "message format v1": (old_format, ErrorCode.INVALID_RECORD),
        "a control batch": (batch_of(b"value", control=True), ErrorCode.INVALID_RECORD),
    }


@pytest.mark.parametrize("damage", damaged_batches())
def test_a_damaged_batch_is_refused_and_leaves_no_trace(broker: RunningBroker, damage: str) -> None:
    topic = create_topic(broker)
    batch, error = damaged_batches()[damage]
    with WireClient(broker) as client:
        assert produce(client, topic, batch).error_code == error
        assert produce(client, topic, batch_of(b"sound")).base_offset == 0


def test_a_long_poll_is_answered_when_data_comes(broker: RunningBroker) -> None:
    topic = create_topic(broker)
    with WireClient(broker) as consumer, WireClient(broker) as producer:
        consumer.send(fetch_request(topic, 0, 0, max_wait_ms=600_000), 12)
        wait_until(lambda: broker.metrics()["rpk_fetch_waiters"] >= 1, "the long poll")
        assert produce(producer, topic, batch_of(b"news")).base_offset == 0
        answer = consumer.receive()[1]
        assert answer.session_id == 0
        assert answer.responses[0].partitions[0].high_watermark == 1
        assert len(answer.responses[0].partitions[0].records) > 0


def test_a_client_that_leaves_takes_its_long_poll_along(broker: RunningBroker) -> None:
    topic = create_topic(broker)
    waiting = broker.metrics()["rpk_fetch_waiters"]
    with WireClient(broker) as client:
        client.send(fetch_request(topic, 0, 0, max_wait_ms=600_000), 12)
        wait_until(lambda: broker.metrics()["rpk_fetch_waiters"] == waiting + 1, "the long poll")
    wait_until(lambda: broker.metrics()["rpk_fetch_waiters"] == waiting, "nobody waits")


def test_a_client_that_takes_no_replies_holds_up_only_itself(broker: RunningBroker) -> None:
    topic = create_topic(broker)
    with WireClient(broker) as client, WireClient(broker) as lazy:
        for _ in range(8):
            produce(client, topic, batch_of(bytes(MIB - 1_000)))
        for _ in range(100):  # 800 MiB of replies, which the broker must not hold in memory
            lazy.send(fetch_request(topic, 0, 0), 12)
        for i in range(20):
            assert produce(client, topic, batch_of(b"%d" % i)).error_code == 0
        assert broker.metrics()["rpk_reply_bytes"] <= 128 * MIB
        assert len(lazy.receive_frame()) > 8 * (MIB - 1_000)
