"""Compaction end to end: real clients read a compacted topic from its start, while it is compacted,
after crashes, and are told that a record has no key."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, Producer
from kafka.errors import InvalidRecordError  # type: ignore[import-not-found]

from tests.clients import via_confluent, via_kafka_python, via_kcat
from tests.clients.broker import RunningBroker, wait_until
from tests.clients.records import Rec
from tests.clients.topics import create_topic
from tests.clients.wire_client import stored_batches

KEYS = 20
INVALID_RECORD = 87
SETTINGS = {"log_cleaner_backoff_ms": 20}
CONFIGS = {
    "cleanup.policy": "compact",
    "segment.bytes": "131072",
    "min.cleanable.dirty.ratio": "0.01",
    "delete.retention.ms": "0",
}
Consume = Callable[[RunningBroker, str], list[tuple[int, Rec]]]
CONSUME: dict[str, Consume] = {
    "confluent": via_confluent.consume,
    "kafka-python": via_kafka_python.consume,
    "kcat": via_kcat.consume,
}


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RunningBroker]:
    """A broker that looks for what to compact all the time."""
    running = RunningBroker(tmp_path / "data", tmp_path / "broker.log", SETTINGS)
    try:
        yield running.start()
    finally:
        running.close()


def fill(broker: RunningBroker, topic: str, count: int, **config: object) -> dict[bytes, bytes]:
    """Values for few keys; the last ones."""
    producer = Producer({"bootstrap.servers": broker.address, "linger.ms": 1, **config})
    newest = {}
    for i in range(count):
        key, value = b"key %d" % (i * 7 % KEYS), b"%d" % i + bytes(3000)
        producer.produce(topic, value, key, partition=0)
        newest[key] = value
        if i % 10 == 0:
            producer.poll(0)
    assert producer.flush(20) == 0
    return newest


def compacted_to(broker: RunningBroker, topic: str, records_max: int) -> bool:
    return sum(stored.header.record_count for stored in stored_batches(broker, topic)) < records_max


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_every_client_sees_the_newest_of_each_key(broker: RunningBroker, codec: str) -> None:
    via_kcat.require_kcat()
    # Values compress to nothing: small segments, so that there are some.
    segment_bytes = "131072" if codec == "none" else "16384"
    topic = create_topic(broker, configs=CONFIGS | {"segment.bytes": segment_bytes})
    count = 600 if codec == "none" else 3000
    newest = fill(broker, topic, count, **{"compression.type": codec, "enable.idempotence": True})
    wait_until(lambda: compacted_to(broker, topic, count // 2), "the log was compacted")
    for _ in range(2):
        seen = {name: consume(broker, topic) for name, consume in CONSUME.items()}
        for name, records in seen.items():
            offsets = [offset for offset, _ in records]
            assert offsets == sorted(set(offsets)), name
            assert offsets[-1] == count - 1, name
            assert {rec.key: rec.value for _, rec in records} == newest, name
        broker.kill()
        broker.start()
    assert broker.log_events("warning", "error", "critical", "raw") == []


def test_deleted_keys_go_with_their_tombstones(broker: RunningBroker) -> None:
    topic = create_topic(broker, configs=CONFIGS)
    producer = Producer({"bootstrap.servers": broker.address})
    producer.produce(topic, b"a value", b"gone", partition=0)
    producer.produce(topic, None, b"gone", partition=0)
    assert producer.flush(20) == 0

    def is_gone() -> bool:
        fill(broker, topic, 100)  # what is newest is not compacted, so there must be more
        return b"gone" not in {rec.key for _, rec in via_confluent.consume(broker, topic)}

    wait_until(is_gone, "the tombstone went, too")


def test_consumers_that_read_while_it_is_compacted_miss_nothing(broker: RunningBroker) -> None:
    topic = create_topic(broker, configs=CONFIGS)
    ends_s = time.monotonic() + 4
    while time.monotonic() < ends_s:
        newest = fill(broker, topic, 150)
        for consume in (via_confluent.consume, via_kafka_python.consume):
            records = consume(broker, topic)
            assert {rec.key: rec.value for _, rec in records} == newest
    assert broker.metrics()["rpk_compactions_total"] >= 1


def test_clients_are_told_that_a_record_has_no_key(broker: RunningBroker) -> None:
    topic = create_topic(broker, configs=CONFIGS)
    errors: list[KafkaError] = []
    producer = Producer({"bootstrap.servers": broker.address})
    producer.produce(topic, b"v", partition=0, on_delivery=lambda error, _: errors.append(error))
    assert producer.flush(20) == 0
    assert [error.code() for error in errors] == [INVALID_RECORD]
    with pytest.raises(InvalidRecordError, match="has no key"):
        via_kafka_python.produce(broker, topic, [Rec(None, b"v")])
    assert via_kafka_python.produce(broker, topic, [Rec(b"k", b"v")]) == [0]
