"""Requests and record batches of tests, with the fields that matter as arguments."""

from __future__ import annotations

from struct import pack_into
from typing import Any

from crc32c import crc32c

from kafka_protocol.messages.fetch import (
    FetchPartition,
    FetchRequest,
    FetchTopic,
    PartitionData,
)
from kafka_protocol.messages.produce import (
    PartitionProduceData,
    ProduceRequest,
    TopicProduceData,
)
from kafka_protocol.record_batch import Record, build_batch, iter_batches, iter_records

PRODUCE_VERSION = 9  # with topic names and flexible
FETCH_VERSION = 12  # likewise
BATCH_TIMESTAMP_MS = 1_600_000_000_000


def batch_of(*values: bytes, timestamp_ms: int = BATCH_TIMESTAMP_MS, **fields: Any) -> bytes:
    """One record batch with these values, without keys."""
    rows = [Record(i, timestamp_ms, None, value, ()) for i, value in enumerate(values)]
    return bytes(build_batch(rows, **fields))


def produce_request(
    topic: str | bytes, *batches: bytes | bytearray | None, index: int = 0, acks: int = -1
) -> tuple[ProduceRequest, int]:
    """A request to one partition, and the version to send it with (bytes: a topic id)."""
    records: Any = None if None in batches else b"".join(b for b in batches if b is not None)
    data = [PartitionProduceData(index, records)]
    if isinstance(topic, bytes):
        topics = [TopicProduceData("", topic, data)]
    else:
        topics = [TopicProduceData(topic, bytes(16), data)]
    request = ProduceRequest(None, acks, 30_000, topics)
    return request, 13 if isinstance(topic, bytes) else PRODUCE_VERSION


def fetch_request(
    topic: str | bytes,
    *offsets: int,
    max_wait_ms: int = 0,
    min_bytes: int = 1,
    max_bytes: int = 1 << 30,
    partition_max_bytes: int = 1 << 20,
    leader_epoch: int = -1,
    index: int = 0,
    isolation_level: int = 0,
) -> tuple[FetchRequest, int]:
    """A request for partitions `index`, `index`+1... of a topic from these offsets, and the
    version to send it with (bytes: a topic id)."""
    partitions = [
        FetchPartition(
            index + i,
            fetch_offset=offset,
            partition_max_bytes=partition_max_bytes,
            current_leader_epoch=leader_epoch,
        )
        for i, offset in enumerate(offsets)
    ]
    by_id = isinstance(topic, bytes)
    name, topic_id = ("", topic) if isinstance(topic, bytes) else (topic, bytes(16))
    request = FetchRequest(
        max_wait_ms=max_wait_ms,
        min_bytes=min_bytes,
        max_bytes=max_bytes,
        isolation_level=isolation_level,
        topics=[FetchTopic(name, topic_id, partitions)],
    )
    return request, 13 if by_id else FETCH_VERSION


def resummed(batch: bytearray) -> bytes:
    """A batch that was tampered with, with a CRC that holds."""
    pack_into(">I", batch, 17, crc32c(batch[21:]))
    return bytes(batch)


def records_of(answer: PartitionData) -> bytes:
    """The bytes of a partition's records in a decoded answer."""
    assert isinstance(answer.records, memoryview)
    return bytes(answer.records)


def values_of(answer: PartitionData) -> list[tuple[int, bytes | None]]:
    """(offset, value) of every record in a decoded answer."""
    data = records_of(answer)
    return [
        (record.offset, record.value)
        for pos, header in iter_batches(data, 0, len(data))
        for record in iter_records(data[pos : pos + header.size_bytes], 1 << 30)
    ]


def request_of(*topics: FetchTopic, max_wait_ms: int = 0, max_bytes: int = 1 << 30) -> FetchRequest:
    """A FetchRequest for these topics."""
    return FetchRequest(
        max_wait_ms=max_wait_ms, min_bytes=1, max_bytes=max_bytes, topics=list(topics)
    )


def asked(*rows: tuple[int, int]) -> list[FetchPartition]:
    """Partitions of a FetchTopic from (partition, offset) pairs."""
    return [
        FetchPartition(index, fetch_offset=offset, partition_max_bytes=1 << 20)
        for index, offset in rows
    ]


def partitions_of(response: Any) -> list[PartitionData]:
    """The answers for all partitions of a FetchResponse, in order."""
    return [partition for topic in response.responses for partition in topic.partitions]


BATCH = batch_of(bytes(1000))
KEYED = bytes(build_batch([(b"key", bytes(1000))], timestamp_ms=BATCH_TIMESTAMP_MS))
"""The same for compacted topics."""
