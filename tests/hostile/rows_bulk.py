"""Rows: requests of many topics, and batches that are costly to look into.

Each is allowed, and each has a bound in time; test_bounded.py measures what other clients of the
same shard notice.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import cramjam

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages import incremental_alter_configs
from kafka_protocol.messages.create_partitions import (
    CreatePartitionsRequest,
    CreatePartitionsTopic,
)
from kafka_protocol.messages.delete_records import (
    DeleteRecordsPartition,
    DeleteRecordsRequest,
    DeleteRecordsTopic,
)
from kafka_protocol.messages.delete_topics import DeleteTopicsRequest, DeleteTopicState
from kafka_protocol.messages.describe_configs import (
    DescribeConfigsRequest,
    DescribeConfigsResource,
)
from kafka_protocol.messages.describe_log_dirs import (
    DescribableLogDirTopic,
    DescribeLogDirsRequest,
)
from kafka_protocol.messages.fetch import FetchPartition, FetchRequest, FetchTopic
from kafka_protocol.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsTopic,
)
from kafka_protocol.messages.offset_for_leader_epoch import (
    OffsetForLeaderEpochRequest,
    OffsetForLeaderPartition,
    OffsetForLeaderTopic,
)
from kafka_protocol.messages.produce import PartitionProduceData, ProduceRequest, TopicProduceData
from kafka_protocol.record_batch import RECORD_BATCH_OVERHEAD, Record, build_batch
from kafka_protocol.wire import write_varlong
from tests.hostile.rows_batches import batch, with_body
from tests.hostile.rows_data import ANSWERED, FETCHED, PRODUCED, list_offsets
from tests.hostile.rows_topics import DELETED, RESULT, TOPIC_ERROR, create, metadata, page, topic
from tests.hostile.table import CLOSE, Expect, Row, Values, asks
from tests.hostile.target import FIRST_MS, Target

TOPICS = 10_000
BULK_S = 20.0  # the deadline of such a request; on an idle machine they take 0.1 to 4 s
_TOPIC = 2  # resource type
_INFLATED_BYTES = 60 << 20
_UNKNOWN = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
_SOURCE = "wire.ITEMS_MAX, ARCHITECTURE.md: nothing holds the loop"
_LOOKS = "storage/timestamps.py"


def _names(target: Target) -> list[str]:
    prefix = target.new_name("bulk")
    return [f"{prefix}-{i}" for i in range(TOPICS)]


def _row(
    name: str, build: Callable[[Target], Any], version: int, values: Values, source: str = _SOURCE
) -> Row:
    return Row(name, asks(build, version), Expect((values,)), source, deadline_s=BULK_S)


def _produce(target: Target) -> ProduceRequest:
    data = [PartitionProduceData(0, memoryview(batch()))]
    topics = [TopicProduceData(name, partition_data=data) for name in _names(target)]
    return ProduceRequest(None, -1, 1_000, topics)


def _produce_to_one(target: Target) -> ProduceRequest:
    data = [PartitionProduceData(target.dump.here, memoryview(batch()))] * TOPICS
    return ProduceRequest(
        None, -1, 1_000, [TopicProduceData(target.dump.name, partition_data=data)]
    )


def _fetch(target: Target) -> FetchRequest:
    topics = [FetchTopic(name, partitions=[FetchPartition(0)]) for name in _names(target)]
    return FetchRequest(max_wait_ms=1_000, min_bytes=1, topics=topics)


def _fetch_one(target: Target) -> FetchRequest:
    wanted = [FetchPartition(target.topic.here, partition_max_bytes=1_000)] * TOPICS
    topics = [FetchTopic(target.topic.name, partitions=wanted)]
    return FetchRequest(max_wait_ms=1_000, min_bytes=1, topics=topics)


def _edit(target: Target) -> Any:
    configs = [incremental_alter_configs.AlterableConfig("retention.ms", 0, "1000")]
    resources = [
        incremental_alter_configs.AlterConfigsResource(_TOPIC, name, configs)
        for name in _names(target)
    ]
    return incremental_alter_configs.IncrementalAlterConfigsRequest(resources, True)


# -- what is inside a batch ----------------------------------------------------------------------


@cache
def tiny_records(count: int) -> bytes:
    """A batch of so many records without key or value, as a few kilobytes of zstd; its header
    promises a time that none of them has."""
    one = bytes(build_batch([(None, None)], timestamp_ms=FIRST_MS)[RECORD_BATCH_OVERHEAD:])
    return with_body(
        bytes(cramjam.zstd.compress(one * count)),
        attributes=4,
        max_timestamp=2**62,
        record_count=count,
        last_offset_delta=count - 1,
    )


@cache
def bomb(codec: str) -> bytes:
    """A batch of zeros that inflates to more than is looked into."""
    zeros = bytes(_INFLATED_BYTES + (8 << 20))
    attributes, data = {
        "gzip": (1, lambda: cramjam.gzip.compress(zeros, 9)),
        "lz4": (3, lambda: cramjam.lz4.compress(zeros)),
        "zstd": (4, lambda: cramjam.zstd.compress(zeros, 1)),
    }[codec]
    return with_body(bytes(data()), attributes=attributes, max_timestamp=2**62)


def odd_records(**fields: Any) -> bytes:
    """A batch of two records, with other values in its header than they go by."""
    rows = [Record(0, FIRST_MS, None, b"a", ()), Record(1, FIRST_MS + 5, None, b"b", ())]
    body = bytes(build_batch(rows)[RECORD_BATCH_OVERHEAD:])
    return with_body(body, record_count=2, last_offset_delta=1, **fields)


def far_offset() -> bytes:
    """A batch whose only record says that it is 2^62 offsets further on."""
    record = bytearray(b"\0\0")  # attributes, no later than the batch
    write_varlong(record, 2**62)
    record += b"\1\1\0"  # no key, no value, no headers
    body = bytearray()
    write_varlong(body, len(record))
    body += record
    return with_body(bytes(body), record_count=1, last_offset_delta=0)


def _searched(data: Callable[[], bytes], count: int, timestamp: int) -> Callable[[Target], Any]:
    """Ask for a time in a new partition that holds this batch so many times."""

    def build(target: Target) -> Any:
        holder = target.create_topic("searched")
        for _ in range(count):
            target.try_append(holder, data())
        return list_offsets(target, lambda _: holder, timestamp=timestamp)

    return build


_INSIDE: list[tuple[str, Callable[[], bytes], int]] = [
    ("gzip bombs", lambda: bomb("gzip"), 3),
    ("lz4 bombs", lambda: bomb("lz4"), 3),
    ("zstd bombs", lambda: bomb("zstd"), 3),
    ("millions of records", lambda: tiny_records(_INFLATED_BYTES // 7), 3),
    ("headers that promise a time", lambda: tiny_records(20_000), 20),
    ("noise", lambda: with_body(b"\x99" * 300, max_timestamp=2**62), 3),
    ("noise in place of gzip", lambda: with_body(b"\x99" * 300, attributes=1), 3),
    (
        "times beyond 2^63",
        lambda: odd_records(base_timestamp=2**63 - 1, max_timestamp=2**63 - 1),
        1,
    ),
    ("times below -2^63", lambda: odd_records(base_timestamp=-(2**63), max_timestamp=2**62), 1),
    ("a record far beyond its batch", far_offset, 1),
    (
        "a count far beyond its records",
        lambda: with_body(batch()[61:], record_count=900_000, last_offset_delta=899_999),
        1,
    ),
]

ROWS = [
    _row(
        "Metadata of 10,000 unknown topics",
        lambda t: metadata(*_names(t)),
        12,
        {"topics.#": TOPICS, TOPIC_ERROR: _UNKNOWN},
    ),
    _row(
        "Produce to 10,000 unknown topics", _produce, 9, {"responses.#": TOPICS, PRODUCED: _UNKNOWN}
    ),
    _row("Produce of 10,000 batches to one partition", _produce_to_one, 9, {PRODUCED: 0}),
    _row("Fetch of 10,000 unknown topics", _fetch, 12, {"responses.#": TOPICS, FETCHED: _UNKNOWN}),
    _row("Fetch of one partition 10,000 times", _fetch_one, 12, {FETCHED: 0}),
    _row(
        "ListOffsets of 10,000 unknown topics",
        lambda t: ListOffsetsRequest(
            -1, topics=[ListOffsetsTopic(n, [ListOffsetsPartition(0)]) for n in _names(t)]
        ),
        7,
        {"topics.#": TOPICS, ANSWERED: _UNKNOWN},
    ),
    _row(
        "DeleteRecords of 10,000 unknown topics",
        lambda t: DeleteRecordsRequest(
            [DeleteRecordsTopic(n, [DeleteRecordsPartition(0, 0)]) for n in _names(t)], 10_000
        ),
        2,
        {"topics.#": TOPICS, ANSWERED: _UNKNOWN},
    ),
    _row(
        "OffsetForLeaderEpoch of 10,000 unknown topics",
        lambda t: OffsetForLeaderEpochRequest(
            -2, [OffsetForLeaderTopic(n, [OffsetForLeaderPartition(0)]) for n in _names(t)]
        ),
        4,
        {"topics.#": TOPICS, ANSWERED: _UNKNOWN},
    ),
    _row(
        "CreateTopics of 10,000 topics, only checked",
        lambda t: create(*map(topic, _names(t))),
        7,
        {"topics.#": TOPICS},
    ),
    _row(
        "DeleteTopics of 10,000 unknown topics",
        lambda t: DeleteTopicsRequest([DeleteTopicState(n) for n in _names(t)], timeout_ms=10_000),
        6,
        {"responses.#": TOPICS, DELETED: _UNKNOWN},
    ),
    _row(
        "CreatePartitions of 10,000 unknown topics",
        lambda t: CreatePartitionsRequest(
            [CreatePartitionsTopic(n, 3) for n in _names(t)], 10_000, True
        ),
        3,
        {"results.#": TOPICS, RESULT: _UNKNOWN},
    ),
    _row(
        "DescribeTopicPartitions of 10,000 unknown topics",
        lambda t: page(*_names(t)),
        0,
        {"topics.#": TOPICS, TOPIC_ERROR: _UNKNOWN},
    ),
    _row(
        "DescribeConfigs of 10,000 unknown topics",
        lambda t: DescribeConfigsRequest([DescribeConfigsResource(_TOPIC, n) for n in _names(t)]),
        4,
        {"results.#": TOPICS, RESULT: _UNKNOWN},
    ),
    _row(
        "IncrementalAlterConfigs of 10,000 unknown topics",
        _edit,
        1,
        {"responses.#": TOPICS, DELETED: _UNKNOWN},
    ),
    _row(
        "DescribeLogDirs of 10,000 unknown topics",
        lambda t: DescribeLogDirsRequest([DescribableLogDirTopic(n, [0]) for n in _names(t)]),
        4,
        {"results.0.topics.#": 0},
    ),
    *(
        _row(
            f"ListOffsets {how} {what}", _searched(data, count, timestamp), 7, {ANSWERED: 0}, _LOOKS
        )
        for how, timestamp in (
            ("by a time that is not in", FIRST_MS + 10**9),
            ("of the largest time in", -3),
        )
        for what, data, count in _INSIDE
    ),
    Row(
        "Metadata of 100,001 topics",
        asks(lambda _: metadata(*["x"] * 100_001), 12),
        CLOSE,
        "wire.ITEMS_MAX",
    ),
    Row(
        "Metadata of 9 MiB",
        asks(lambda _: metadata(*["x" * 32_000] * 290), 12),
        CLOSE,
        "api.REQUEST_BYTES_MAX",
    ),
]
