"""Retention end to end: records expire under a consumer, by configs set at run time, for good."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from rpk_py.data_dir import file_system
from tests.clients.admins import BROKER, TOPIC, ConfluentAdmin
from tests.clients.broker import RunningBroker, wait_until
from tests.clients.topics import create_topic

HOUR_MS = 3_600_000
SETTINGS = {"log_retention_check_interval_ms": 50, "log_retention_ms": -1}


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RunningBroker]:
    """A broker that looks for expired records all the time."""
    running = RunningBroker(tmp_path / "data", tmp_path / "broker.log", SETTINGS, shards=2)
    try:
        yield running.start()
    finally:
        running.close()


def produce(broker: RunningBroker, topic: str, hours_ago: float, count: int, base: int) -> None:
    """Numbered records of one hour; each hour in a segment of its own, with segment.ms."""
    producer = Producer({"bootstrap.servers": broker.address, "acks": "all"})
    timestamp_ms = int(time.time() * 1000 - hours_ago * HOUR_MS)
    for number in range(base, base + count):
        producer.produce(topic, b"%d" % number, partition=0, timestamp=timestamp_ms)
    assert producer.flush(20) == 0


def consume(broker: RunningBroker, topic: str, offset: int, count: int) -> list[tuple[int, bytes]]:
    """(offset, value) of `count` records from an offset; where that is gone, from the start."""
    consumer = Consumer(
        {
            "bootstrap.servers": broker.address,
            "group.id": "nobody",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    consumer.assign([TopicPartition(topic, 0, offset)])
    found: list[tuple[int, bytes]] = []
    deadline_s = time.monotonic() + 20
    while len(found) < count and time.monotonic() < deadline_s:
        message = consumer.poll(1.0)
        if message is not None and message.error() is None:
            found.append((message.offset(), message.value()))
    consumer.close()
    return found


def start_of(broker: RunningBroker, topic: str) -> int:
    consumer = Consumer({"bootstrap.servers": broker.address, "group.id": "nobody"})
    low, _high = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=20)
    consumer.close()
    return int(low)


def segments(broker: RunningBroker, topic: str) -> list[int]:
    return sorted(int(path.stem) for path in (broker.data_dir / f"{topic}-0").glob("*.wal"))


def test_records_expire_and_a_kill_does_not_bring_them_back(broker: RunningBroker) -> None:
    assert file_system(broker.data_dir) != "tmpfs"
    topic = create_topic(broker, configs={"segment.ms": str(HOUR_MS // 2)})
    for hours_ago in (5, 4, 3, 2, 1):
        produce(broker, topic, hours_ago, 10, base=10 * (5 - hours_ago))
    assert segments(broker, topic) == [0, 10, 20, 30, 40]
    assert start_of(broker, topic) == 0
    with ConfluentAdmin(broker.address) as admin:
        admin.change_configs(TOPIC, topic, {"retention.ms": ("SET", str(int(2.5 * HOUR_MS)))})
    wait_until(lambda: start_of(broker, topic) == 30, "the old segments have expired")
    expected = [(number, b"%d" % number) for number in range(30, 50)]
    assert consume(broker, topic, 5, 20) == expected, "reset to the start"
    wait_until(lambda: segments(broker, topic) == [30, 40], "their files are gone")
    metrics = broker.metrics()
    assert metrics["rpk_deleted_segments_total"] == 3
    broker.kill()
    broker.start()
    assert start_of(broker, topic) == 30
    assert consume(broker, topic, 0, 20) == expected

    with ConfluentAdmin(broker.address) as admin:  # all of it, the active segment too
        admin.change_configs(TOPIC, topic, {"retention.ms": ("SET", "1")})
    wait_until(lambda: start_of(broker, topic) == 50, "everything has expired")
    with ConfluentAdmin(broker.address) as admin:
        admin.change_configs(TOPIC, topic, {"retention.ms": ("DELETE", "")})
    produce(broker, topic, 0, 3, base=50)
    broker.kill()
    broker.start()
    assert start_of(broker, topic) == 50
    assert consume(broker, topic, 50, 3) == [(n, b"%d" % n) for n in (50, 51, 52)]
    assert broker.log_events("error", "critical", "raw") == []


def test_the_brokers_own_retention_is_set_while_it_runs(broker: RunningBroker) -> None:
    limited = create_topic(broker)
    unlimited = create_topic(broker, configs={"retention.bytes": "-1"})
    with ConfluentAdmin(broker.address) as admin:
        for name in ("log.segment.bytes", "log.retention.bytes"):
            admin.change_configs(BROKER, "0", {name: ("SET", "65536")})
            admin.change_configs(BROKER, "1", {name: ("SET", "65536")})
    producer = Producer({"bootstrap.servers": broker.address, "acks": "all", "linger.ms": 0})
    for topic in (limited, unlimited):
        for _ in range(40):
            producer.produce(topic, bytes(8000), partition=0)
            assert producer.flush(20) == 0

    def size(topic: str) -> int:
        return sum(path.stat().st_size for path in (broker.data_dir / f"{topic}-0").glob("*.wal"))

    wait_until(lambda: size(limited) < 3 * 65536, "what is too much is gone")
    assert len(segments(broker, unlimited)) >= 5
    assert start_of(broker, unlimited) == 0
    assert 0 < start_of(broker, limited) < 40
